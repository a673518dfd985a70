"""The walk-through, executed from its first cell to its last, and as it is committed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).resolve().parent.parent / "docs" / "walkthrough.ipynb"


def code_of(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def text_of(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def figures_of(notebook):
    outputs = [output for cell in code_of(notebook).values() for output in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


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
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    assert not list(folder.iterdir()), "the notebook wrote files"
    return notebook


# zmq and its event loop warn of their own affairs, as they are started and stopped.
@pytest.mark.filterwarnings("ignore")
def test_every_cell_runs_and_the_network_learns(executed, committed):
    assert len(figures_of(executed)) == len(figures_of(committed))
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


def test_it_says_nothing_of_the_machine_that_it_ran_on(committed):
    text = PATH.read_text(encoding="utf-8")
    pictures = [output["data"]["image/png"] for output in figures_of(committed)]
    for picture in pictures:
        text = text.replace(picture.strip(), "")
    assert not re.findall(r"/(?:work|home|tmp|root|Users)/", text)
    assert PATH.stat().st_size < 900_000
