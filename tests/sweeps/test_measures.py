"""Measures of trained networks, and the sweep over algorithms that they are for."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from capsjax.analysis.calibration import expected_calibration_error, find_confidences
from capsjax.analysis.inspection import kind_of_scores, make_inspect
from capsjax.config import load_config
from capsjax.config.tagged import resolved
from capsjax.data import load_part
from capsjax.data.affine import warp_randomly
from capsjax.kernels.compute import Compute
from capsjax.layers.readout import make_readout
from capsjax.routing import ROUTING
from capsjax.runs.data_record import fingerprints, record_data
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from capsjax.runs.workdir import flatten
from capsjax.sweeps import measures, trials_of
from capsjax.training.build import build
from capsjax.training.population import structure_of
from tests.npz_digits import DIGITS
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny run, and its summary."""
    folder = tmp_path_factory.mktemp("measures") / "run"
    config = tiny_config(train__epochs=1, model__use_decoder=False)
    return folder, train_and_evaluate(config, folder)


@pytest.mark.ci
def test_measures_are_those_of_the_predictor(run, monkeypatch):
    folder, summary = run
    made = []
    monkeypatch.setattr(measures, "make_inspect", lambda *a: made.append(1) or make_inspect(*a))
    measured, again = measures.measure_runs([folder, folder])
    assert measured == again
    assert len(made) == 1, "networks of one structure share a program"
    assert measured["test"]["error"] == pytest.approx(summary["test"]["error"])

    test = load_part("digits", "test")
    predictor = load_predictor(folder)
    prediction = predictor.predict(warp_randomly(test.images, 0))
    wrong = prediction.labels != test.labels
    assert measured["affine"]["error"] == pytest.approx(wrong.mean())
    confidences = find_confidences(prediction.scores, "probability")
    expected = expected_calibration_error(confidences, ~wrong)
    assert measured["affine"]["calibration_error"] == pytest.approx(expected, abs=1e-3)

    c = np.asarray(predictor.look_inside(test.images)[1]["class_layer"]["couplings"], float)
    entropy = -np.sum(c * np.log(c), axis=-1).mean() / np.log(10)
    assert measured["entropies"] == {"class_layer": pytest.approx(entropy, rel=1e-4)}


@pytest.mark.ci
def test_batches_of_an_inspection_do_not_matter(run):
    predictor = load_predictor(run[0])
    images = load_part("digits", "test").images[:7]
    compute = Compute(**predictor.config.model.compute)
    one, three = (make_inspect(predictor.model, compute, size) for size in (7, 3))
    for whole, parts in zip(
        jax.tree.leaves(one(predictor.variables, images)),
        jax.tree.leaves(three(predictor.variables, images)),
        strict=True,
    ):
        assert whole.shape == parts.shape
        np.testing.assert_allclose(whole, parts, rtol=1e-4)


def test_networks_with_test_parts_of_their_own_are_measured_on_them(tmp_path, monkeypatch):
    # Without a test part: it is held out, in the way that `data.split` names.
    file = tmp_path / "own.npz"
    np.savez(file, images=DIGITS.images[:200], labels=DIGITS.labels[:200])
    configs, expected = {}, []
    for split in ("shuffled", "stratified", "shuffled"):
        folder = tmp_path / f"run {len(configs)}"
        folder.mkdir()
        config = tiny_config(data__name="npz", data__file=str(file), data__split=split)
        expected.append(load_part("npz", "test", file=str(file), split=split))
        record_data(folder, fingerprints(test=expected[-1]))
        configs[folder] = config
    networks = {folder: Network(config) for folder, config in configs.items()}
    monkeypatch.setattr(measures, "load_predictor", networks.__getitem__)
    monkeypatch.setattr(measures, "make_inspect", lambda *_: None)
    monkeypatch.setattr(measures, "_measure", lambda network, inspect, parts: parts)
    first, other, again = measures.measure_runs(list(configs))
    assert [each["test"].fingerprint() for each in (first, other, again)] == [
        each.fingerprint() for each in expected
    ]
    assert again is first, "the same part is read once"


class Network(NamedTuple):
    """A predictor, as far as its data are concerned."""

    config: ConfigDict
    model: None = None


def routing_trials(losses):
    return trials_of(load_config("sweeps/routing", losses))


@pytest.mark.slow
def test_scores_of_the_sweep_are_of_the_kind_that_its_losses_take():
    kinds = {}
    for trial in routing_trials("native"):
        model = build(trial.config, (28, 28, 1), 10, 5000).model
        kinds[trial.levels["algorithm"]] = kind_of_scores(model)
        make_readout(model.readout, model.routing)
    assert {name for name, kind in kinds.items() if kind == "logit"} == {
        "inverted_attention",
        "self",
        "heinsen_2019",
        "heinsen_2022",
    }


@pytest.mark.slow
@pytest.mark.parametrize("losses", ["native", "common"])
def test_the_sweep_has_every_algorithm_and_its_control_in_programs_of_their_own(losses):
    trials = routing_trials(losses)
    named = {trial.config.model.routing.name for trial in trials}
    # `uniform` is `dynamic` with its couplings held.
    assert named == set(ROUTING) - {"uniform"}
    arms = {(t.levels["algorithm"], t.levels["couplings"]) for t in trials}
    assert len(trials) == 9 * len(arms) == 171
    structures = {}
    for trial in trials:
        weights = trial.config.loss_weights.to_dict()
        assert sorted(weights.values()) == [0.0, 0.0, 0.0, 1.0]
        arm = trial.levels["algorithm"], trial.levels["couplings"]
        structure = structure_of(flatten(resolved(trial.config)))
        structures.setdefault(structure, set()).add(arm)
    assert all(len(arms) == 1 for arms in structures.values()), "its seconds are its own"
