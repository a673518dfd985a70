"""The walk-through, executed from its first cell to its last, and as it is committed."""

import ast
import re

import nbformat
import pytest
from nbclient import NotebookClient

from capsjax.config import load_config, make_config
from capsjax.runs.workdir import flatten
from tests.tiny import ROOT

PATH = ROOT / "docs" / "walkthrough.ipynb"
# What configs/digits.py sets and a walk-through of a few epochs does not.
OF_LONG_RUNS = {"name", "train.epochs", "selection", "log.every_steps"}


def code_of(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def text_of(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def figures_of(notebook):
    """The cells with a figure, once for each, and the figures."""
    return [
        (name, output)
        for name, cell in code_of(notebook).items()
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def executed(committed, tmp_path_factory):
    """Executed anew, where nothing of the project lies; a cell that raises is an error here."""
    notebook = nbformat.from_dict(committed)
    for cell in code_of(notebook).values():
        cell.outputs, cell.execution_count = [], None
    folder = tmp_path_factory.mktemp("walkthrough")
    resources = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        NotebookClient(notebook, timeout=600, resources=resources).execute()
    assert not list(folder.iterdir()), "the notebook wrote files"
    return notebook


# zmq and its event loop warn of their own affairs, as they are started and stopped.
@pytest.mark.long
@pytest.mark.ci
@pytest.mark.filterwarnings("ignore")
def test_every_cell_runs_and_the_network_learns(executed, committed):
    assert [name for name, _ in figures_of(executed)] == [name for name, _ in figures_of(committed)]
    outputs = [output for cell in code_of(executed).values() for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"], "it warns"
    # 1,797 digits, of which 360 are for testing and 180 for validation.
    assert text_of(code_of(executed)["config"]).startswith("1257 images to train on, 180 to")
    assert " errors in 360 images" in text_of(code_of(executed)["test"])
    (accuracy,) = re.findall(r"test accuracy (\S+)%", text_of(code_of(executed)["test"]))
    assert 95 < float(accuracy) <= 100


def test_it_is_committed_as_it_ran(committed):
    nbformat.validate(committed)
    counts = [cell.execution_count for cell in code_of(committed).values()]
    assert counts == list(range(1, len(counts) + 1))
    assert len(figures_of(committed)) >= 12
    outputs = [output for cell in code_of(committed).values() for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("preset", ["paper", "authors", "keras", "notebook", "pytorch"])
def test_its_digits_are_those_of_configs(committed, preset):
    tree = ast.parse(code_of(committed)["config"].source)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {"make_config": make_config}
    exec(ast.unparse(function), names)
    shown = flatten(names["digits_config"](preset).to_dict())
    of_file = flatten(load_config(ROOT / "configs" / "digits.py", preset).to_dict())
    assert shown.keys() == of_file.keys()
    assert {name for name in shown if shown[name] != of_file[name]} <= OF_LONG_RUNS


def test_what_it_names_is_there(committed):
    text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(\.\./([^)]+)\)", text)
    scripts = re.findall(r"(?:configs|experiments)/[\w/]+\.py", text)
    assert links
    assert scripts
    for target in links + scripts:
        assert (ROOT / target).exists(), target
    fields = flatten(make_config().to_dict())
    for name in re.findall(r"--config\.([\w.]+)=", text):
        assert name in fields, name


def test_it_says_nothing_of_the_machine_that_it_ran_on(committed):
    text = PATH.read_text(encoding="utf-8")
    pictures = [output["data"]["image/png"] for _, output in figures_of(committed)]
    for picture in pictures:
        text = text.replace(picture.strip(), "")
    assert not re.findall(r"/(?:work|home|tmp|root|Users)/", text)
    assert PATH.stat().st_size < 900_000
