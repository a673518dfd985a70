"""Readouts: what makes a score of a class capsule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers.readout import make_readout
from capsjax.notation import Capsules
from capsjax.routing import ROUTING, DynamicRouting, call_routing

CAPSULES = Capsules(
    poses=jnp.array([[[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]]),
    activations=jnp.array([[0.1, 0.7, 0.2]]),
)


class Native(DynamicRouting):
    """An algorithm that is published with a readout of its own."""

    readout = "linear"


@pytest.mark.parametrize(
    ("name", "expected"), [("activation", [[0.1, 0.7, 0.2]]), ("length", [[5.0, 2.0, 0.0]])]
)
def test_scores(name, expected):
    scores = make_readout(name, DynamicRouting()).apply({}, CAPSULES)
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_the_linear_readout_is_shared_by_the_classes():
    readout = make_readout("linear", DynamicRouting())
    variables = readout.init(jax.random.key(0), CAPSULES)
    assert sum(x.size for x in jax.tree.leaves(variables)) == 3
    kernel = variables["params"]["linear"]["kernel"][:, 0]
    expected = CAPSULES.poses @ kernel
    np.testing.assert_allclose(readout.apply(variables, CAPSULES), expected, rtol=1e-5)


def test_auto_is_that_of_the_algorithm():
    assert type(make_readout("auto", DynamicRouting())) is type(make_readout("activation", None))
    assert type(make_readout("auto", Native())) is type(make_readout("linear", None))


@pytest.mark.parametrize("name", ["activation", "log_activation"])
def test_activations_that_are_all_one_are_not_read(name):
    with pytest.raises(ValueError, match=f"makes no activations.*'linear' or 'auto'.*'{name}'"):
        make_readout(name, ROUTING["inverted_attention"]())


@pytest.mark.ci
@pytest.mark.parametrize("name", ROUTING)
def test_an_algorithm_without_activations_is_read_by_its_poses(name):
    """Activations of 1 are the same for all classes: nothing could be learned from them."""
    routing = ROUTING[name]()
    learned = {
        each: jnp.ones(array.shape) for each, array in routing.learned_arrays(5, 3, 4, 4).items()
    }
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
    votes = jnp.asarray(rng.normal(size=(2, 5, 3, 4)), jnp.float32)
    activations = jnp.asarray(rng.uniform(0.5, 1.0, (2, 5)), jnp.float32)
    routed = call_routing(routing, votes, activations, learned, u=u)
    reads_poses = type(make_readout("auto", routing)) is not type(make_readout("activation", None))
    assert reads_poses == bool((routed.a == 1.0).all())


def test_an_unknown_readout_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"readout \(model.readout\) 'lenght'; did you mean 'len"):
        make_readout("lenght", DynamicRouting())


@pytest.mark.slow
def test_log_activations_are_logits_whose_softmax_is_the_activations():
    readout = make_readout("log_activation", DynamicRouting())
    scores = readout.apply({}, CAPSULES)
    np.testing.assert_allclose(jax.nn.softmax(scores), CAPSULES.activations, rtol=1e-5)
    dead = Capsules(CAPSULES.poses, jnp.zeros((1, 3)))
    gradient = jax.grad(lambda a: readout.apply({}, dead._replace(activations=a)).sum())
    assert np.isfinite(readout.apply({}, dead)).all()
    assert np.isfinite(gradient(dead.activations)).all()
