"""Matrix capsules with variational Bayes routing."""

from collections.abc import Mapping
from typing import Any

from capsjax.models.matrix_capsules import MatrixCapsules, make_matrix_capsules
from capsjax.registry import settings_in
from capsjax.routing import ROUTING, make_routing
from capsjax.tasks import Task


def make_vb_capsules(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    routing: Mapping[str, Any],
    task: Task,
    **sections: Any,
) -> MatrixCapsules:
    """Make the network of De Sousa Ribeiro et al. 2020 from the sub-dicts of a config.

    Args:
      image_shape, num_classes, routing, task: as in the other networks.
      **sections: the other settings of `make_matrix_capsules`.
    """
    del task  # there is no decoder that needs classes
    layers = make_routing(routing["name"], **settings_in(routing, ROUTING))
    return make_matrix_capsules(
        image_shape, num_classes, routing=layers, class_routing=layers, **sections
    )
