"""Components that a config names: their settings, what a run is, and fields of earlier versions."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from capsjax import routing
from capsjax.config import load_config, make_config
from capsjax.config.renamed import ADDED_FIELDS, modernize, new_name
from capsjax.config.tagged import resolve, resolved, traced_numbers
from capsjax.notation import LearnedArray, Routed
from capsjax.ops import safe_norm, squash
from capsjax.runs.workdir import flatten
from capsjax.sweeps import levels_of, make_sweep, trials_of
from capsjax.training.population import numbers_of, structure_of
from tests.tiny import tiny_config


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Learned couplings, with a temperature."""

    temperature: float = 1.0

    TRACED = ("temperature",)

    def learned_arrays(self, i, j, p, d):
        return {"b": LearnedArray((i, j), jax.nn.initializers.zeros)}

    def __call__(self, votes, activations, learned):
        c = jax.nn.softmax(learned["b"] / self.temperature)
        c = jnp.broadcast_to(jnp.expand_dims(c, range(votes.ndim - 3)), votes.shape[:-1])
        v = squash(jnp.einsum("...ij,...ijd->...jd", c, votes))
        return Routed(v, safe_norm(v), c)


@pytest.fixture
def weighted():
    """Registered for one test."""
    known = dict(routing.ROUTING)
    routing.register("weighted", Weighted)
    yield
    routing.ROUTING.clear()
    routing.ROUTING.update(known)


def test_every_algorithm_has_its_own_settings_and_none_of_the_others():
    section = make_config().model.routing
    assert section.name == "dynamic"
    assert set(section.dynamic) == {"num_iterations", "gradient", "leaky", "use_bias", "bias_init"}
    assert set(section.uniform) == {"leaky", "use_bias", "bias_init"}


def test_a_run_is_what_the_named_components_read():
    fields = resolved(make_config())
    assert set(fields["model"]["routing"]) == {"name", "dynamic"}
    assert fields["task"] == {"name": "classification"}
    config = make_config("capsule_pooling")
    assert set(resolved(config)["model"]["pool"]) == {
        "after",
        "window",
        "padding",
        "name",
        "capsule",
    }
    config.model.pool.name = "max"
    assert set(resolved(config)["model"]["pool"]) == {"after", "window", "padding", "name"}


def test_an_algorithm_that_is_added_changes_no_run(weighted):
    with_it = make_config()
    assert with_it.model.routing.weighted.temperature == 1.0
    del routing.ROUTING["weighted"]
    assert resolve(with_it.to_dict()) != resolved(make_config()), "it is no component now"
    routing.register("weighted", Weighted)
    assert resolved(with_it)["model"]["routing"].keys() == {"name", "dynamic"}


def test_a_flag_can_switch_the_algorithm(weighted):
    config = tiny_config(model__routing__name="weighted", model__routing__weighted__temperature=2.0)
    assert set(resolved(config)["model"]["routing"]) == {"name", "weighted"}


def test_numbers_of_a_population_are_those_that_the_algorithm_names(weighted):
    configs = [
        tiny_config(model__routing__name="weighted", model__routing__weighted__temperature=t)
        for t in (1.0, 2.0)
    ]
    fields = [flatten(resolved(config)) for config in configs]
    assert traced_numbers(fields[0]) == {"model.routing.weighted.temperature": float}
    assert structure_of(fields[0]) == structure_of(fields[1])
    assert set(numbers_of(fields)) == {"seed", "model.routing.weighted.temperature"}


def test_a_sweep_over_algorithms_has_no_factor_that_one_of_them_has_not(weighted):
    sweep = make_sweep(
        "algorithms",
        tiny_config(),
        {
            "routing": levels_of("model.routing.name", ("dynamic", "uniform", "weighted")),
            "rounds": levels_of("model.routing.dynamic.num_iterations", (1, 3)),
        },
        num_seeds=1,
    )
    ids = [trial.id for trial in trials_of(sweep)]
    assert ids == [
        "routing=dynamic,rounds=1,seed=0",
        "routing=dynamic,rounds=3,seed=0",
        "routing=uniform,rounds=1,seed=0",
        "routing=weighted,rounds=1,seed=0",
    ]
    kept = resolved(sweep)["base"]["model"]["routing"]
    assert set(kept) == {"name", "dynamic", "uniform", "weighted"}


@pytest.mark.parametrize(
    ("field", "now"),
    [
        ("model.routing.gradient", "model.routing.dynamic.gradient"),
        ("model.pool.temperature", "model.pool.capsule.temperature"),
        ("model.pool.pooling", "model.pool.name"),
        ("model.routing.name", None),
        ("seed", None),
    ],
)
def test_fields_of_earlier_versions_have_a_new_name(field, now):
    assert new_name(field) == now


def old_fields(preset):
    """A config as version 0.1 wrote it."""
    fields = resolved(load_config("digits", preset))
    del fields["task"], fields["schedule"]["anneal_epochs"]
    for name in ("momentum", "name", "weight_decay"):
        del fields["optimizer"][name]
    model = fields["model"]
    if preset == "paper":
        model["routing"].update(model["routing"].pop("dynamic"))
        del model["conv_caps"], model["class_caps"]["norm"]
    else:
        model["pool"].update(model["pool"].pop("capsule", {}))
        model["pool"]["pooling"] = model["pool"].pop("name")
    return fields


def test_added_fields_have_their_value_from_before_by_default():
    fields = resolved(make_config())
    assert fields["schedule"]["anneal_epochs"] == ADDED_FIELDS["schedule.anneal_epochs"]
    assert fields["task"] == ADDED_FIELDS["task"]
    for name in ("momentum", "name", "weight_decay"):
        assert fields["optimizer"][name] == ADDED_FIELDS[f"optimizer.{name}"]


@pytest.mark.parametrize("preset", ["paper", "capsule_pooling"])
def test_a_config_of_an_earlier_version_is_read_as_it_was_meant(preset):
    assert modernize(old_fields(preset)) == resolved(load_config("digits", preset))
    assert modernize({"base": old_fields(preset)})["base"] == modernize(old_fields(preset))


@pytest.mark.parametrize(
    "config", [("em_capsules",), ("em_capsules", "released"), ("vb_capsules",)]
)
def test_a_run_from_before_images_were_cropped_has_whole_images(config):
    fields = resolved(load_config(*config))
    whole = fields["model"].pop("input")
    assert (whole["crop"], whole["standardize"]) == (0, "none")
    assert modernize(fields) == resolved(load_config(*config))
    # And one that cropped them, but tested the central crop alone.
    del whole["crops"]
    fields["model"]["input"] = whole
    assert modernize(fields) == resolved(load_config(*config))
    assert "input" not in modernize(resolved(make_config()))["model"]


def test_an_old_config_of_uniform_routing_loses_what_was_never_read():
    fields = old_fields("paper")
    fields["model"]["routing"]["name"] = "uniform"
    section = modernize(fields)["model"]["routing"]
    assert section["name"] == "uniform"
    assert set(section["uniform"]) == {"leaky", "use_bias", "bias_init"}


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="there is a routing algorithm 'dynamic' already"):
        routing.register("dynamic", Weighted)
    with pytest.raises(ValueError, match="is an identifier, not 'my routing'"):
        routing.register("my routing", Weighted)
    with pytest.raises(ValueError, match="make it a frozen dataclass"):
        routing.register("mine", object)
