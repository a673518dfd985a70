"""The decoder of a network, as a program that a page runs: decoder.js has its operations."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from capsjax.layers import Decoder, PoseDecoder, UpsamplingDecoder
from capsjax.layers.pose_decoder import zeros_of_kernel
from capsjax.models import CapsNet, DeepCaps, EfficientCapsNet
from capsjax.reports.page.pictures import numbers
from capsjax.runs.predictor import Predictor

# What the decoder of each network is given: all poses, those that are not decoded being zero, or
# the pose that is. Others may do anything in `decode`.
INPUTS = {CapsNet: "masked", EfficientCapsNet: "masked", DeepCaps: "pose"}
# Weights that a page holds: eight megabytes of text.
MOST_WEIGHTS = 3_000_000

Steps = Iterator[dict[str, Any]]


class Program(NamedTuple):
    """A decoder as a list of operations.

    Attributes:
      takes: "masked" or "pose", see `INPUTS`.
      steps: the operations, with their weights as text.
      products: multiplications for one image.
    """

    takes: str
    steps: list[dict[str, Any]]
    products: int


def program_of(predictor: Predictor) -> Program | None:
    """Return the decoder of a network as a program.

    Returns:
      None where a page cannot run it: without a decoder, for one of a user's own, for more than
      `MOST_WEIGHTS`, and for weights beyond the range of float16.
    """
    takes = INPUTS.get(type(predictor.model))
    weights = predictor.variables["params"].get("decoder_layer")
    if takes is None or weights is None:
        return None
    decoder = predictor.model.bind(predictor.variables).decoder_layer
    make = OPERATIONS.get(type(decoder))
    if make is None or sum(each.size for each in _leaves(weights)) > MOST_WEIGHTS:
        return None
    if any(np.abs(each).max() > np.finfo(np.float16).max for each in _leaves(weights)):
        return None
    steps = list(make(decoder, decoder.variables))
    return Program(takes, [_as_text(step) for step in steps], sum(map(_products, steps)))


def _dense_decoder(decoder: Decoder, variables: Mapping[str, Any]) -> Steps:
    params = variables["params"]
    for index in range(len(decoder.hidden)):
        yield _dense(params[f"hidden_{index}"])
        yield {"do": "relu"}
    yield _dense(params["pixels"])
    yield {"do": "sigmoid"}
    yield {"do": "shape", "shape": list(decoder.image_shape)}


def _upsampling_decoder(decoder: UpsamplingDecoder, variables: Mapping[str, Any]) -> Steps:
    params = variables["params"]
    growth = 2 ** len(decoder.features)
    h, w = (size // growth + 2 for size in decoder.image_shape[:2])
    yield _dense(params["map"])
    yield {"do": "shape", "shape": [h, w, 1]}
    for index in range(len(decoder.features)):
        h, w = 2 * h - 2, 2 * w - 2
        yield {"do": "double"}
        yield _conv(params[f"conv_{index}"], h * w)
        yield {"do": "leaky_relu", "slope": decoder.negative_slope}
    h, w = h - 2, w - 2
    yield _conv(params["pixels"], h * w)
    yield {"do": "sigmoid"}


def _pose_decoder(decoder: PoseDecoder, variables: Mapping[str, Any]) -> Steps:
    params, norm = variables["params"], variables["params"]["norm"]["batch"]
    statistics = variables["batch_stats"]["norm"]["batch"]
    scale = norm["scale"] / np.sqrt(statistics["var"] + decoder.epsilon)
    h, w = (size // math.prod(decoder.stride) for size in decoder.image_shape[:2])
    yield _dense(params["map"])
    yield {"do": "relu"}
    yield {"do": "shape", "shape": [h, w, decoder.map_features]}
    yield {"do": "affine", "scale": scale, "bias": norm["bias"] - statistics["mean"] * scale}
    layers = [(f"deconv_{index}", stride) for index, stride in enumerate(decoder.stride)]
    for name, stride in (*layers, ("pixels", 1)):
        zeros = zeros_of_kernel(stride)
        kernel = np.pad(params[f"{name}_kernel"], (zeros, zeros, (0, 0), (0, 0)))
        yield {
            "do": "transposed",
            "kernel": kernel,
            "bias": params[f"{name}_bias"],
            "shape": list(kernel.shape),
            "stride": stride,
            "products": h * w * kernel.size,
        }
        h, w = stride * h, stride * w
    yield {"do": "relu"}


OPERATIONS: dict[type, Callable[[Any, Mapping[str, Any]], Steps]] = {
    Decoder: _dense_decoder,
    PoseDecoder: _pose_decoder,
    UpsamplingDecoder: _upsampling_decoder,
}


def _dense(params: Mapping[str, Any]) -> dict[str, Any]:
    kernel = params["kernel"]
    return {"do": "dense", **params, "shape": list(kernel.shape), "products": kernel.size}


def _conv(params: Mapping[str, Any], positions: int) -> dict[str, Any]:
    kernel = params["kernel"]
    products = positions * kernel.size
    return {"do": "conv", **params, "shape": list(kernel.shape), "products": products}


def _products(step: Mapping[str, Any]) -> int:
    return step.get("products", 0)


def _as_text(step: Mapping[str, Any]) -> dict[str, Any]:
    """Write weights in float16, which are many, and the rest of the numbers in float32."""
    types = {"kernel": np.float16, "bias": np.float32, "scale": np.float32}
    return {
        name: numbers(np.asarray(value), types[name]) if name in types else value
        for name, value in step.items()
        if name != "products"
    }


def _leaves(weights: Mapping[str, Any]) -> Iterator[np.ndarray]:
    for value in weights.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield np.asarray(value)
