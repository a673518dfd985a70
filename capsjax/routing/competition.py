"""Competition: the set that a lower capsule divides itself among, by a softmax.

A dense layer has one position of upper capsules, and every child divides itself among the types
there. In a convolution a child lies in the windows of several positions, and the literature has
three sets: the types of one position, all types of all positions, or the positions of one type.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from capsjax.windows import make_grid

OVER = ("types", "all", "positions")
START = ("set", "types")


class Competition:
    """The children of each upper position, and the set that they divide themselves among.

    Args:
      children: global number of the child that upper position o sees at place i of its window,
        (o, i), and -1 for a place without a child. None for a dense layer: logits then have no
        axis o.
      over: the set that the couplings of a child sum to 1 over: "types" at one position, "all"
        types and positions, or the "positions" of one type.
      start: the couplings of the first round are 1 / the size of the "set", or 1 / the number of
        "types".
      rivals: a table shaped like `children`; places of the same number compete. None for
        `children` itself, so that the places of one child do.

    Raises:
      ValueError: for an unknown `over` or `start`, or a table that does not have two axes or, for
        `rivals`, not the shape of `children`.

    Source: "types" Sabour et al. 2017, equation 3; "all" Hinton et al. 2018.

    >>> competition = Competition(np.array([[0, 1], [1, 2]]), over="all")
    >>> competition.couplings(jnp.zeros((2, 2, 4)))[:, :, 0].tolist()
    [[0.25, 0.125], [0.125, 0.25]]
    """

    def __init__(
        self,
        children: np.ndarray | None,
        over: str = "all",
        start: str = "set",
        rivals: np.ndarray | None = None,
    ):
        for name, value, known in (("over", over, OVER), ("start", start, START)):
            if value not in known:
                raise ValueError(f"{name} of a competition is one of {known}, not {value!r}")
        self.over, self.start = over, start
        self.children = None if children is None else np.asarray(children)
        if self.children is not None and self.children.ndim != 2:
            raise ValueError(f"children are (o, i), not of shape {self.children.shape}")
        self.rivals = self.children if rivals is None else np.asarray(rivals)
        if np.shape(self.rivals) != np.shape(self.children):
            raise ValueError(
                f"rivals have the shape of children {np.shape(self.children)}, not "
                f"{self.rivals.shape}"
            )

    @functools.cached_property
    def _tables(self) -> "_Tables":
        return _Tables(self.children)

    @functools.cached_property
    def _tables_of_rivals(self) -> "_Tables":
        return self._tables if self.rivals is self.children else _Tables(self.rivals)

    def gather(self, x: Float[Array, "*batch g p"]) -> Float[Array, "*batch o i p"]:
        """Gather the values of each upper position's children; 0 where there is none.

        Args:
          x: values of all children, (..., g, p).
        """
        o, i = self.children.shape
        spread = self._tables.to_windows(jnp.moveaxis(x, -2, 0))
        return jnp.moveaxis(spread.reshape(o, i, *spread.shape[1:]), (0, 1), (-3, -2))

    def couplings(
        self,
        logits: Float[Array, "*batch i j"],
        *,
        leaky: bool = False,
        mask: Float[Array, "*batch i"] | None = None,
        parent_mask: Float[Array, "*batch j"] | None = None,
    ) -> Float[Array, "*batch i j"]:
        """Compute coupling coefficients: a softmax of each child over its set.

        A child outside all windows takes no part, and a place without a child has couplings 0.

        Args:
          logits: (..., i, j), or (..., o, i, j) where there is a table of children.
          leaky: add one more logit, which is 0, to every set.
          mask: 0 for a child that takes no part, (..., [o,] i).
          parent_mask: 0 for an upper capsule that takes no part, (..., [o,] j).
        """
        whole = mask is None and parent_mask is None
        if self.children is None and self.over != "positions" and whole:
            return leaky_softmax(logits) if leaky else jax.nn.softmax(logits)
        valid = self._valid(logits, mask, parent_mask)
        # The largest logit only keeps exp in range, and has no gradient.
        masked = lax.stop_gradient(jnp.where(valid, logits, -jnp.inf))
        largest = self._reduce(masked, jnp.max, -jnp.inf)
        if leaky:
            largest = jnp.maximum(largest, 0.0)
        largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
        e = jnp.where(valid, jnp.exp(jnp.where(valid, logits - largest, 0.0)), 0.0)
        total = self._reduce(e, jnp.sum, 0.0)
        if leaky:
            total = total + jnp.exp(-largest)
        return e / jnp.where(total > 0, total, 1.0)

    def first_couplings(
        self, logits: Float[Array, "*batch i j"], **settings
    ) -> Float[Array, "*batch i j"]:
        """Compute the couplings before any agreement is known, shaped like the logits.

        Args:
          logits: only their shape is used.
          **settings: as in `couplings`.
        """
        zeros = jnp.zeros_like(logits)
        if self.start == "set":
            return self.couplings(zeros, **settings)
        types = Competition(self.children, "types")
        return types.couplings(zeros, **settings)

    def _valid(
        self, logits: Array, mask: Array | None, parent_mask: Array | None
    ) -> Bool[Array, "..."]:
        valid = jnp.ones(logits.shape, bool)
        if self.children is not None:
            children = np.expand_dims(self.children >= 0, (*range(logits.ndim - 3), -1))
            valid &= jnp.asarray(children)
        if mask is not None:
            valid &= mask[..., None] > 0
        if parent_mask is not None:
            valid &= parent_mask[..., None, :] > 0
        return valid

    def _reduce(self, x: Array, reduce: Callable, nothing: float) -> Array:
        """Reduce over the set of each child, and put the result where its members are."""
        if self.over != "positions":
            x = reduce(x, axis=-1, keepdims=True)
        if self.over == "types" or self.children is None:
            return x
        o, i = self.children.shape
        flat = jnp.moveaxis(x, (-3, -2), (0, 1)).reshape(o * i, *x.shape[:-3], x.shape[-1])
        tables = self._tables_of_rivals
        of_sets = tables.to_children(flat) if reduce is jnp.sum else tables.largest(flat, nothing)
        spread = tables.to_windows(of_sets).reshape(o, i, *flat.shape[1:])
        return jnp.moveaxis(spread, (0, 1), (-3, -2))


def leaky_softmax(b: Float[Array, "*batch j"]) -> Float[Array, "*batch j"]:
    """Take the softmax over the last axis and one more logit, zero, and leave that one out.

    >>> leaky_softmax(jnp.zeros(3)).tolist()
    [0.25, 0.25, 0.25]
    """
    widths = [(0, 0)] * (b.ndim - 1) + [(1, 0)]
    return jax.nn.softmax(jnp.pad(b, widths))[..., 1:]


class _Tables:
    """Sums from places in windows to children and copies back, through two static tables.

    Each is the transpose of the other, and so its gradient: gradients too are gathered, never
    scattered, so that a GPU gives the same bits twice.

    Args:
      children: see `Competition`.
    """

    def __init__(self, children: np.ndarray):
        flat = children.ravel()
        self._num_children = max(int(flat.max(initial=-1)) + 1, 1)
        self._child = flat
        # Places in the order of their children; the n-th place of a child goes into column n.
        order = np.argsort(flat, kind="stable")[np.count_nonzero(flat < 0) :]
        counts = np.bincount(flat[order], minlength=self._num_children)
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        # The row after the last place stands for "no place".
        self._places = np.full((self._num_children, max(counts.max(), 1)), len(flat))
        self._places[flat[order], column] = order
        self._to_windows = _with_gradient(self._gather_windows, lambda x: self._to_children(x))
        self._to_children = _with_gradient(self._gather_children, lambda x: self._to_windows(x))

    def to_windows(self, x: Array) -> Array:
        """Copy each child to its places, (g, ...) to (o·i, ...); 0 for a place without a child."""
        if len(x) < self._num_children:
            raise ValueError(f"{len(x)} children, and the table names {self._num_children}")
        # Children that no window reaches may come after the last one in the table.
        return self._to_windows(x[: self._num_children])

    def to_children(self, x: Array) -> Array:
        """Sum over the places of each child, (o·i, ...) to (g, ...)."""
        return self._to_children(x)

    def largest(self, x: Array, nothing: float) -> Array:
        """Take the largest over the places of each child, (o·i, ...) to (g, ...); no gradient."""
        return jnp.max(self._pad(x, nothing)[self._places], axis=1)

    def _gather_windows(self, x: Array) -> Array:
        return self._pad(x, 0.0)[self._child]

    def _gather_children(self, x: Array) -> Array:
        return jnp.sum(self._pad(x, 0.0)[self._places], axis=1)

    @staticmethod
    def _pad(x: Array, value: float) -> Array:
        return jnp.concatenate([x, jnp.full((1, *x.shape[1:]), value, x.dtype)])


def _with_gradient(linear: Callable, transpose: Callable) -> Callable:
    """Give a linear function its transpose as the gradient."""
    function = jax.custom_vjp(linear)
    function.defvjp(lambda x: (linear(x), None), lambda _, cotangent: (transpose(cotangent),))
    return function


DENSE = Competition(None, "types")


@functools.lru_cache(maxsize=64)
def window_children(
    grid: tuple[int, int], kernel_size: int, stride: int, types: int, padding: str = "VALID"
) -> np.ndarray:
    """Tabulate the children that each upper position of a convolution sees.

    Children are numbered in the order (row, column, type), and so are the places of a window.

    Args:
      grid: rows and columns of the children.
      kernel_size: rows and columns of a window.
      stride: rows and columns from one window to the next.
      types: number of capsule types at each position of the grid.
      padding: "VALID", or "SAME" for windows that reach over the border.

    Returns:
      Numbers of children, and -1 beyond the border, (o, i) with o = y·x and i = k·k·types.

    Raises:
      ValueError: if a window without padding is larger than the grid.

    >>> window_children((3, 3), 2, 1, 1)[0].tolist()
    [0, 1, 3, 4]
    """
    windows = make_grid(grid, (kernel_size, kernel_size), (stride, stride), padding)
    y = windows.rows.positions()[:, None, :, None]
    x = windows.columns.positions()[None, :, None, :]
    inside = (y >= 0) & (y < grid[0]) & (x >= 0) & (x < grid[1])
    first = np.where(inside, (y * grid[1] + x) * types, -1)
    numbers = first[..., None] + np.arange(types)
    numbers = np.where(inside[..., None], numbers, -1)
    return numbers.reshape(-1, kernel_size**2 * types)


def window_competition(
    grid: tuple[int, int],
    kernel_size: int,
    stride: int,
    types: int,
    padding: str = "VALID",
    *,
    over: str = "all",
    start: str = "set",
) -> Competition:
    """Make the competition of the children of a convolution.

    Args:
      grid, kernel_size, stride, types, padding: as in `window_children`.
      over, start: as in `Competition`; `over` may be "released" too: the positions of one type,
        with places of windows taken for one child as if the stride were 1. With another stride
        those are different children, and the couplings of a child do not sum to 1. This is a
        mistake in the code that Hinton et al. released, kept so that it can be measured.

    Source: "positions" and "released": the released code of Hinton et al. 2018.

    >>> window_competition((1, 5), 1, 2, 1, over="released").rivals.ravel().tolist()
    [0, 1, 2]
    """
    children = window_children(grid, kernel_size, stride, types, padding)
    if over != "released":
        return Competition(children, over, start)
    windows = make_grid(grid, (kernel_size, kernel_size), (stride, stride), padding)
    dense = tuple(axis.count + kernel_size - 1 for axis in windows)
    rivals = window_children(dense, kernel_size, 1, types)
    return Competition(children, "positions", start, np.where(children < 0, -1, rivals))


def competition_of_types(
    positions: int, types: int, *, over: str = "all", start: str = "set"
) -> Competition:
    """Make the competition of child types whose votes are summed over each window.

    Over "types" a type is a child of each position alone, and else one child of all of them.

    Args:
      positions: number o of upper positions.
      types: number of child types.
      over, start: as in `Competition`.

    >>> competition_of_types(3, 2).children.tolist()
    [[0, 1], [0, 1], [0, 1]]
    """
    children = np.arange(positions * types).reshape(positions, types)
    return Competition(children if over == "types" else children % types, over, start)
