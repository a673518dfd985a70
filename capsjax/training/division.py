"""Explicit division of a batch over devices.

Each device runs the single-device program on its share. Nothing is left to the compiler, which
would have to work out how to divide every form of convolution and routing.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Num


def on_every_device(function: Callable, mesh: Mesh) -> Callable:
    """Run a function on every device, with all of its arguments on each of them.

    Its results must be the same on all devices: those that come from a share of the work go
    through `lax.pmean` or `lax.all_gather`.
    """
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
        # The check would require every hand-written gradient to declare the axes it varies over.
        check_vma=False,
    )


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Check that each device gets the same number of images of a batch.

    Raises:
      ValueError: if it does not.
    """
    if batch_size % mesh.size:
        below = batch_size - batch_size % mesh.size
        fitting = f"{below} or {below + mesh.size}" if below else str(mesh.size)
        raise ValueError(
            f"train.batch_size={batch_size} does not divide by the {mesh.size} devices: take "
            f"{fitting}, or show the program fewer devices (CUDA_VISIBLE_DEVICES)"
        )


def share(x: Num[Array, "n ..."], mesh: Mesh) -> Num[Array, "m ..."]:
    """Return this device's part of a batch, within `on_every_device`."""
    (axis,) = mesh.axis_names
    size = len(x) // mesh.size
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * size, size)


def mean_over_devices(tree: Any, mesh: Mesh) -> Any:
    """Average each array over the devices, within `on_every_device`.

    All arrays are sent as one: most of the cost of a message between machines is per message.
    """
    flat, unflatten = ravel_pytree(tree)
    return unflatten(lax.pmean(flat, mesh.axis_names))
