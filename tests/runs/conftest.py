"""What several tests of runs share."""

import pytest

from capsjax.config.files import load_module
from capsjax.runs.own_files import record_own_files
from tests.own_algorithm import CODE, FIELDS, forget


@pytest.fixture
def own(tmp_path):
    """The file, registered, and the folder of a run that was begun with it."""
    file, run = tmp_path / "fixed.py", tmp_path / "run"
    run.mkdir()
    file.write_text(CODE)
    forget()
    load_module(file, "fixed")
    record_own_files(run, FIELDS)
    yield file, run
    forget()
