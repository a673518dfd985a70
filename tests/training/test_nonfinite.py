"""The place where a value that is not finite arose: each layer, each round, each gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.routing import ROUTING, DynamicRouting
from capsjax.training import objective
from capsjax.training.build import build
from capsjax.training.nonfinite import find_non_finite
from tests.setting import Setting
from tests.tiny import tiny_config, tiny_convnet_config

STEP = 5


@pytest.fixture(scope="module")
def capsnet():
    return Setting(tiny_config())


@pytest.fixture(scope="module")
def convnet():
    return Setting(tiny_convnet_config())


def find(setting, params, built=None):
    variables = {**setting.start().variables, "params": params}
    images, labels = setting.training.images, setting.training.labels
    return find_non_finite(setting.config, built or setting.built, variables, STEP, images, labels)


def with_weight(setting, path, value):
    """The first parameters, with one number in one array replaced."""

    def put(names, leaf):
        name = "/".join(key.key for key in names)
        return leaf.at[(0,) * leaf.ndim].set(value) if name == path else leaf

    return jax.tree_util.tree_map_with_path(put, setting.start().params)


@pytest.mark.ci
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("conv_layer/kernel", "the parameter kernel of conv_layer"),
        ("primary_layer/conv/bias", "the parameter bias of primary_layer/conv"),
        ("class_layer/W", "the parameter W of class_layer"),
        ("decoder_layer/pixels/kernel", "the parameter kernel of decoder_layer/pixels"),
    ],
)
def test_a_weight_that_is_not_finite_is_named(capsnet, path, found, value):
    assert find(capsnet, with_weight(capsnet, path, value)) == found


@pytest.mark.ci
def test_of_two_layers_the_first_is_named(capsnet):
    params = with_weight(capsnet, "primary_layer/conv/kernel", np.nan)
    params = {**params, "class_layer": {"W": params["class_layer"]["W"] * np.nan}}
    assert find(capsnet, params) == "the parameter kernel of primary_layer/conv"


@pytest.mark.ci
def test_a_network_without_capsules_has_layers_too(convnet):
    params = with_weight(convnet, "dense_0/kernel", np.nan)
    assert find(convnet, params) == "the parameter kernel of dense_0"


@pytest.mark.ci
def test_an_overflow_is_named_by_the_layer_whose_output_it_is(capsnet):
    params = capsnet.start().params
    conv = jax.tree.map(lambda x: x * 1e25, params["conv_layer"])
    primary = jax.tree.map(lambda x: x * 1e25, params["primary_layer"])
    params = {**params, "conv_layer": conv, "primary_layer": primary}
    assert find(capsnet, params) == "the output of primary_layer/conv"


@dataclasses.dataclass(frozen=True)
class Breaking(DynamicRouting):
    """Routing that overflows in one of its rounds."""

    breaks_at: int = 2

    route_poses = property()  # votes are held

    def __call__(self, votes, activations, learned):
        routed = super().__call__(votes, activations, learned)
        factor = jnp.where(self.num_iterations >= self.breaks_at, jnp.inf, 1.0)
        return routed._replace(v=routed.v * factor)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_round_of_routing_is_named(capsnet, monkeypatch, number):
    monkeypatch.setitem(ROUTING, "breaking", Breaking)
    config = capsnet.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.routing.name = "breaking"
        config.model.routing.breaking = {"num_iterations": 3, "breaks_at": number}
    training = capsnet.training
    built = build(config, training.image_shape, training.num_classes, len(training))
    found = find(capsnet, capsnet.start().params, built)
    assert found == f"round {number} of the routing of class_layer"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["held", "recomputed"])
def test_the_round_is_named_in_both_forms_of_votes(form):
    setting = Setting(tiny_config(model__compute__votes=form))
    params = setting.start().params
    params = {**params, "class_layer": {"W": params["class_layer"]["W"] * 1e38}}
    assert find(setting, params) == "round 1 of the routing of class_layer"


@pytest.mark.slow
def test_a_loss_is_named(capsnet, monkeypatch):
    monkeypatch.setitem(objective.LOSSES, "margin", lambda *_, **__: jnp.array(jnp.nan))
    assert find(capsnet, capsnet.start().params) == "the loss margin"


@pytest.mark.ci
def test_a_gradient_is_named_by_the_last_layer_that_has_it(capsnet, monkeypatch):
    def loss(output, *_, **__):
        return jnp.sum(jnp.sqrt(0.0 * output.scores))  # 0, with a gradient of 0 · infinity

    monkeypatch.setitem(objective.LOSSES, "margin", loss)
    assert find(capsnet, capsnet.start().params) == "the gradient of class_layer"


@pytest.mark.ci
def test_a_step_that_is_finite_but_for_its_norm_is_told_apart(capsnet, monkeypatch):
    monkeypatch.setitem(objective.LOSSES, "margin", lambda output, *_, **__: output.scores.sum())
    found = find(capsnet, capsnet.start().params)
    assert found == "the norm of the gradient, which is largest in conv_layer"
