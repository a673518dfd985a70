"""Layers: Flax Linen modules that hold parameters, around the pure functions of the library."""

from capsjax.layers.capsules import ConvCaps, DenseCaps, PrimaryCaps, group_channels, group_pixels
from capsjax.layers.conv import Conv
from capsjax.layers.decoder import Decoder, UpsamplingDecoder
from capsjax.layers.depthwise import DepthwiseCaps
from capsjax.layers.dropout import Dropout
from capsjax.layers.pooling import Pool

__all__ = [
    "Conv",
    "ConvCaps",
    "Decoder",
    "DenseCaps",
    "DepthwiseCaps",
    "Dropout",
    "Pool",
    "PrimaryCaps",
    "UpsamplingDecoder",
    "group_channels",
    "group_pixels",
]
