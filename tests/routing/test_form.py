"""The form of a routing algorithm: small fakes in the shape of the algorithms that are to come.

None is the published algorithm. Each has its inputs, outputs and learned arrays, and shows that a
layer hands them over without a change of form.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from capsjax.layers import ConvCaps, DenseCaps
from capsjax.layers.norms import NORMS
from capsjax.layers.votes import MatrixVotes
from capsjax.notation import Capsules, LearnedArray, Routed
from capsjax.ops import safe_norm
from capsjax.routing import call_routing
from capsjax.routing.competition import DENSE

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")


def capsules(*shape):
    poses = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    return Capsules(poses, jax.nn.sigmoid(poses[..., 0]))


def routed_by(c, votes, a=None, **more):
    v = jnp.einsum("...ij,...ijd->...jd", c, votes)
    return Routed(v, safe_norm(v) if a is None else a, c, **more)


@dataclasses.dataclass(frozen=True)
class LikeEM:
    """Reads activations, learns numbers for each parent, activates by them."""

    def learned_arrays(self, i, j, p, d):
        return {"beta_a": LearnedArray((j,), nn.initializers.ones)}

    def __call__(self, votes, activations, learned, *, competition=DENSE, mask=None):
        r = competition.couplings(jnp.zeros(votes.shape[:-1]), mask=mask)
        share = r * activations[..., None]
        beta = jnp.expand_dims(learned["beta_a"], range(share.ndim - 2))
        return routed_by(share, votes, jax.nn.sigmoid(beta - share.sum(-2)), logits=share)


@dataclasses.dataclass(frozen=True)
class LikeInvertedAttention:
    """Reads the parents of the call before, which it handed to itself."""

    def learned_arrays(self, i, j, p, d):
        return {}

    def __call__(self, votes, activations, learned, *, memory=None, competition=DENSE):
        if memory is None:
            memory = jnp.zeros((*votes.shape[:-3], *votes.shape[-2:]))
        b = jnp.einsum("...ijd,...jd->...ij", votes, memory)
        routed = routed_by(competition.couplings(b), votes)
        return routed._replace(memory=routed.v, logits=b)


@dataclasses.dataclass(frozen=True)
class LikeSelfRouting:
    """Couples by a layer of its own on the children's poses."""

    def learned_arrays(self, i, j, p, d):
        return {
            "W_r": LearnedArray((i, j, p), nn.initializers.normal(1.0)),
            "b_r": LearnedArray((i, j), nn.initializers.zeros),
        }

    def __call__(self, votes, activations, learned, *, u, competition=DENSE):
        b = jnp.einsum("...ip,ijp->...ij", u, learned["W_r"])
        b = b + jnp.expand_dims(learned["b_r"], range(b.ndim - 2))
        return routed_by(competition.couplings(b), votes)


@dataclasses.dataclass(frozen=True)
class Random:
    """Draws its couplings."""

    def learned_arrays(self, i, j, p, d):
        return {}

    def __call__(self, votes, activations, learned, *, key):
        return routed_by(jax.random.uniform(key, votes.shape[:-1]), votes)


@pytest.mark.slow
@pytest.mark.parametrize("routing", [LikeEM(), LikeInvertedAttention(), LikeSelfRouting()])
@pytest.mark.parametrize("votes", [MatrixVotes()])
def test_a_convolution_and_a_class_layer_take_it(routing, votes):
    below = capsules(2, 5, 5, 2, 4)
    conv = ConvCaps(types=3, pose_size=4, routing=routing, votes=votes)
    (above, _), variables = jax.jit(conv.init_with_output)(KEY, below)
    assert jax.tree.map(jnp.shape, above) == Capsules((2, 3, 3, 3, 4), (2, 3, 3, 3))
    dense = DenseCaps(num_capsules=6, pose_size=4, routing=routing, votes=votes, shared="positions")
    (classes, _), _ = jax.jit(dense.init_with_output)(KEY, above)
    assert jax.tree.map(jnp.shape, classes) == Capsules((2, 6, 4), (2, 6))

    def value(params):
        return jnp.sum(jnp.square(conv.apply({"params": params}, below)[0].poses))

    gradients = jax.tree.leaves(jax.jit(jax.grad(value))(variables["params"]))
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.slow
def test_activations_reach_the_algorithm_and_come_from_it():
    below = capsules(2, 4, 3)
    layer = DenseCaps(num_capsules=2, pose_size=3, routing=LikeEM())
    (above, _), variables = jax.jit(layer.init_with_output)(KEY, below)
    assert variables["params"]["beta_a"].shape == (2,)
    silent, _ = layer.apply(variables, below._replace(activations=0 * below.activations))
    assert not silent.poses.any(), "children that are not there have no say"
    np.testing.assert_allclose(silent.activations, jax.nn.sigmoid(jnp.ones((2, 2))), rtol=1e-6)
    assert float(above.activations.max()) < float(silent.activations.min())


