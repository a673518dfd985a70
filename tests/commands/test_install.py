"""The package as a stranger installs it: from its wheel, outside of the checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

from tests.tiny import ROOT

pytestmark = pytest.mark.ci


# A checkout on the path would be taken for the installed package.
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves folders beside the sources."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("capsjax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, cwd=folder, env=OUTSIDE)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_one_top_level_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"capsjax"}
    assert "capsjax/configs/digits.py" in names
    assert "capsjax/configs/sweeps/digits.py" in names
    assert "capsjax/py.typed" in names
    assert {"capsjax/explore/page.css", "capsjax/explore/pad.js"} <= set(names)


SNIPPET = """
import sys
import jax
from capsjax import dynamic_routing, predict_votes, squash
u = squash(jax.random.normal(jax.random.key(0), (32, 8)))
W = jax.random.normal(jax.random.key(1), (32, 10, 16, 8))
assert dynamic_routing(predict_votes(u, W)).v.shape == (10, 16)
assert "site-packages" in sys.modules["capsjax"].__file__
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An empty environment: its folder of programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    return folder / "bin"


def install(bin, requirement):
    constraints = str(ROOT / "constraints.txt")
    command = [str(bin / "python"), "-m", "pip", "install", "-q", "--no-compile", "-c", constraints]
    subprocess.run([*command, requirement], check=True, env=OUTSIDE)


def run(bin, *command, cwd):
    return subprocess.run(
        [str(bin / command[0]), *command[1:]],
        cwd=cwd,
        env={**OUTSIDE, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.long
def test_the_core_computes_and_the_extra_that_trains_is_named_and_enough(
    wheel, environment, tmp_path
):
    install(environment, str(wheel))
    done = run(environment, "python", "-c", SNIPPET, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(environment, "capsjax", "train", "--config=digits", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: ml_collections is not installed: pip install 'capsjax[train]'\n"

    install(environment, f"capsjax[train] @ file://{wheel}")
    workdir = f"--workdir={tmp_path / 'run'}"
    flags = ["--config=digits", "--config.train.epochs=1", workdir]
    done = run(environment, "capsjax", "train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    for command in ("evaluate", "visualize"):
        done = run(environment, "capsjax", command, workdir, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run(environment, "capsjax", "train", "--config=mnist", cwd=tmp_path)
    assert "tensorflow_datasets is not installed: pip install 'capsjax[tfds]'" in done.stderr
