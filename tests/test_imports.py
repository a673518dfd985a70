"""The architecture: an import points one way only, and some things are never imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What a module may import of capsjax: the names before it in its line of descent.
LEAVES = ["registry", "files", "notation", "chunks"]
MAY_IMPORT = {
    "notation": [],
    "registry": [],
    "chunks": [],
    "files": [],
    "products": LEAVES,
    "ops": [*LEAVES, "products"],
    "windows": LEAVES,
    "pooling": [*LEAVES, "ops", "windows"],
    "conv": [*LEAVES, "products"],
    "compute": [*LEAVES, "products", "conv"],
    "initializers": LEAVES,
    "losses": LEAVES,
    "metrics": LEAVES,
    "routing": [*LEAVES, "ops", "products"],
    "layers": [*LEAVES, "ops", "compute", "conv", "initializers", "pooling", "routing"],
    "models": [*LEAVES, "ops", "compute", "conv", "initializers", "routing", "layers", "windows"],
    "data": LEAVES,
    "training": [*LEAVES, "compute", "data", "losses", "metrics", "models"],
    "compilation": [*LEAVES, "data"],
    "config": LEAVES,
    "devices": [],
    "checkpoint": [*LEAVES, "devices"],
    "writers": LEAVES,
    "workdir": [*LEAVES, "conv"],
    "progress": [],
    "interrupt": [],
    "figures": [],
    "statistics": [],
    "sweeps": [*LEAVES, "workdir"],
    "sweep_figures": ["figures", "statistics"],
    "predictor": [*LEAVES, "checkpoint", "compute", "training", "workdir"],
}
NEVER = ("tensorflow", "experiments", "absl.flags", "absl.app", "clu", "torch")


def imports_of(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[str, list[Path]]:
    """By first name below capsjax, its files."""
    files: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "capsjax").rglob("*.py")):
        files.setdefault(path.relative_to(ROOT / "capsjax").parts[0].removesuffix(".py"), [])
        files[path.relative_to(ROOT / "capsjax").parts[0].removesuffix(".py")].append(path)
    files.pop("__init__")
    return files


def test_every_module_has_its_place_in_the_order():
    assert modules().keys() == MAY_IMPORT.keys()


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_imports_point_one_way(module):
    for path in modules()[module]:
        for name in imports_of(path):
            if name.startswith("capsjax."):
                target = name.split(".")[1]
                assert target == module or target in MAY_IMPORT[module], f"{path} imports {name}"


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_the_library_imports_no_tensorflow_flags_or_scripts(module):
    for path in modules()[module]:
        for name in imports_of(path, top_level_only=True):
            assert not name.startswith(NEVER), f"{path} imports {name}"


def test_flax_is_imported_in_layers_models_and_as_a_type_in_training_only():
    users = {
        name for name, paths in modules().items() for p in paths if "flax.linen" in imports_of(p)
    }
    assert users == {"layers", "models", "training", "predictor"}


def test_configs_import_only_what_describes_configs():
    for path in (ROOT / "configs").rglob("*.py"):
        allowed = ("ml_collections", "capsjax.config.", "capsjax.sweeps.", "pathlib.")
        assert all(name.startswith(allowed) for name in imports_of(path)), path


def test_import_capsjax_is_light():
    program = (
        "import sys, capsjax\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'sklearn', 'tensorboardX'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_files_stay_short():
    for folder in ("capsjax", "experiments", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 330, f"{path} has {lines} lines"
