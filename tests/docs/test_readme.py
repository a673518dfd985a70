"""What README.md and the pages in docs/ show works as it stands there."""

import re
import sys

import jax
import numpy as np
import pytest

from capsjax import models, registry, routing
from capsjax.config import load_config
from capsjax.config.files import find_config
from capsjax.config.tagged import resolved
from capsjax.models import Model
from capsjax.runs.exported import program_of
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from capsjax.runs.workdir import flatten
from capsjax.sweeps import trials_of
from capsjax.sweeps.run import run_sweep
from tests.tiny import OVERRIDES, ROOT, tiny_config

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.fixture
def files_of_own(tmp_path, monkeypatch):
    """The files of docs/own_algorithm.md in a folder of their own; what they register is undone."""
    known, files = dict(routing.ROUTING), dict(registry.OWN_FILES)
    algorithm, _, sweep = blocks_of("docs/own_algorithm.md")
    (tmp_path / "weighted.py").write_text(algorithm)
    (tmp_path / "weighted_sweep.py").write_text(sweep)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    routing.ROUTING.clear()
    routing.ROUTING.update(known)
    registry.OWN_FILES.clear()
    registry.OWN_FILES.update(files)
    sys.modules.pop("weighted", None)


@pytest.mark.slow
def test_the_mathematics_by_hand():
    names = {}
    exec(blocks_of("README.md")[0], names)
    assert names["v"].shape == (10, 16)
    assert names["c"].shape == (1152, 10)


def test_the_network_that_comes_with_the_package_reads_a_one():
    names = {}
    exec(blocks_of("README.md")[1], names)
    assert names["prediction"].labels.tolist() == [1]
    assert names["prediction"].scores[0, 1] > 0.9


def made_tiny(config):
    with config.unlocked():
        base = config.get("base", config)
        base.update_from_flattened_dict({**OVERRIDES, "train.epochs": 1})
    return config


def test_an_algorithm_of_ones_own_is_one_file(files_of_own, tmp_path):
    config = made_tiny(load_config(files_of_own / "weighted.py"))
    summary = train_and_evaluate(config, tmp_path / "run")
    assert summary["num_parameters"] > 0
    assert resolved(config)["model"]["routing"] == {
        "name": "weighted",
        "weighted": {"temperature": 1.0},
    }
    with config.unlocked():
        config.model.routing.name = "dynamic"
    assert set(resolved(config)["model"]["routing"]) == {"name", "dynamic"}


@pytest.mark.slow
def test_what_is_wrong_with_it_is_printed_as_the_page_shows(files_of_own, capsys):
    algorithm, check, _ = blocks_of("docs/own_algorithm.md")
    page = PAGES["docs/own_algorithm.md"].replace("\n    ", "\n")
    exec(check, {})
    assert "\n".join(capsys.readouterr().out.splitlines()[:2]) in page
    sys.modules.pop("weighted")
    wrong = algorithm.replace("self.temperature)", "self.temperature, axis=0)")
    (files_of_own / "weighted.py").write_text(wrong)
    exec(check, {})
    assert "\n".join(capsys.readouterr().out.splitlines()[:5]) in page


@pytest.mark.ci
def test_it_is_swept_and_its_temperature_is_data_of_one_program(files_of_own, tmp_path, capsys):
    sweep = made_tiny(load_config(files_of_own / "weighted_sweep.py"))
    with sweep.unlocked():
        sweep.num_seeds = 1
    assert len(trials_of(sweep)) == 4, "three temperatures, and dynamic routing once"
    statuses = run_sweep(sweep, tmp_path / "sweep")
    assert [status.name for status in statuses] == ["finished"] * 4
    populations = list((tmp_path / "sweep" / "populations").iterdir())
    assert len(populations) == 2, "one for each algorithm"


@pytest.mark.ci
def test_a_network_of_ones_own_in_linen_and_nnx():
    # That of the newest flax does not go with the oldest jax.
    nnx = pytest.importorskip("flax.nnx", exc_type=ImportError)
    names = {}
    for block in blocks_of("docs/own_network.md"):
        if "register(" not in block:
            exec(block, names)
    assert names["lengths"].shape == (2, 10)
    assert isinstance(names["model"], nnx.Module)
    assert len(jax.tree.leaves(names["variables"]["params"])) == 6
    for losses in (names["losses"], names["nnx_losses"]):
        assert losses[-1] < 0.9 * losses[0]
    assert names["capsules"].poses.shape == (2, 32, 16)


@pytest.mark.ci
def test_a_network_of_ones_own_is_one_file_that_commands_find_again(tmp_path):
    [text] = [block for block in blocks_of("docs/own_network.md") if "register(" in block]
    file, run = tmp_path / "two_levels.py", tmp_path / "run"
    file.write_text(text)
    config = load_config(file)
    with config.unlocked():
        changes = {"model.width": 8, "train.epochs": 1, "data.train_size": 128}
        config.update_from_flattened_dict(changes)
    summary = train_and_evaluate(config, run)
    assert isinstance(models.MODELS["two_levels"]((28, 28, 1), 10, task=None, compute={}), Model)
    del models.MODELS["two_levels"], registry.OWN_FILES["model", "two_levels"]
    predictor = load_predictor(run)
    program = jax.export.deserialize(program_of(predictor))
    assert program.call(np.zeros((3, 8, 8, 1), np.float32))["scores"].shape == (3, 10)
    del models.MODELS["two_levels"], registry.OWN_FILES["model", "two_levels"]
    assert predictor.predict(np.zeros((2, 8, 8, 1), np.uint8)).poses.shape == (2, 10, 16)
    assert "couplings" in predictor.look_inside(np.zeros((1, 8, 8, 1), np.uint8))[1]["class_layer"]
    assert sum(x.size for x in jax.tree.leaves(predictor.variables)) == summary["num_parameters"]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_it_names_are_there(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (folder / target).exists(), target
    for config in re.findall(r"--config=([\w/]+(?:\.py)?)", PAGES[page]):
        if not config.startswith(("weighted", "two_levels")):
            assert find_config(config), config


@pytest.mark.parametrize("page", PAGES)
def test_fields_that_it_names_are_there(page):
    of_sweep = flatten(load_config("sweeps/digits").to_dict())
    known = {
        *flatten(tiny_config().to_dict()),
        *of_sweep,
        "model.routing.weighted.temperature",
        "model.width",
    }
    for field in re.findall(r"--config\.([\w.]+)=", PAGES[page]):
        assert field in known, field


def test_no_paragraph_is_long():
    for page, text in PAGES.items():
        for paragraph in text.split("\n\n"):
            if not paragraph.lstrip().startswith(("|", "```", "    ", "-", "!")):
                assert len(paragraph.split()) <= 90, f"{page}: {paragraph[:60]}"
