"""Placement of arrays: on one device, on all of them, or on those of several processes."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding


def make_mesh(axis: str) -> Mesh:
    """Make a mesh of all devices of all processes, with one axis of the given name."""
    return Mesh(np.array(jax.devices()), (axis,))


def everywhere(mesh: Mesh) -> Sharding:
    """Return the sharding of a value of which each device of the mesh has a copy."""
    if mesh.size == 1:
        return SingleDeviceSharding(mesh.devices.item())
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copy each array to every device; all processes have the same values."""
    sharding = everywhere(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    # device_put would send all values to all processes, to compare them.
    def place(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def to_host(tree: Any) -> Any:
    """Fetch whole arrays as numpy in every process, however they are divided over the devices."""

    def fetch(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(fetch, tree)
