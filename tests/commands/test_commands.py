"""The program `capsjax`: its commands, its configs by name, and its messages."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from capsjax import commands
from capsjax.commands import command_line, extras, summary
from capsjax.commands import list as list_command
from capsjax.config import files, load_config
from capsjax.data import training_sizes
from capsjax.routing import ROUTING
from capsjax.runs import starts
from tests.tiny import ROOT, tiny_config


def capsjax(*arguments, cwd=ROOT):
    """The program in a process of its own."""
    program = "from capsjax.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, capture_output=True, text=True
    )


def test_every_command_is_a_module_with_flags_help_and_main():
    modules = {path.stem for path in (ROOT / "capsjax" / "commands").glob("[a-z]*.py")}
    assert modules - {"command_line", "extras", "messages"} == set(commands.COMMANDS)


def test_every_script_is_a_command():
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    assert scripts == set(commands.COMMANDS) - {
        "clean",
        "explore",
        "export",
        "list",
        "predict",
        "summary",
    }
    for name in scripts:
        text = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
        assert f'run("{name}")' in text


def test_without_a_command_it_lists_them(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["capsjax"])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    assert stop.value.code == 2
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in commands.COMMANDS)


def test_an_unknown_command_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["capsjax", "trian"])
    with pytest.raises(SystemExit, match="no command 'trian'; did you mean 'train'"):
        commands.main()


def test_the_command_that_is_recorded_can_be_typed_again(monkeypatch):
    typed = ["/usr/bin/capsjax", "sweep", "--config=sweeps/digits", "--workdir=my runs/a"]
    recorded = []

    def record(name, argv):
        recorded.append((name, argv, starts.program_command({})["command"]))

    monkeypatch.setattr(sys, "argv", list(typed))
    monkeypatch.setattr(command_line, "run", record)
    # Its thread would end this process at a later test's Ctrl-C.
    monkeypatch.setattr("capsjax.runs.interrupt.exit_at_ctrl_c", lambda: None)
    commands.main()
    ((name, argv, words),) = recorded
    assert (name, argv[1:], words) == ("sweep", typed[2:], typed)
    assert starts.typed_words(words, "sweep") == ["capsjax", *typed[1:]]


def test_the_configs_of_the_package_are_those_of_the_checkout():
    paths = [path for path in (ROOT / "configs").rglob("*.py") if path.stem != "__init__"]
    names = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in paths}
    assert set(files.config_names()) == names


@pytest.mark.parametrize("value", ["digits", "configs/digits.py", "digits.py"])
def test_a_config_is_found_by_name_anywhere(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _, preset = files.find_config(f"{value}:keras").rpartition(":")
    assert preset == "keras"
    assert load_config(Path(path), preset).name == "digits-keras"


def test_a_file_of_ones_own_comes_before_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text("")
    assert files.find_config("configs/digits.py") == "configs/digits.py"


def test_a_wrong_config_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="no config file 'digtis'; did you mean 'digits'"):
        files.find_config("digtis")


def test_another_file_than_a_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is no config file, which ends in \.py"):
        files.find_config(f"{tmp_path / 'config.json'}:paper")


def test_the_names_of_the_package_need_no_extra_before_they_are_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "capsjax.runs.exported", None)
    monkeypatch.delattr("capsjax.runs.exported", raising=False)
    names: dict = {}
    exec("from capsjax import *", names)
    with pytest.raises(ImportError, match=r"not installed: pip install 'capsjax\[train\]'"):
        names["load_exported"]("a")


def test_both_ways_to_write_the_flag_are_read():
    found = files.find_config("digits")
    assert command_line.find_configs(["train", "--config=digits"])[1] == f"--config={found}"
    assert command_line.find_configs(["train", "--config", "digits"])[2] == found
    assert command_line.find_configs(["train", "--config.seed=1"]) == ["train", "--config.seed=1"]


def test_what_is_not_installed_is_named_with_its_extra():
    missing = ModuleNotFoundError("No module named 'x'", name="torch")
    assert "torch is not installed: pip install 'capsjax[bench]'" in extras.how_to_install(missing)
    other = ModuleNotFoundError("No module named 'mine'", name="mine")
    assert extras.how_to_install(other) == "No module named 'mine'"


def test_every_package_of_an_extra_is_in_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = dict(setup["options.extras_require"])
    distributions = {"PIL": "pillow", "absl": "absl-py", "sklearn": "scikit-learn"}
    for package, extra in extras.EXTRAS.items():
        name = distributions.get(package, package).replace("_", "-")
        assert name in listed[extra].replace("_", "-"), package


def test_setup_cfg_lists_every_folder_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "capsjax").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(setup["options"]["packages"].split()) == packages | {
        "capsjax.configs",
        "capsjax.configs.sweeps",
    }


def test_the_workflow_tests_the_oldest_jax_that_setup_cfg_allows():
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    oldest = re.search(r"^    jax>=([\d.]+)$", setup, re.MULTILINE)[1]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert f'jax: "jax=={oldest}.0"' in workflow


def test_list_names_configs_and_routings(capsys):
    list_command.main()
    printed = capsys.readouterr().out
    assert "  digits\n" in printed
    assert "  dynamic: num_iterations, " in printed
    assert "  paper: small\n" in printed
    assert "  vb_capsules: smallnorb\n" in printed


def test_list_names_settings_that_a_config_has(capsys):
    list_command.main()
    lines = capsys.readouterr().out.splitlines()
    listed = lines[lines.index("routing algorithms and their settings:") + 1 :]
    settings = dict(line.strip().split(": ") for line in listed[: len(ROUTING)])
    assert settings.keys() == set(ROUTING)
    config = load_config("digits").model.routing
    for name, names in settings.items():
        assert set(names.split(", ")) == set(config.get(name, ())), name


def test_summary_counts_the_parameters_of_each_layer():
    lines = summary.describe(tiny_config(model__conv__features=16), timed=True).splitlines()
    rows = {line.split()[0]: line.split()[-1] for line in lines if line}
    # 3 x 3 x 1 x 16 weights and 16 biases.
    assert rows["conv_layer"] == "160"
    assert rows["class_layer"] == "10,240"  # 32 x 10 matrices of 4 x 8
    layers = ["conv_layer", "primary_layer", "class_layer", "readout_layer", "decoder_layer"]
    assert list(rows)[1:6] == layers
    assert "a training step of 32 images" in lines[-3]
    milliseconds = re.match(r"time of a step: ([\d.]+) ms, the best of 3 measurements", lines[-1])
    assert 0 < float(milliseconds[1]) < 10_000
    assert "an epoch has 4 steps, together 0:0" in lines[-1]


@pytest.mark.slow
def test_summary_draws_what_augmentation_makes_of_training_images():
    plain, turned = (
        np.asarray(summary.draw_augmented(tiny_config(augment__max_shift=0, **changes)))
        for changes in ({}, {"augment__rotation": 30.0})
    )
    # Eight classes, each beside nine versions, of 8x8 pixels with a border, enlarged.
    assert plain.shape == turned.shape == (8 * 10 * 6, 10 * 10 * 6, 3)
    tiles = [picture.reshape(8, 60, 10, 60, 3) for picture in (plain, turned)]
    assert (tiles[0] == tiles[0][:, :, :1]).all()
    np.testing.assert_array_equal(tiles[1][:, :, 0], tiles[0][:, :, 0])
    assert (tiles[1] != tiles[1][:, :, :1]).mean() > 0.2
    assert len(np.unique(tiles[0][:, :, 0].reshape(8, -1), axis=0)) == 8


def test_summary_needs_no_download(monkeypatch):
    monkeypatch.setattr("capsjax.data.load_part", lambda *_, **__: pytest.fail("reads data"))
    config = load_config(Path("configs/mnist.py"), "paper,small")
    assert training_sizes(**config.data) == ((28, 28, 1), 10, 55_000)
    config.data.train_size = 1_000
    assert training_sizes(**config.data).num_examples == 1_000


@pytest.mark.ci
def test_print_config_prints_all_fields_and_ends(tmp_path):
    done = capsjax("train", "--config=digits", "--config.seed=7", "--print_config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in done.stdout
    assert not list(tmp_path.iterdir()), "nothing is trained"


@pytest.mark.ci
def test_a_sweep_given_to_train_is_refused(tmp_path):
    done = capsjax("train", "--config=sweeps/digits", "--config.train.epochs=5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config is a sweep, not a config of one run")
