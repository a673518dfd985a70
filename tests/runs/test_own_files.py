"""Files of a user's own: what they register is found again, and other code is refused."""

import json

import pytest

from capsjax import registry, routing
from capsjax.config.files import load_module
from capsjax.runs.files import WorkdirError
from capsjax.runs.own_files import (
    check_own_files,
    code_digest,
    load_own_files,
    record_own_files,
)
from tests.own_algorithm import CODE, FIELDS, KEY, forget


def test_the_file_is_recorded_with_its_hash_and_a_copy(own):
    file, run = own
    [entry] = json.loads((run / "own_files.json").read_text())["files"]
    assert (entry["kind"], entry["name"], entry["file"]) == (*KEY, str(file))
    assert (run / entry["copy"]).read_text() == CODE
    assert entry["sha256"].startswith((run / entry["copy"]).parent.name)


def test_a_run_that_names_none_has_no_record(own, tmp_path):
    record_own_files(tmp_path, {"model": {"routing": {"name": "dynamic"}}})
    assert not (tmp_path / "own_files.json").exists()


@pytest.mark.parametrize("fields", [{"a": ["x", ("fixed",)]}, {"loss_weights": {"fixed": 1.0}}])
def test_names_count_wherever_a_config_has_them(own, tmp_path, fields):
    record_own_files(tmp_path, fields)
    assert (tmp_path / "own_files.json").exists()


def test_another_program_finds_the_algorithm_in_the_file(own, caplog):
    _, run = own
    forget()
    load_own_files(run)
    assert routing.ROUTING["fixed"]().share == 0.5
    assert not caplog.records
    load_own_files(run)  # which changes nothing


@pytest.mark.parametrize("change", ["gone", "other code", "no Python"])
def test_where_the_file_is_gone_or_changed_the_copy_serves_and_a_line_reports_it(
    own, caplog, change
):
    file, run = own
    forget()
    if change == "gone":
        file.unlink()
    else:
        file.write_text(CODE.replace("0.5", "0.7") if change == "other code" else "def")
    load_own_files(run)
    assert routing.ROUTING["fixed"]().share == 0.5
    assert "is taken from its copy" in caplog.text
    assert ("is gone" if change == "gone" else "has other code now") in caplog.text


def test_without_file_and_copy_the_remedy_is_named(own):
    file, run = own
    forget()
    file.unlink()
    [copy] = run.glob("code/*/fixed.py")
    copy.write_text(CODE.replace("mean", "sum"))
    with pytest.raises(WorkdirError, match=r"is missing or damaged: put it back"):
        load_own_files(run)


def test_a_file_that_needs_others_which_are_gone_is_named(own):
    file, run = own
    forget()
    file.write_text("import nothing_here\n" + CODE)
    registry.OWN_FILES[KEY] = registry.OwnFile(file, file.read_bytes())
    record_own_files(run.parent, FIELDS)
    forget()
    with pytest.raises(WorkdirError, match=r"fixed\.py, which raises ModuleNotFoundError"):
        load_own_files(run.parent)


def test_an_algorithm_of_a_notebook_is_asked_for(own, tmp_path):
    registry.OWN_FILES[KEY] = None
    record_own_files(tmp_path, FIELDS)
    forget()
    with pytest.raises(WorkdirError, match="registered in no file, as in a notebook"):
        load_own_files(tmp_path)


@pytest.mark.parametrize("compare", [record_own_files, check_own_files])
def test_a_run_does_not_go_on_with_other_code(own, compare):
    file, run = own
    file.write_text(CODE.replace("mean", "sum"))
    load_module(file, "config_config")  # loaded again under another name, as flags do
    with pytest.raises(WorkdirError, match=r"not the one that .* began with.*Put it back"):
        compare(run, FIELDS)


def test_comments_and_the_config_in_the_same_file_may_change(own):
    file, run = own
    file.write_text(
        f"# A comment.\n{CODE}\n\ndef get_config():\n    return 1\n".replace("An alg", "My alg")
    )
    load_module(file, "config_config")
    record_own_files(run, FIELDS)
    [entry] = json.loads((run / "own_files.json").read_text())["files"]
    assert "# A comment." in (run / entry["copy"]).read_text()
    assert code_digest(CODE.encode()) == entry["code"]


def test_a_damaged_record_is_written_anew_at_a_start(own):
    _, run = own
    record = run / "own_files.json"
    record.write_text(record.read_text().replace("fixed", "fixes", 1))
    record_own_files(run, FIELDS)
    assert (run / "own_files.json.damaged").exists()
    assert json.loads(record.read_text())["files"][0]["name"] == "fixed"


def test_two_files_cannot_have_one_name(own, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(CODE)
    with pytest.raises(ValueError, match="there is a routing algorithm 'fixed' already"):
        load_module(other, "other")