@pytest.mark.ci
def test_memory_travels_from_call_to_call_of_a_layer():
    below = capsules(2, 5, 5, 2, 4)
    layer = ConvCaps(types=3, pose_size=4, routing=LikeInvertedAttention())
    (first, memory), variables = jax.jit(layer.init_with_output)(KEY, below)
    second, _ = layer.apply(variables, below, memory)
    assert memory.shape == (2, 9, 3, 4)
    assert float(jnp.abs(first.poses - second.poses).max()) > 1e-4


def test_a_layer_that_is_called_several_times_shows_its_last_call():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, below):
            layer = ConvCaps(types=3, pose_size=4, routing=LikeInvertedAttention(), name="layer")
            _, memory = layer(below)
            return layer(below, memory)[0]

    below = capsules(2, 5, 5, 2, 4)
    variables = Twice().init(KEY, below)
    assert list(variables["params"]) == ["layer"]
    _, shown = Twice().apply(variables, below, mutable=["intermediates"])
    logits = shown["intermediates"]["layer"]["logits"]
    assert logits.shape == (2, 9, 18, 3)
    assert logits.any(), "those of the first call are 0"


@pytest.mark.ci
def test_statistics_belong_to_the_norm_of_a_layer(monkeypatch):
    """As VB's batch norm: a collection of its own, changed where it may be."""

    class LikeBatchNorm(nn.Module):
        @nn.compact
        def __call__(self, poses):
            training = self.is_mutable_collection("batch_stats") and not self.is_initializing()
            return nn.BatchNorm(use_running_average=not training, name="of_poses")(poses)

    monkeypatch.setitem(NORMS, "like_batch", LikeBatchNorm)
    below = capsules(2, 5, 5, 2, 4)
    layer = ConvCaps(types=3, pose_size=4, routing=LikeEM(), norm="like_batch")
    variables = jax.jit(layer.init)(KEY, below)
    assert set(variables) == {"params", "batch_stats"}
    _, changed = layer.apply(variables, below, mutable=["batch_stats"])
    means = changed["batch_stats"]["norm"]["of_poses"]["mean"]
    assert means.any()


def test_what_is_random_gets_a_key():
    votes, a = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 3))
    one, other = (call_routing(Random(), votes, a, {}, key=jax.random.key(k)).c for k in (0, 1))
    assert float(jnp.abs(one - other).max()) > 0.1


def test_what_an_algorithm_must_not_ignore_is_refused():
    votes, a = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 3))
    assert call_routing(LikeEM(), votes, a, {"beta_a": jnp.ones(4)}, u=jnp.ones((2, 3, 1))).v.any()
    with pytest.raises(ValueError, match="Random takes no competition, which this layer needs"):
        call_routing(Random(), votes, a, {}, key=KEY, competition=DENSE)


@pytest.mark.slow
def test_a_volume_routes_over_all_positions_and_types_at_once():
    """As DeepCaps: one vote of each child type for each position, a softmax over all of them."""
    below = capsules(2, 5, 5, 2, 4)
    layer = ConvCaps(types=3, pose_size=4, routing=LikeInvertedAttention(), windows="summed")
    variables = jax.jit(layer.init)(KEY, below)
    _, shown = layer.apply(variables, below, mutable=["intermediates"])
    couplings = shown["intermediates"]["couplings"]
    assert couplings.shape == (2, 9, 2, 3)
    np.testing.assert_allclose(couplings.sum((1, 3)), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (tuple, TypeError, "Averages returns a tuple, and an algorithm returns Routed"),
        (lambda routed: routed.v, TypeError, r"Averages returns a \w+, and an algorithm returns"),
        (lambda routed: routed._replace(a=routed.v), ValueError, r"returns a of shape \(2, 3, 4\)"),
        (lambda routed: routed._replace(v=routed.a), ValueError, r"it is \(2, 3, 4\)$"),
    ],
)
def test_what_an_algorithm_returns_is_checked(change, error, message, monkeypatch):
    # As outside of the tests, where shapes are not checked by their annotations.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

    class Averages:
        def learned_arrays(self, i, j, p, d):
            return {}

        def __call__(self, votes, activations, learned):
            v = votes.mean(axis=-3)
            return change(Routed(v, safe_norm(v), jnp.ones(votes.shape[:-1])))

    with pytest.raises(error, match=message):
        call_routing(Averages(), jnp.ones((2, 5, 3, 4)), jnp.ones((2, 5)), {})
