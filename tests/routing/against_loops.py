"""Compare an algorithm with its slow reference: in double and single precision, on hard cases."""

import jax
import jax.numpy as jnp
import numpy as np

from capsjax.routing.competition import DENSE, Competition
from tests.routing.loops import CASES

# Cases by name: (case of `loops`, number of upper capsules, factor of the votes).
HARD = {
    **{name: (case, 3, 1.0) for name, case in CASES.items()},
    "one parent": (CASES["dense"], 1, 1.0),
    "zero votes": (CASES["dense"], 3, 0.0),
    "votes times 300": (CASES["dense"], 3, 300.0),
    "volume times 300": (CASES["all"], 3, 300.0),
}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def competition_of(case):
    return DENSE if case.children is None else Competition(case.children, case.over)


def make_votes(name, d=3):
    """Votes (n, [o,] i, j, d) of a hard case, 0 where there is no child."""
    case, j, factor = HARD[name]
    present = case.table() >= 0
    if case.children is None:
        present = present[0]
    return factor * normal(0, *case.shape(j, d)) * present[..., None, None]


def compare(fast, slow, case, *arrays, names=("v", "a", "c"), rtol=1e-4):
    """Compare results of `fast`, of batched arrays, with those of `slow` for each example.

    Args:
      fast: maps arrays to Routed; it is compiled.
      slow: maps the arrays of one example, with positions first, to a dict of its results.
      names: fields of Routed to compare.
    """
    for double in (False, True):
        with jax.enable_x64(double):
            routed = jax.jit(fast)(*(jnp.asarray(array) for array in arrays))
            for n in range(len(arrays[0])):
                expected = slow(*(case.position_first(array[n]) for array in arrays))
                for name in names:
                    got = case.position_first(getattr(routed, name)[n])
                    scale = max(np.abs(expected[name]).max(), 1e-12)
                    tolerance = 1e-9 if double else rtol
                    error = np.abs(got - expected[name]).max()
                    assert error <= tolerance * scale, (name, double, error, scale)
