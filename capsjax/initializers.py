"""Initial values of parameters, named in configs: "normal(0.01)", "glorot_uniform", ...

    name                  a weight is drawn from
    zeros                 0
    constant(x)           x
    normal(x)             the normal distribution of standard deviation x
    truncated_normal(x)   the same, cut at two (untruncated) standard deviations
    uniform(x)            ±x, uniform
    unit_votes(x)         the normal distribution of standard deviation x j / √(i d), for matrices W
    fan_in_votes(x)       the same of standard deviation x √(j / (i p)), for matrices W
    glorot_votes(x)       ±√(6 / (r² (i + x j))), uniform, for matrices W (i, j, r, r) in a
                          convolution of capsules with x places in a window
    glorot_uniform        ±√(6 / (fan_in + fan_out)), uniform
    glorot_size           ±√(3 / √n), uniform, for an array of n weights
    glorot_normal         a normal distribution cut at two deviations, of deviation
                          √(2 / (fan_in + fan_out)) after the cut
    he_normal             the same, of deviation √(2 / fan_in)
    he_normal_votes       the same, of deviation √(2 / (i j p)), for matrices W (i, j, d, p)
    he_normal_child       the normal distribution of deviation √(2 / (j d p)), for matrices W
    he_uniform            ±√(6 / fan_in), uniform
    he_uniform_child      ±√(6 / (j d p)), uniform, for matrices W
    fan_in_uniform        ±1 / √fan_in, uniform (PyTorch's default, for biases too)

fan_in and fan_out count the weights into and out of one unit. For the transformation matrices
W (i, j, d, p) glorot_uniform counts as Keras does for an array of that shape: i·j·p and i·j·d.
An array of six or more axes has √n of each there: glorot_size is Keras's glorot_uniform for the
kernels (k, k, i, p, j, d) of convolutions of capsules. It is √k times as large as the bound for
kernels (k, k, i·p, j·d) where the layers have the same size. he_uniform_child and he_normal_child
are what PyTorch's functions make of an array (i, j·d, p): they count all weights of a child.
"""

import math
import re

import jax
import jax.numpy as jnp
from jax.nn import initializers

from capsjax.notation import Initializer
from capsjax.registry import look_up


def make_initializer(
    spec: str, fan_in: int | None = None, *, matrices: bool = False
) -> Initializer:
    """Make the initializer that a specification names.

    Args:
      spec: a name from the table above, with its number in parentheses if it takes one.
      fan_in: for "fan_in_uniform" on a bias, whose own shape does not determine it.
      matrices: whether the array is one of matrices W. A kernel (k, k, c, o) has four axes too, so
        that the shape does not show it.

    Returns:
      A function of (key, shape, dtype).

    Raises:
      ValueError: for an unknown name, a missing or superfluous number, or an initializer for
        matrices W where the array is another.

    >>> make_initializer("constant(0.1)")(jax.random.key(0), (2,)).tolist()
    [0.10000000149011612, 0.10000000149011612]
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*([^()]*?)\s*\))?\s*", spec)
    if match is None:
        raise ValueError(f"an initializer is written like 'normal(0.01)', not {spec!r}")
    name, number = match.groups()
    if look_up(_TAKES_NUMBER, name, "initializer") != (number is not None):
        example = f"{name}(0.1)" if _TAKES_NUMBER[name] else name
        raise ValueError(f"write the initializer {spec!r} like {example!r}")
    if name in _FOR_MATRICES and not matrices:
        raise ValueError(
            f"the initializer {spec!r} is for the matrices W of capsules, not for another kernel "
            "or a bias: use one for any array, such as 'normal(0.01)'"
        )
    if name == "fan_in_uniform":
        return _fan_in_uniform(fan_in)
    if number is None:
        return _WITHOUT_NUMBER[name]
    value = _number_of(number, spec)
    if not math.isfinite(value) or (name != "constant" and value < 0):
        what = "bound" if name == "uniform" else "standard deviation"
        raise ValueError(f"{number} in the initializer {spec!r} is not a {what}")
    return {
        "constant": initializers.constant,
        "normal": initializers.normal,
        "truncated_normal": initializers.truncated_normal,
        "uniform": _uniform,
        "unit_votes": _unit_votes,
        "fan_in_votes": _fan_in_votes,
        "glorot_votes": _glorot_votes,
    }[name](value)


def _number_of(text: str, spec: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} in the initializer {spec!r} is not a number") from None


def _unit_votes(gain: float) -> Initializer:
    """Initialize W (i, j, d, p) so that weighted sums of votes start with a length of about gain.

    The sum s_j of i votes, weighted by 1/j, of poses of length 1, has a mean square length of
    d · i · (σ / j)² for independent weights of deviation σ.
    """

    def init(key, shape, dtype=jnp.float32):
        i, j, d = shape[:3]
        return gain * j / math.sqrt(i * d) * jax.random.normal(key, shape, dtype)

    return init


def _fan_in_votes(gain: float) -> Initializer:
    """Initialize W (i, j, d, p), or (i, j, r, r), so that sums of votes start with one variance.

    A sum of i votes, weighted by 1/j, of poses whose p (or r) numbers have variance 1, has
    variance gain²/j in each of its numbers.

    Source: Tsai et al. 2020, released code.
    """

    def init(key, shape, dtype=jnp.float32):
        i, j, p = shape[0], shape[1], shape[-1]
        return gain * math.sqrt(j / (i * p)) * jax.random.normal(key, shape, dtype)

    return init


def _glorot_votes(places: float) -> Initializer:
    """Initialize W (i, j, r, r) where i counts the children at all places of a window.

    Source: De Sousa Ribeiro et al. 2020, released code.
    """

    def init(key, shape, dtype=jnp.float32):
        i, j, r, q = shape
        return _uniform(math.sqrt(6 / (r * q * (i + places * j))))(key, shape, dtype)

    return init


def _glorot_size(key, shape, dtype=jnp.float32):
    return _uniform(math.sqrt(3 / math.sqrt(math.prod(shape))))(key, shape, dtype)


def _he_child(distribution: str) -> Initializer:
    every_weight = {"in_axis": (1, 2, 3), "out_axis": (), "batch_axis": (0,)}
    return initializers.variance_scaling(2.0, "fan_in", distribution, **every_weight)


def _fan_in_uniform(fan_in: int | None) -> Initializer:
    if fan_in is None:
        return initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
    return _uniform(fan_in**-0.5)


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


_WITHOUT_NUMBER = {
    "zeros": initializers.zeros,
    "glorot_normal": initializers.glorot_normal(),
    "glorot_uniform": initializers.glorot_uniform(),
    "glorot_size": _glorot_size,
    "he_normal": initializers.he_normal(),
    "he_uniform": initializers.he_uniform(),
    "he_normal_child": _he_child("normal"),
    "he_uniform_child": _he_child("uniform"),
    # Keras has the axes (j, i, p, d), and counts all but the last as those into a unit.
    "he_normal_votes": initializers.he_normal(in_axis=-1, out_axis=-2),
}

_VOTES = ("unit_votes", "fan_in_votes", "glorot_votes")
_FOR_MATRICES = (*_VOTES, "he_normal_votes", "he_normal_child", "he_uniform_child")

_TAKES_NUMBER = {
    **dict.fromkeys(("constant", "normal", "truncated_normal", "uniform"), True),
    **dict.fromkeys(_VOTES, True),
    **dict.fromkeys((*_WITHOUT_NUMBER, "fan_in_uniform"), False),
}
