"""Stacks of capsule layers, and the number of calls that they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers.stacks import Updates, plan_updates, route_stack
from capsjax.notation import Capsules
from capsjax.routing import make_routing


class Layer:
    """It adds to what is below what it remembers of its last call, and one."""

    def __init__(self):
        self.calls = 0

    def __call__(self, below, memory=0.0):
        self.calls += 1
        poses = below.poses + memory + 1.0
        return Capsules(poses, below.activations), poses


BELOW = Capsules(jnp.zeros((1, 1, 1)), jnp.ones((1, 1)))


def top(count, most=None):
    layers = [Layer(), Layer(), Layer()]
    updates = Updates(None, count, count if most is None else most)
    above = float(route_stack(layers, BELOW, updates).poses[0, 0, 0])
    return above, [layer.calls for layer in layers]


def test_all_but_the_first_calls_see_what_is_one_update_old():
    # Poses of the three layers: 1, 2, 3; then 0+1+1, 1+2+1, 2+3+1; then 0+2+1, 2+4+1, 4+6+1.
    assert top(1) == (3.0, [1, 1, 1])
    assert top(2) == (6.0, [2, 2, 2])
    assert top(3) == (11.0, [3, 3, 3])


def test_a_traced_number_of_calls():
    @jax.jit
    def route(count):
        return route_stack([Layer(), Layer(), Layer()], BELOW, Updates(None, count, 3)).poses

    assert [float(route(count)[0, 0, 0]) for count in (1, 2, 3)] == [3.0, 6.0, 11.0]


def test_a_concurrent_stack_makes_one_update_a_call():
    whole = make_routing("inverted_attention", num_iterations=3, norm_eps=1e-3)
    assert plan_updates("sequential", whole) == Updates(whole, 1, 1)
    one = make_routing("inverted_attention", num_iterations=1, norm_eps=1e-3)
    assert plan_updates("concurrent", whole) == Updates(one, 3, 3)


@pytest.mark.parametrize("name", ["dynamic", "uniform", "em"])
def test_an_algorithm_without_memory_is_called_once(name):
    routing = make_routing(name)
    assert plan_updates("concurrent", routing) == Updates(routing, 1, 1)


def test_a_traced_number_of_updates_has_a_limit():
    def calls(number, limit):
        routing = make_routing(
            "inverted_attention", num_iterations=number, max_iterations=limit, gradient="stop"
        )
        updates = plan_updates("concurrent", routing)
        assert updates.routing.num_iterations == 1
        assert updates.most == limit
        return updates.count

    assert int(jax.jit(lambda number: calls(number, 4))(np.int32(2))) == 2
    with pytest.raises(ValueError, match="needs max_iterations; without it"):
        jax.jit(lambda number: calls(number, None))(np.int32(2))


def test_an_unknown_stack_names_the_nearest():
    with pytest.raises(ValueError, match=r"\(model.stack\) 'concurent'; did you mean 'concurrent'"):
        plan_updates("concurent", make_routing("dynamic"))
