"""What the scores of a network are called, and which of its predictions are most confident."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from capsjax.analysis.inspection import make_inspect, most_confident_first, name_scores
from capsjax.kernels.compute import Compute
from capsjax.routing import make_routing
from capsjax.training.build import build
from tests.tiny import tiny_config

# The highest score is that of the second example, the highest softmax that of the first.
SCORES = np.array([[0.4, -0.4], [0.9, 0.8]])
# Their lengths are the scores, but for a sign.
POSES = SCORES[:, :, np.newaxis] * [0.6, 0.8]


def model(readout, algorithm="dynamic"):
    return SimpleNamespace(readout=readout, routing=make_routing(algorithm))


NOT_KNOWN = model("one_of_a_user")
NO_CAPSULES = SimpleNamespace()


@pytest.mark.parametrize(
    ("network", "poses", "name"),
    [
        (model("length"), POSES, "lengths"),
        (model("auto"), POSES, "lengths"),
        (model("auto", "em"), 2 * POSES, "activations"),
        (model("auto", "em"), None, "activations"),
        (model("linear"), POSES, "logits"),
        (model("log_activation", "em"), POSES, "logits"),
        (NO_CAPSULES, None, "logits"),
        (NOT_KNOWN, POSES, "scores"),
    ],
)
def test_the_name_of_scores(network, poses, name):
    assert name_scores(network, abs(SCORES), poses) == name


@pytest.mark.parametrize(
    ("network", "order"),
    [
        (model("length"), [1, 0]),
        (model("linear"), [0, 1]),
        (NO_CAPSULES, [0, 1]),
        (NOT_KNOWN, [1, 0]),
    ],
)
def test_the_confidence_is_that_of_the_kind_of_scores(network, order):
    assert most_confident_first(network, SCORES).tolist() == order
    assert most_confident_first(network, SCORES[:0]).tolist() == []


@pytest.mark.slow
def test_a_layer_of_one_type_has_no_entropy_of_its_couplings():
    one = {"types": (1,), "pose_size": (4,), "kernel_size": (1,), "stride": (1,)}
    config = tiny_config(**{f"model__conv_caps__{name}": value for name, value in one.items()})
    built = build(config, (8, 8, 1), 10, 128)
    variables = jax.jit(built.init_state)(0).variables
    inspect = make_inspect(built.model, Compute())
    entropies = inspect(variables, np.zeros((2, 8, 8, 1), np.uint8)).entropies
    assert set(entropies) == {"class_layer"}
    assert np.isfinite(entropies["class_layer"]).all()
