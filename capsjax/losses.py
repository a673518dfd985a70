"""Losses. Their reductions are settings, because the published implementations differ.

A reduction turns the terms of a loss, over classes or pixels and over the batch, into one number:

    name         over classes or pixels   over the batch   used by
    "sum"        sum                      mean             the paper
    "mean"       mean                     mean             `authors` (margin), `keras`, `pytorch`
    "batch_sum"  sum                      sum              `notebook` (reconstruction)
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from capsjax.registry import look_up


def margin_loss(
    lengths: Float[Array, "n k"],
    labels_onehot: Float[Array, "n k"],
    m_plus: float | Array = 0.9,
    m_minus: float | Array = 0.1,
    down_weight: float | Array = 0.5,
    reduction: str = "sum",
    weights: Float[Array, "n"] | None = None,
) -> Float[Array, ""]:
    """Penalize short capsules of present classes and long capsules of absent ones.

        L_k = T_k max(0, m⁺ - |v_k|)² + λ (1 - T_k) max(0, |v_k| - m⁻)²

    Args:
      lengths: lengths of the class capsules as they are (no softmax), (n, k).
      labels_onehot: T, 1 for present classes and 0 for absent ones, (n, k).
      m_plus: length above which a present class costs nothing.
      m_minus: length below which an absent class costs nothing.
      down_weight: λ, the weight of the absent classes.
      reduction: "sum", "mean" or "batch_sum" over classes; see the table above.
      weights: factor on the loss of each example; None for 1.

    Returns:
      A scalar.

    Raises:
      ValueError: for an unknown reduction, or shapes that differ.

    Source: Sabour et al. 2017, equation 4.

    >>> round(float(margin_loss(jnp.array([[0.4, 0.3]]), jnp.array([[1.0, 0.0]]))), 4)
    0.27
    """
    _check_labels(labels_onehot, lengths)
    present = jnp.square(jnp.maximum(0.0, m_plus - lengths))
    absent = jnp.square(jnp.maximum(0.0, lengths - m_minus))
    terms = labels_onehot * present + down_weight * (1.0 - labels_onehot) * absent
    return look_up(REDUCTIONS, reduction, "reduction")(_weighted(terms, weights))


def reconstruction_loss(
    reconstruction: Float[Array, "n h w c"],
    images: Float[Array, "n h w c"],
    reduction: str = "sum",
) -> Float[Array, ""]:
    """Compute the squared error between images and their reconstructions.

    Args:
      reconstruction: (n, h, w, c), in [0, 1].
      images: (n, h, w, c), in [0, 1].
      reduction: "sum" (SSE, mean over the batch), "mean" (MSE) or "batch_sum" (SSE summed over
        the batch); see the table above. The paper's weight of 0.0005 goes with "sum".

    Returns:
      A scalar, in squared intensity.

    Raises:
      ValueError: for an unknown reduction or shapes that differ.

    Source: Sabour et al. 2017, section 4.1.

    >>> float(reconstruction_loss(jnp.zeros((2, 4, 4, 1)), jnp.full((2, 4, 4, 1), 0.5)))
    4.0
    """
    if reconstruction.shape != images.shape:
        raise ValueError(f"a reconstruction of shape {reconstruction.shape} for {images.shape}")
    squares = jnp.square(reconstruction - images).reshape(images.shape[0], -1)
    return look_up(REDUCTIONS, reduction, "reduction")(squares)


def spread_loss(
    activations: Float[Array, "n k"],
    labels_onehot: Float[Array, "n k"],
    margin: float | Array = 0.9,
    reduction: str = "sum",
    weights: Float[Array, "n"] | None = None,
) -> Float[Array, ""]:
    """Penalize absent classes whose activation is within a margin of a present class.

        L_k = Σ_t T_t (1 - T_k) max(0, m - (a_t - a_k))²

    Args:
      activations: a of the class capsules, (n, k).
      labels_onehot: T, 1 for present classes and 0 for absent ones, (n, k).
      margin: m, by which an activation should be below that of a present class.
      reduction: "sum", "mean" or "batch_sum" over classes; see the table above. The paper's is
        "sum"; its authors' released code takes the "mean", in which the present class counts as 0.
      weights: factor on the loss of each example; None for 1.

    Returns:
      A scalar.

    Raises:
      ValueError: for an unknown reduction, or shapes that differ.

    Source: Hinton et al. 2018, equation 3.

    >>> round(float(spread_loss(jnp.array([[0.5, 0.5, 0.5]]), jnp.eye(3)[:1], 0.2)), 4)
    0.08
    """
    _check_labels(labels_onehot, activations)
    missing = margin - (activations[:, :, None] - activations[:, None, :])
    pairs = labels_onehot[:, :, None] * (1.0 - labels_onehot[:, None, :])
    terms = jnp.sum(pairs * jnp.square(jnp.maximum(0.0, missing)), axis=1)
    return look_up(REDUCTIONS, reduction, "reduction")(_weighted(terms, weights))


def spread_margin(
    step: int | Int[Array, ""] | None,
    schedule: str = "linear",
    margin_start: float | Array = 0.2,
    margin_end: float | Array = 0.9,
    margin_steps: int | Int[Array, ""] = 20_000,
) -> float | Array:
    """Compute the margin of the spread loss at a step of training.

        linear:  m = start + (end - start) min(1, step / steps)
        sigmoid: m = start + (end - start) sigmoid(min(10, step / steps - 4))

    Args:
      step: number of steps done; None for the last margin.
      schedule: "linear", as in the paper, or "sigmoid", as in its authors' released code, which
        ends at 0.99 and has 50,000 `margin_steps`.
      margin_start, margin_end: the margins between which it rises.
      margin_steps: unit of the steps; for "linear" the step of the last margin.

    Raises:
      ValueError: for an unknown schedule (the nearest one is named).

    Source: Hinton et al. 2018, section 3.1 (they do not state the number of steps).

    >>> round(float(spread_margin(10_000)), 4)
    0.55
    """
    rise = look_up(MARGIN_SCHEDULES, schedule, "schedule of the margin (spread_loss.schedule)")
    if step is None:
        return margin_end
    return margin_start + (margin_end - margin_start) * rise(step / margin_steps)


def cross_entropy_loss(
    scores: Float[Array, "n k"],
    labels_onehot: Float[Array, "n k"],
    weights: Float[Array, "n"] | None = None,
) -> Float[Array, ""]:
    """Compute the cross-entropy between labels and the softmax of scores; mean over the batch.

        L = -Σ_k T_k log softmax_k(scores)

    For networks without capsules: capsule lengths are not logits.

    Args:
      scores: logits, (n, k).
      labels_onehot: T, 1 for the class of the image and 0 for the others, (n, k).
      weights: factor on the loss of each example; None for 1.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: for shapes that differ.

    >>> round(float(cross_entropy_loss(jnp.zeros((1, 10)), jnp.eye(10)[:1])), 4)
    2.3026
    """
    _check_labels(labels_onehot, scores)
    terms = optax.softmax_cross_entropy(scores, labels_onehot)
    return jnp.mean(terms if weights is None else weights * terms)


def binary_cross_entropy_loss(
    probabilities: Float[Array, "n k"],
    labels_onehot: Float[Array, "n k"],
    positive_weight: float | Array = 1.0,
    eps: float = 1e-7,
    weights: Float[Array, "n"] | None = None,
) -> Float[Array, ""]:
    """Compute the weighted binary cross-entropy of each class by itself; mean over all of them.

        L = -w T log p - (1 - T) log(1 - p)

    For scores in [0, 1], such as the lengths of capsules, which are not logits.

    Args:
      probabilities: p, (n, k).
      labels_onehot: T, 1 for present classes and 0 for absent ones, (n, k).
      positive_weight: w, the weight of the present classes, which are rare in maps.
      eps: p is kept this far from 0 and 1.
      weights: factor on the loss of each example; None for 1.

    Returns:
      A scalar, in nats.

    Raises:
      ValueError: for shapes that differ.

    Source: LaLonde and Bagci 2018, section 3.3, and their released code.

    >>> half = jnp.full((1, 2), 0.5)
    >>> round(float(binary_cross_entropy_loss(half, jnp.array([[1.0, 0.0]]), 3.0)), 4)
    1.3863
    """
    _check_labels(labels_onehot, probabilities)
    # In float32, because 1 - eps is 1 in half precision, and its logarithm infinite.
    dtype = jnp.promote_types(probabilities.dtype, jnp.float32)
    p = jnp.clip(probabilities.astype(dtype), eps, 1.0 - eps)
    present = positive_weight * labels_onehot * jnp.log(p)
    return -jnp.mean(_weighted(present + (1.0 - labels_onehot) * jnp.log1p(-p), weights))


def soft_dice_loss(
    probabilities: Float[Array, "n pixels k"],
    labels_onehot: Float[Array, "n pixels k"],
    smooth: float = 1e-5,
) -> Float[Array, ""]:
    """Compute 1 - the Dice coefficient of each image and class, on scores; mean over all of them.

        L = 1 - (2 Σ p T + ε) / (Σ p + Σ T + ε)

    Args:
      probabilities: p, scores in [0, 1] of the pixels of each image.
      labels_onehot: T, 1 for the class of a pixel and 0 for the others.
      smooth: ε, which makes scores of 0 cost nothing where no pixel has the class.

    Returns:
      A scalar.

    Raises:
      ValueError: for shapes that differ.

    Source: Milletari et al. 2016, section 3, without their squares.

    >>> p, T = jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.array([1.0, 0.0, 0.0, 0.0])
    >>> round(float(soft_dice_loss(p.reshape(1, 4, 1), T.reshape(1, 4, 1))), 4)
    0.3333
    """
    _check_labels(labels_onehot, probabilities)
    both = jnp.sum(probabilities * labels_onehot, axis=1)
    either = jnp.sum(probabilities, axis=1) + jnp.sum(labels_onehot, axis=1)
    return jnp.mean(1.0 - (2.0 * both + smooth) / (either + smooth))


def _check_labels(labels_onehot: Array, scores: Array) -> None:
    """Raise ValueError for labels that would be broadcast, such as integers."""
    if labels_onehot.shape != scores.shape:
        raise ValueError(
            f"labels are 0 or 1 for each class, of shape {scores.shape} as the scores, not "
            f"{labels_onehot.shape}: jax.nn.one_hot(labels, {scores.shape[-1]}) makes them"
        )


def _weighted(terms: Float[Array, "n k"], weights: Float[Array, "n"] | None) -> Float[Array, "n k"]:
    return terms if weights is None else weights[:, None] * terms


REDUCTIONS = {
    "sum": lambda terms: jnp.mean(jnp.sum(terms, axis=-1)),
    "mean": jnp.mean,
    "batch_sum": jnp.sum,
}

MARGIN_SCHEDULES = {
    "linear": lambda time: jnp.minimum(1.0, time),
    "sigmoid": lambda time: jax.nn.sigmoid(jnp.minimum(10.0, time - 4.0)),
}
