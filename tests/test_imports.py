"""The architecture: an import points one way only, and some things are never imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import capsjax

ROOT = Path(__file__).resolve().parent.parent

# The rooms in the order of imports: a room imports from those before it in the order alone.
ORDER = [
    "notation registry",
    "products rounds windows data",
    "ops initializers losses metrics",
    "kernels pooling tasks",
    "routing",
    "layers testing",
    "models config",
    "training",
    "analysis",
    "plots",
    "runs",
    "sweeps",
    "reports",
    "benchmarks",
    "pretrained",
    "explore",
    "commands",
]
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms.split()}
# Rooms of the lowest levels that stand alone, but for the table of names.
LEAVES = {"data": {"registry"}, "plots": {"analysis"}}
NEVER = ("tensorflow", "experiments", "torch")
FLAGS = ("absl.flags", "absl.app", "ml_collections.config_flags")


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


def test_every_room_has_its_place_in_the_order():
    assert modules().keys() == LEVELS.keys()


def rooms_imported_by(room: str) -> set[str]:
    names = {name for path in modules()[room] for name in imports_of(path)}
    return {name.split(".")[1] for name in names if name.startswith("capsjax.")} - {room}


@pytest.mark.parametrize("room", sorted(LEVELS))
def test_imports_point_one_way(room):
    for target in rooms_imported_by(room) - {"__version__", "configs"}:
        assert LEVELS[target] < LEVELS[room], f"{room} imports {target}"


@pytest.mark.parametrize("room", sorted(LEAVES))
def test_some_rooms_import_next_to_nothing_of_the_others(room):
    assert rooms_imported_by(room) <= LEAVES[room]


@pytest.mark.slow
def test_nothing_but_its_command_imports_the_benchmark():
    assert {room for room in LEVELS if "benchmarks" in rooms_imported_by(room)} == {"commands"}


@pytest.mark.parametrize("room", sorted(LEVELS))
def test_no_module_imports_tensorflow_torch_or_scripts_when_it_is_imported(room):
    for path in modules()[room]:
        if path.name.startswith("torch_"):  # of the benchmark, and imported where PyTorch is
            continue
        for name in imports_of(path, top_level_only=True):
            assert not name.startswith(NEVER), f"{path} imports {name}"
            assert room == "commands" or not name.startswith(FLAGS), f"{path} imports {name}"


@pytest.mark.slow
def test_flax_is_imported_in_layers_models_and_as_a_type_in_training_only():
    users = {
        name for name, paths in modules().items() for p in paths if "flax.linen" in imports_of(p)
    }
    assert users == {"layers", "models", "training", "runs"}


def test_configs_import_only_what_describes_configs():
    for path in (ROOT / "configs").rglob("*.py"):
        allowed = ("ml_collections", "capsjax.config.", "capsjax.sweeps.", "pathlib.")
        assert all(name.startswith(allowed) for name in imports_of(path)), path


def test_jax_is_imported_when_it_is_needed():
    """It takes seconds, in which a command should already answer Ctrl-C."""
    program = (
        "import sys, capsjax.commands, capsjax.runs.interrupt; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_names_of_the_package_are_found_when_they_are_used():
    for name in capsjax.__all__:
        assert getattr(capsjax, name).__name__ == name
    assert capsjax.routing.make_routing is capsjax.make_routing
    assert set(capsjax.__all__) <= set(dir(capsjax))
    with pytest.raises(AttributeError, match="no attribute 'squish'"):
        capsjax.squish  # noqa: B018


@pytest.mark.ci
@pytest.mark.parametrize("module", ["capsjax", "capsjax.commands.train"])
def test_import_is_light(module):
    program = (
        f"import sys, {module}\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'sklearn', 'tensorboardX'}\n"
        "heavy |= {'pandas', 'scipy.stats'}  # of reports\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_files_stay_short():
    for folder in ("capsjax", "experiments", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 330, f"{path} has {lines} lines"
