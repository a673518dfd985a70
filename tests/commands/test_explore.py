"""capsjax explore: which networks it shows, and what it answers before there is a page."""

import shutil
import sys
from types import SimpleNamespace

import pytest

from capsjax.commands import explore
from capsjax.commands.extras import how_to_install
from capsjax.explore.server import bind
from capsjax.pretrained import FOLDERS
from tests import command_flags


@pytest.fixture
def named(monkeypatch):
    """Set the flags; loading is recorded in place of done."""
    loads = ("load_predictor", "load_exported", "load_pretrained")

    def name(*arguments):
        command_flags.give(monkeypatch, explore, *arguments)
        for load in loads:
            monkeypatch.setattr(explore, load, lambda *args, load=load: (load, *map(str, args)))
        return list(explore._predictors())

    return name


def test_without_a_run_it_shows_the_network_of_the_package(named):
    assert named() == [("mnist, which comes with capsjax", ("load_pretrained", "mnist"))]


def test_runs_are_given_twice_or_with_a_comma(named, tmp_path):
    a, b = f"{tmp_path}/a", f"{tmp_path}/b"
    expected = [(name, ("load_predictor", name, "best")) for name in (a, b)]
    assert named(f"--workdir={a}", f"--workdir={b}", "--checkpoint=best") == expected
    assert named(f"--workdir={a},{b}", "--checkpoint=best") == expected


def test_exported_networks_and_that_of_the_package_stand_beside_runs(named, tmp_path):
    shutil.copytree(FOLDERS["mnist"], tmp_path / "export")
    found = named(f"--workdir={tmp_path / 'export'}", "--pretrained=mnist")
    assert [load for _, (load, *_) in found] == ["load_exported", "load_pretrained"]


def test_three_networks_are_too_many(named):
    with pytest.raises(ValueError, match="there is room for 2 networks side by side"):
        named("--workdir=a,b", "--workdir=c")


@pytest.mark.parametrize("network", ["", "--pretrained=mnist", "--workdir=export"])
def test_a_checkpoint_is_refused_where_no_run_is_named(named, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDERS["mnist"], "export")
    arguments = [network] if network else []
    with pytest.raises(ValueError, match="--checkpoint is a flag for a run: give its folder as"):
        named("--checkpoint=best", *arguments)
    beside = named("--checkpoint=best", "--workdir=export", "--workdir=run")
    assert beside[1] == ("run", ("load_predictor", "run", "best"))


def test_a_busy_port_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace())
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        monkeypatch.setattr(explore, "FLAGS", SimpleNamespace(host="127.0.0.1", port=port))
        with pytest.raises(ValueError, match=rf"port {port} \(.*\): give another --port"):
            explore.main()


def test_the_extra_is_named_where_gradio_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        explore.main()
    line = "gradio is not installed: pip install 'capsjax[explore]'"
    assert how_to_install(missing.value) == line
