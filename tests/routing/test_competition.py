"""Competition: who shares a child, against loops; dense, convolutional, and what no window sees."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.ops import squash
from capsjax.routing import dynamic_routing
from capsjax.routing.competition import (
    DENSE,
    OVER,
    Competition,
    window_children,
    window_competition,
)

GRID, TYPES = (5, 4), 2
CASES = [
    pytest.param(3, 1, "VALID", id="stride 1"),
    pytest.param(3, 2, "VALID", id="stride 2, a column that no window sees"),
    pytest.param(1, 2, "VALID", id="stride above the window"),
    pytest.param(3, 2, "SAME", id="windows over the border"),
]


def by_hand(logits, children, over, leaky=False, valid=None):
    """The couplings (o, i, j) of one example, one child after the other."""
    o, i, j = logits.shape
    couplings = np.zeros((o, i, j))
    entries = [
        (child, (at, place, upper))
        for at, place, upper in itertools.product(range(o), range(i), range(j))
        if (child := children[at, place]) >= 0 and (valid is None or valid[at, place, upper])
    ]
    sets = {}
    for child, (at, place, upper) in entries:
        key = {"types": (child, at), "all": (child,), "positions": (child, upper)}[over]
        sets.setdefault(key, []).append((at, place, upper))
    for members in sets.values():
        e = np.exp([logits[member].astype(np.float64) for member in members])
        for member, value in zip(members, e, strict=True):
            couplings[member] = value / (e.sum() + leaky)
    return couplings


def normal(*shape, scale=1.0):
    values = np.random.default_rng(0).normal(scale=scale, size=shape)
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize(("kernel", "stride", "padding"), CASES)
def test_couplings_are_those_of_loops(kernel, stride, padding, over, leaky):
    children = window_children(GRID, kernel, stride, TYPES, padding)
    logits = normal(2, *children.shape, 3, scale=3.0)
    got = jax.jit(functools.partial(Competition(children, over).couplings, leaky=leaky))(logits)
    for example, expected in zip(got, logits, strict=True):
        reference = by_hand(np.asarray(expected), children, over, leaky)
        np.testing.assert_allclose(example, reference, atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "padding"), CASES)
def test_the_couplings_of_a_child_sum_to_one_over_its_competition(kernel, stride, padding):
    children = window_children(GRID, kernel, stride, TYPES, padding)
    logits = normal(*children.shape, 3, scale=3.0)
    seen = children[children >= 0]
    totals = np.zeros(GRID[0] * GRID[1] * TYPES)
    c = jax.jit(Competition(children, "all").couplings)(logits)
    np.add.at(totals, seen, np.asarray(c.sum(-1))[children >= 0])
    np.testing.assert_allclose(totals[np.unique(seen)], 1.0, rtol=1e-5)
    unseen = np.setdiff1d(np.arange(len(totals)), seen)
    assert len(unseen) or padding == "SAME" or stride == 1
    assert not totals[unseen].any()


@pytest.mark.parametrize("over", ["types", "all"])
def test_a_kernel_of_the_whole_grid_is_dense(over):
    children = window_children((3, 3), 3, 1, TYPES)
    logits = normal(4, 1, 18, 5)
    got = jax.jit(Competition(children, over).couplings)(logits)[:, 0]
    np.testing.assert_allclose(got, DENSE.couplings(logits[:, 0]), rtol=1e-5)


@pytest.mark.parametrize("over", OVER)
def test_children_without_a_parent_and_large_logits_make_no_nan(over):
    competition = Competition(np.array([[0, -1], [0, -1]]), over)
    weights = normal(2, 2, 3)

    @jax.jit
    def with_gradient(logits):
        c, pull = jax.vjp(competition.couplings, logits)
        return c, *pull(weights)

    for scale in (0.0, 1e4, -1e4):
        c, gradient = with_gradient(jnp.full((2, 2, 3), scale))
        assert not c[:, 1].any(), "a place without a child"
        assert jnp.isfinite(c).all()
        assert jnp.isfinite(gradient).all()
        assert float(c.sum()) == pytest.approx({"types": 2, "all": 1, "positions": 3}[over])


@pytest.mark.slow
def test_nothing_at_all_is_zero_and_not_nan():
    competition = Competition(np.array([[-1, -1]]), "all")
    c, pull = jax.vjp(competition.couplings, jnp.ones((1, 2, 3)))
    assert not c.any()
    assert not pull(jnp.ones((1, 2, 3)))[0].any()


@pytest.mark.parametrize("over", OVER)
def test_masks_leave_children_and_parents_out(over):
    children = window_children(GRID, 3, 1, TYPES)
    o, i = children.shape
    logits = normal(1, o, i, 3)
    mask = (normal(1, o, i) > 0).astype(jnp.float32)
    parent_mask = jnp.ones((1, o, 3)).at[0, 1, 2].set(0.0)
    couplings = jax.jit(Competition(children, over).couplings)
    got = couplings(logits, mask=mask, parent_mask=parent_mask)
    valid = np.asarray((mask[..., None] > 0) & (parent_mask[..., None, :] > 0))[0]
    reference = by_hand(np.asarray(logits[0]), children, over, valid=valid)
    np.testing.assert_allclose(got[0], reference, atol=1e-6)


@pytest.mark.parametrize("over", OVER)
def test_gradients_are_those_of_differences(over):
    children = window_children((3, 3), 2, 1, 1, "SAME")
    competition = Competition(children, over)
    logits, weights = normal(*children.shape, 2), normal(*children.shape, 2)

    @jax.jit
    def value(logits):
        return jnp.sum(jnp.sin(3 * weights) * competition.couplings(logits))

    gradient = jax.grad(value)(logits)
    step = 1e-2 * weights
    difference = (value(logits + step) - value(logits - step)) / 2
    assert float(jnp.sum(gradient * step)) == pytest.approx(float(difference), abs=2e-4)


@pytest.mark.parametrize("over", OVER)
def test_nothing_is_scattered(over):
    """A scatter adds in any order on a GPU."""
    children = window_children(GRID, 3, 1, TYPES)
    competition = Competition(children, over)

    def value(logits, x):
        c = competition.couplings(logits)
        return jnp.sum(jnp.square(c) @ jnp.ones((3, 1)) * competition.gather(x))

    arguments = (jnp.ones((2, *children.shape, 3)), jnp.ones((2, GRID[0] * GRID[1] * TYPES, 1)))
    program = jax.jit(jax.grad(value, (0, 1))).lower(*arguments).as_text()
    assert "gather" in program
    assert "scatter" not in program


def test_populations_can_map_it():
    children = window_children(GRID, 3, 2, TYPES)
    competition = Competition(children, "all")
    logits = normal(3, 2, *children.shape, 3)

    gradient = jax.grad(lambda logits: jnp.sum(jnp.square(competition.couplings(logits))))
    mapped = jax.jit(jax.vmap(gradient))(logits)
    np.testing.assert_allclose(mapped[1], jax.jit(gradient)(logits[1]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("start", "expected"), [("set", [0.25, 0.125, 0.125]), ("types", [0.25, 0.25, 0.25])]
)
def test_the_first_couplings_are_one_over_the_set_or_over_the_types(start, expected):
    competition = Competition(np.array([[0, 1], [1, 2]]), "all", start)
    c = competition.first_couplings(jnp.zeros((2, 2, 4)))
    # Child 1 is seen from both positions.
    assert [float(c[0, 0, 0]), float(c[0, 1, 0]), float(c[1, 0, 0])] == expected


def test_children_are_gathered_as_windows_see_them():
    children = window_children((3, 3), 2, 1, 1)
    x = jnp.arange(9.0).reshape(1, 9, 1)
    got = Competition(children).gather(x)[0, :, :, 0]
    assert got.tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    with pytest.raises(ValueError, match="8 children, and the table names 9"):
        Competition(children).gather(x[:, :8])


@pytest.mark.parametrize("start", ["set", "types"])
@pytest.mark.parametrize("over", OVER)
def test_routing_over_a_competition_is_that_of_loops(over, start):
    children = window_children((3, 3), 2, 1, 1)
    competition = Competition(children, over, start)
    votes = normal(1, *children.shape, 3, 2)
    route = jax.jit(functools.partial(dynamic_routing, competition=competition))
    b = np.zeros((*children.shape, 3))
    # The first couplings: 1 / the size of the set, or 1 / 3 types.
    c = by_hand(b, children, "types" if start == "types" else over)
    for rounds in (1, 2, 3):
        s = np.einsum("oij,oijd->ojd", c, np.asarray(votes[0]))
        v = np.asarray(squash(jnp.asarray(s)))
        got = route(votes, jnp.array(rounds))
        np.testing.assert_allclose(got.v[0], v, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.c[0], c, rtol=1e-4, atol=1e-5)
        b = b + np.einsum("oijd,ojd->oij", np.asarray(votes[0]), v)
        c = by_hand(b, children, over)


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"over of a competition is one of .* not 'type'"):
        Competition(None, "type")
    with pytest.raises(ValueError, match="start of a competition"):
        Competition(None, "all", "zero")
    with pytest.raises(ValueError, match="children are"):
        Competition(np.zeros(3, int))


def by_numbers(grid, kernel, stride, **settings):
    return window_competition(grid, kernel, stride, 1, **settings)


def test_released_windows_compete_as_if_their_stride_were_1():
    # Windows of 3 over 7 columns begin at 0, 2 and 4; those of the released code at 0, 1 and 2.
    competition = by_numbers((1, 7), 1, 2, over="released")
    assert competition.children.ravel().tolist() == [0, 2, 4, 6]
    assert competition.rivals.ravel().tolist() == [0, 1, 2, 3]
    competition = by_numbers((7, 7), 3, 2, over="released")
    rivals = [
        [0, 1, 2, 5, 6, 7, 10, 11, 12],
        [1, 2, 3, 6, 7, 8, 11, 12, 13],
        [2, 3, 4, 7, 8, 9, 12, 13, 14],
        [5, 6, 7, 10, 11, 12, 15, 16, 17],
    ]
    assert competition.rivals[:4].tolist() == rivals
    assert competition.over == "positions"


def test_released_groups_are_of_other_children_but_at_stride_1():
    assert (
        by_numbers((5, 5), 3, 1, over="released").rivals == window_children((5, 5), 3, 1, 1)
    ).all()
    competition = by_numbers((7, 7), 3, 2, over="released")
    children, rivals = competition.children.ravel(), competition.rivals.ravel()
    wrong = [
        {*np.flatnonzero(rivals == rival)} != {*np.flatnonzero(children == child)}
        for child, rival in zip(children, rivals, strict=True)
    ]
    assert (sum(wrong), len(wrong)) == (77, 81)
    # The couplings of a child and type sum to 1 over its rivals, and not over its own places.
    c = np.asarray(jax.jit(competition.couplings)(normal(9, 9, 2, scale=2.0)))
    of_rivals, of_children = np.zeros((25, 2)), np.zeros((49, 2))
    np.add.at(of_rivals, rivals, c.reshape(81, 2))
    np.add.at(of_children, children, c.reshape(81, 2))
    np.testing.assert_allclose(of_rivals, 1, rtol=1e-5)
    assert of_children.min() < 0.3
    assert of_children.max() > 1.05


def test_rivals_over_the_border_and_of_another_shape():
    competition = by_numbers((3, 3), 3, 2, padding="SAME", over="released")
    assert ((competition.rivals < 0) == (competition.children < 0)).all()
    with pytest.raises(
        ValueError, match=r"rivals have the shape of children \(1, 2\), not \(2, 1\)"
    ):
        Competition(np.array([[0, 1]]), rivals=np.array([[0], [1]]))
