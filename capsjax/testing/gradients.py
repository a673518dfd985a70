"""Gradients of a function under test, by JAX, by PyTorch's tensors, or by its own function."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capsjax.testing.subject import Inputs, Subject, raised_by_function

_OPERANDS = ("votes", "activations")


def gradient_function(subject: Subject) -> Callable[[Inputs], list[np.ndarray]]:
    """Return a function that computes gradients with respect to votes and activations.

    They are gradients of a weighted sum of the outputs: a plain one can be constant.

    Raises:
      Raised: if nothing is known to differentiate the function.
    """
    if subject.gradient is not None:
        return lambda inputs: _given(subject, inputs)
    if hasattr(subject.convert(np.zeros(1, np.float32)), "requires_grad_"):
        return lambda inputs: _torch(subject, inputs)
    with raised_by_function():
        jax.eval_shape(lambda arrays: _weighted_sum(subject, arrays), dict(subject.inputs().arrays))
    return _jax(subject)


def _given(subject: Subject, inputs: Inputs) -> list[np.ndarray]:
    arrays = {name: subject.convert(x.copy()) for name, x in inputs.arrays.items()}
    operands = [arrays.pop(name) for name in _OPERANDS]
    if subject.claims.activations == "none":
        operands.pop()
    with raised_by_function():
        gradients = subject.gradient(*operands, **arrays)
    gradients = gradients if isinstance(gradients, tuple | list) else [gradients]
    return [np.asarray(gradient, np.float64) for gradient in gradients]


def _torch(subject: Subject, inputs: Inputs) -> list[np.ndarray]:
    arrays = {name: subject.convert(x.copy()) for name, x in inputs.arrays.items()}
    for name in _OPERANDS:
        arrays[name].requires_grad_()
    with raised_by_function():
        total = _weighted_sum(subject, arrays)
        if total.requires_grad:
            total.backward()
    gradients = [(name, arrays[name].grad) for name in _OPERANDS]
    return [
        np.zeros_like(inputs.arrays[name]) if x is None else np.asarray(x.cpu(), np.float64)
        for name, x in gradients
    ]


def _jax(subject: Subject) -> Callable[[Inputs], list[np.ndarray]]:
    def loss(operands: Mapping[str, Any], others: Mapping[str, Any]) -> Any:
        return _weighted_sum(subject, {**operands, **others})

    differentiate = jax.grad(loss)

    def gradients_at(inputs: Inputs) -> list[np.ndarray]:
        arrays = {name: jnp.asarray(x) for name, x in inputs.arrays.items()}
        operands = {name: arrays.pop(name) for name in _OPERANDS}
        with raised_by_function():
            gradients = differentiate(operands, arrays)
        return [np.asarray(gradients[name], np.float64) for name in _OPERANDS]

    return gradients_at


def _weighted_sum(subject: Subject, arrays: Mapping[str, Any]) -> Any:
    total = 0.0
    for stream, part in enumerate(subject.outputs(arrays)[:2]):
        if part is not None:
            weights = subject.convert(subject.random(10 + stream, *part.shape))
            total = total + (part * weights).sum()
    return total
