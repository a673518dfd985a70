"""The notebooks, executed from the first cell to the last, and as they are committed."""

import ast
import re

import nbformat
import pytest
from nbclient import NotebookClient

from capsjax.config import load_config, make_config
from capsjax.runs.workdir import flatten
from tests.tiny import ROOT

NOTEBOOKS = ("walkthrough", "variants", "own_data")
FIGURES = {"walkthrough": 13, "variants": 2, "own_data": 6}
# What configs/digits.py sets and a notebook of a few epochs does not.
OF_LONG_RUNS = {"name", "train.epochs", "selection", "log.every_steps"}


def path_of(name):
    return ROOT / "docs" / f"{name}.ipynb"


def code_of(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def markdown_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


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


@pytest.fixture(params=NOTEBOOKS)
def committed(request):
    return request.param, nbformat.read(path_of(request.param), as_version=4)


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Execute a notebook where nothing of the project lies; a cell that raises is an error."""

    def execute(name):
        notebook = nbformat.read(path_of(name), as_version=4)
        for cell in code_of(notebook).values():
            cell.outputs, cell.execution_count = [], None
        for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            folder = tmp_path / variable.lower()
            folder.mkdir()
            monkeypatch.setenv(variable, str(folder))
        folder = tmp_path / "empty"
        folder.mkdir()
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=600, resources=resources).execute()
        assert not list(folder.iterdir()), "the notebook wrote files"
        return notebook

    return execute


# zmq and its event loop warn of their own affairs, as they are started and stopped.
@pytest.mark.ci
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["walkthrough", "own_data", pytest.param("variants", marks=pytest.mark.long)]
)
def test_every_cell_runs_and_draws_what_is_committed(name, execute):
    executed, committed = execute(name), nbformat.read(path_of(name), as_version=4)
    assert [cell for cell, _ in figures_of(executed)] == [cell for cell, _ in figures_of(committed)]
    outputs = [output for cell in code_of(executed).values() for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"], "it warns"
    if name == "walkthrough":
        # 1,797 digits, of which 360 are for testing and 180 for validation.
        assert text_of(code_of(executed)["config"]).startswith("1257 images to train on, 180 to")
        (accuracy,) = re.findall(r"test accuracy (\S+)%", text_of(code_of(executed)["test"]))
        assert 95 < float(accuracy) <= 100
    if name == "own_data":
        (accuracy,) = re.findall(r"^accuracy (\S+)%", text_of(code_of(executed)["evaluate"]))
        assert 60 < float(accuracy) <= 100


def test_it_is_committed_as_it_ran(committed):
    name, notebook = committed
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_of(notebook).values()]
    assert counts == list(range(1, len(counts) + 1))
    assert len(figures_of(notebook)) >= FIGURES[name]
    outputs = [output for cell in code_of(notebook).values() for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_each_exercise_has_a_solution_that_runs_and_is_folded():
    notebook = nbformat.read(path_of("walkthrough"), as_version=4)
    numbers = re.findall(r"^\*\*Exercise (\d+)\.\*\*", markdown_of(notebook), re.MULTILINE)
    solved = re.findall(r"^\*\*(\d+)\.\*\*", markdown_of(notebook), re.MULTILINE)
    assert numbers == solved == [str(number) for number in range(1, len(numbers) + 1)]
    assert len(numbers) >= 5
    solutions = [cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
    assert [cell.id for cell in solutions] == [f"solution-{number}" for number in numbers]
    assert all(cell.metadata["jupyter"]["source_hidden"] for cell in solutions)
    assert all("assert" in cell.source for cell in solutions[:5])


def test_the_first_screen_has_a_picture_and_no_code_for_it():
    notebook = nbformat.read(path_of("walkthrough"), as_version=4)
    first, second, third = notebook.cells[:3]
    assert "## Why capsules?" in first.source
    assert "image/png" in second.outputs[0]["data"]
    assert len(second.source.splitlines()) <= 4
    assert "RESULTS.md" in third.source
    for name in NOTEBOOKS:
        for cell in code_of(nbformat.read(path_of(name), as_version=4)).values():
            assert "plt.subplots" not in cell.source, "figures are made in capsjax.plots"


@pytest.mark.parametrize("preset", ["paper", "authors", "keras", "notebook", "pytorch"])
@pytest.mark.parametrize("name", ["walkthrough", "variants"])
def test_its_digits_are_those_of_configs(name, preset):
    notebook = nbformat.read(path_of(name), as_version=4)
    tree = ast.parse(code_of(notebook)["config"].source)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {"make_config": make_config}
    exec(ast.unparse(function), names)
    shown = flatten(names["digits_config"](preset).to_dict())
    of_file = flatten(load_config(ROOT / "configs" / "digits.py", preset).to_dict())
    assert shown.keys() == of_file.keys()
    assert {name for name in shown if shown[name] != of_file[name]} <= OF_LONG_RUNS


def test_what_it_names_is_there(committed):
    _, notebook = committed
    text = markdown_of(notebook)
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    scripts = re.findall(r"(?:configs|experiments)/[\w/]+\.py", text)
    assert links
    for target in links:
        assert (ROOT / "docs" / target).exists(), target
    for target in scripts:
        assert (ROOT / target).exists(), target
    fields = flatten(make_config().to_dict())
    for name in re.findall(r"--config\.([\w.]+)=", text):
        assert name in fields, name


def test_it_says_nothing_of_the_machine_that_it_ran_on(committed):
    name, notebook = committed
    text = path_of(name).read_text(encoding="utf-8")
    pictures = [output["data"]["image/png"] for _, output in figures_of(notebook)]
    for picture in pictures:
        text = text.replace(picture.strip(), "")
    assert not re.findall(r"/(?:work|home|tmp|root|Users)/", text)
    assert path_of(name).stat().st_size < 900_000
