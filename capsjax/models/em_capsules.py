"""Matrix capsules with EM routing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from capsjax.models.matrix_capsules import MatrixCapsules, make_matrix_capsules
from capsjax.registry import settings_in
from capsjax.routing import ROUTING, make_routing
from capsjax.tasks import Task

# Settings of EM routing that class capsules have of their own.
OF_CLASSES = ("final_lambda", "min_mass", "beta_u_init", "beta_a_init")


def make_em_capsules(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    conv: Mapping[str, Any],
    capsules: Mapping[str, Any],
    primary_caps: Mapping[str, Any],
    conv_caps: Mapping[str, Any],
    class_caps: Mapping[str, Any],
    routing: Mapping[str, Any],
    readout: str,
    compute: Mapping[str, Any],
    task: Task,
    input: Mapping[str, Any] | None = None,
) -> MatrixCapsules:
    """Make the network of Hinton et al. 2018 from the sub-dicts of a config.

    `class_caps` has those settings of EM routing that differ there; other routing
    algorithms do without them.
    """
    del task  # there is no decoder that needs classes
    layers = make_routing(routing["name"], **settings_in(routing, ROUTING))
    of_classes = {name: class_caps[name] for name in OF_CLASSES}
    is_em = isinstance(layers, ROUTING["em"])
    return make_matrix_capsules(
        image_shape,
        num_classes,
        routing=layers,
        class_routing=dataclasses.replace(layers, **of_classes) if is_em else layers,
        conv=conv,
        capsules=capsules,
        primary_caps=primary_caps,
        conv_caps=conv_caps,
        class_caps={key: class_caps[key] for key in class_caps if key not in OF_CLASSES},
        readout=readout,
        compute=compute,
        input=input,
    )
