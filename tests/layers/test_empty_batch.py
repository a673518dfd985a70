"""A batch of no images has no outputs, and no errors either."""

import jax
import jax.numpy as jnp
import pytest

from capsjax import layers
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import FORMS
from capsjax.layers.votes import MatrixVotes
from capsjax.notation import Capsules
from capsjax.routing import make_routing

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")
ROUTED = {"pose_size": 4, "routing": make_routing("dynamic")}
IN_GROUPS = {"pose_size": 4, "routing": make_routing("em")}
HELD = Compute(votes="held")

IMAGES, POSES = (8, 8, 2), (3, 4)
# Layers by what they take: images, capsules on a grid, or poses of classes.
OF_IMAGES = {
    "conv": layers.Conv(3, 3),
    **{f"conv {form}": layers.Conv(3, 3, compute=Compute(conv=form)) for form in FORMS},
    "transposed": layers.TransposedConv(3),
    "pool": layers.Pool(),
    "primary": layers.PrimaryCaps(types=2, pose_size=4, kernel_size=3),
    "primary pixels": layers.PrimaryCaps(types=2, pose_size=4, kernel_size=3, grouping="pixels"),
    "depthwise": layers.DepthwiseCaps(pose_size=2, kernel_size=3),
    "head": layers.CapsuleHead(3),
}
OF_CAPSULES = {
    "dense": layers.DenseCaps(3, **ROUTED),
    "dense held": layers.DenseCaps(3, **ROUTED, compute=HELD),
    "dense in groups": layers.DenseCaps(3, **IN_GROUPS),
    "dense matrices": layers.DenseCaps(3, **ROUTED, votes=MatrixVotes()),
    "gathered": layers.ConvCaps(3, **ROUTED),
    "summed": layers.ConvCaps(3, **ROUTED, windows="summed"),
    "scrambled": layers.ConvCaps(3, **ROUTED, windows="scrambled"),
    "shared": layers.SharedConvCaps(3, **ROUTED),
    "local": layers.LocalConvCaps(3, **ROUTED),
    "local held": layers.LocalConvCaps(3, **ROUTED, compute=HELD),
    "local transposed": layers.LocalDeconvCaps(3, **ROUTED),
}
OF_POSES = {
    "decoder": layers.Decoder(IMAGES, hidden=(4,)),
    "upsampling": layers.UpsamplingDecoder(IMAGES, features=(3,)),
}
OTHERS = {
    "pose decoder": (layers.PoseDecoder(IMAGES, 2, (3,), (2,)), (4,), {"training": False}),
    "pixel decoder": (layers.PixelDecoder(2), IMAGES, {}),
}
CASES = {
    **{name: (layer, IMAGES, {}) for name, layer in OF_IMAGES.items()},
    **{name: (layer, (5, 5, 2, 4), {}) for name, layer in OF_CAPSULES.items()},
    **{name: (layer, POSES, {}) for name, layer in OF_POSES.items()},
    **OTHERS,
}


@pytest.mark.parametrize("name", CASES)
def test_no_images(name):
    layer, shape, settings = CASES[name]

    def batch(n):
        x = jnp.ones((n, *shape))
        return Capsules(x, x[..., 0]) if name in OF_CAPSULES else x

    def shapes(n):
        variables = jax.eval_shape(lambda key, x: layer.init(key, x, **settings), KEY, batch(1))
        apply = lambda variables, x: layer.apply(variables, x, **settings)  # noqa: E731
        return [x.shape for x in jax.tree.leaves(jax.eval_shape(apply, variables, batch(n)))]

    assert shapes(0) == [(0, *each[1:]) for each in shapes(1)]
