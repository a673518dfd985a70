"""Layers: Flax Linen modules that hold parameters, around the pure functions of the library."""

from capsjax.layers.capsules import ConvCaps, DenseCaps, PrimaryCaps, group_channels, group_pixels
from capsjax.layers.conv import Conv
from capsjax.layers.decoder import Decoder, PixelDecoder, UpsamplingDecoder
from capsjax.layers.depthwise import DepthwiseCaps
from capsjax.layers.dropout import Dropout
from capsjax.layers.head import CapsuleHead
from capsjax.layers.local_caps import LocalConvCaps, LocalDeconvCaps
from capsjax.layers.pooling import Pool
from capsjax.layers.pose_decoder import PoseDecoder
from capsjax.layers.shared_caps import SharedConvCaps
from capsjax.layers.transposed import TransposedConv

__all__ = [
    "CapsuleHead",
    "Conv",
    "ConvCaps",
    "Decoder",
    "DenseCaps",
    "DepthwiseCaps",
    "Dropout",
    "LocalConvCaps",
    "LocalDeconvCaps",
    "PixelDecoder",
    "Pool",
    "PoseDecoder",
    "PrimaryCaps",
    "SharedConvCaps",
    "TransposedConv",
    "UpsamplingDecoder",
    "group_channels",
    "group_pixels",
]
