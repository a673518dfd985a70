"""Runs that start from the parameters of another: what is taken, what is recorded, and a resume."""

import shutil

import chex
import jax
import pytest

from capsjax.data import load_training
from capsjax.runs.checkpoint import Checkpoints
from capsjax.runs.files import WorkdirError
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from capsjax.runs.warm_start import read_warm_start
from capsjax.sweeps.grid import levels_of, make_sweep
from capsjax.sweeps.run import run_sweep
from capsjax.training.build import build
from tests.tiny import tiny_config, tiny_convnet_config

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of one epoch, whose best parameters are those after it."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    train_and_evaluate(tiny_config(train__epochs=1), workdir)
    return workdir


def like(config):
    training, _ = load_training(**config.data)
    built = build(config, training.image_shape, training.num_classes, len(training))
    return jax.eval_shape(lambda: built.init_state(0)), built


@pytest.mark.ci
def test_all_of_the_same_network_is_taken(first):
    state, built = like(tiny_config())
    found = read_warm_start(str(first), state)
    assert not found.missing
    begun = found.put_into(jax.jit(built.init_state)(5), built)
    chex.assert_trees_all_equal(begun.variables, load_predictor(first).variables)
    assert int(begun.step) == 0
    chex.assert_trees_all_equal_shapes_and_dtypes(begun, state)


def test_what_does_not_fit_is_named_with_both_shapes(first):
    config = tiny_config(model__class_caps__pose_size=5, model__decoder__hidden=(16, 3))
    found = read_warm_start(str(first), like(config)[0])
    layers = ("conv_layer", "primary_layer/conv")
    kernels = {f"params/{layer}/{name}" for layer in layers for name in ("kernel", "bias")}
    same_size = {"params/decoder_layer/hidden_0/bias", "params/decoder_layer/pixels/bias"}
    assert set(found.arrays) == kernels | same_size
    text = found.describe()
    assert f"starting from {first}, step 4: " in text
    assert "numbers (conv_layer, decoder_layer, primary_layer)" in text
    assert "params/class_layer/W (32×10×4×8 there, 32×10×5×8 here)" in text
    assert "not there" in text


def test_the_digest_is_that_of_the_arrays(first):
    whole, part = (
        read_warm_start(str(first), like(config)[0]).record
        for config in (tiny_config(), tiny_config(model__class_caps__pose_size=5))
    )
    assert len(whole["sha256"]) == 64
    assert whole["sha256"] == read_warm_start(str(first), like(tiny_config())[0]).record["sha256"]
    assert whole["sha256"] != part["sha256"]


def test_a_run_of_which_nothing_fits_or_that_is_missing_is_one_line(first, tmp_path):
    cases = [
        (tiny_convnet_config(init_from=str(first)), "nothing of that run fits this network, such"),
        (tiny_config(init_from=str(tmp_path / "none")), "init_from=.*none: no run in"),
    ]
    for config, message in cases:
        with pytest.raises(WorkdirError, match=message) as raised:
            train_and_evaluate(config, tmp_path / "run")
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "run").exists()


def test_a_sweep_refuses_it(first, tmp_path):
    base = tiny_config(init_from=str(first))
    sweep = make_sweep("warm", base, {"rate": levels_of("schedule.floor", (0.0,))}, num_seeds=1)
    with pytest.raises(ValueError, match="init_from is for single runs"):
        run_sweep(sweep, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.ci
def test_a_resume_does_without_the_other_run(first, tmp_path, capsys):
    other = shutil.copytree(first, tmp_path / "other")
    config = tiny_config(
        init_from=str(other),
        train__epochs=2,
        checkpoint__keep=9,
        # A state with more in it, and more random numbers.
        optimizer__name="lion",
        optimizer__clip_norm=1.0,
        schedule__learning_rate=1e-4,
        augment__rotation=15.0,
        augment__brightness=0.1,
        class_weights="balanced",
    )
    workdir = tmp_path / "run"
    summary = train_and_evaluate(config, workdir)
    assert "starting from" in capsys.readouterr().out
    assert summary["init_from"]["step"] == 4
    assert summary["init_from"]["sha256"]
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    start = load_predictor(workdir, "0").variables
    chex.assert_trees_all_equal(start, load_predictor(first).variables)
    last = load_predictor(workdir, "last").variables

    shutil.rmtree(other)
    (workdir / "summary.json").unlink()
    for step in checkpoints.steps():
        if step > 0:
            shutil.rmtree(workdir / "checkpoints" / str(step))
    again = train_and_evaluate(config, workdir)
    assert again["init_from"] == summary["init_from"]
    chex.assert_trees_all_equal(load_predictor(workdir, "last").variables, last)
    assert "starting from" not in capsys.readouterr().out
