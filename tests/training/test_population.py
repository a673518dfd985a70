"""A population of trials in one program: each member is the run that its config describes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config.tagged import resolved
from capsjax.data import load_training
from capsjax.metrics import Sums, means_of
from capsjax.runs.workdir import flatten
from capsjax.training.build import build, build_evaluate, build_train_steps
from capsjax.training.population import (
    NUMBERS,
    Population,
    Sizes,
    choose_member_form,
    init_member,
    keep_better,
    numbers_in,
    numbers_of,
    structure_of,
)
from tests.tiny import tiny_config

STEPS = 6  # more than an epoch of four

# Every number that may be data, none at its default.
OTHERS = {
    "seed": 7,
    "augment__brightness": 0.1,
    "augment__contrast": 0.2,
    "augment__elastic": 0.8,
    "augment__flip_horizontal": 0.5,
    "augment__flip_vertical": 0.4,
    "augment__noise": 0.1,
    "augment__rotation": 20.0,
    "augment__scale": 0.2,
    "schedule__learning_rate": 0.004,
    "schedule__floor": 0.0035,
    "loss_weights__margin": 0.7,
    "loss_weights__reconstruction": 0.001,
    "loss_weights__spread": 0.4,
    "margin_loss__m_plus": 0.8,
    "margin_loss__m_minus": 0.2,
    "margin_loss__down_weight": 0.3,
    "spread_loss__margin_start": 0.3,
    "spread_loss__margin_end": 0.8,
    "spread_loss__margin_steps": 5,
    "model__routing__dynamic__num_iterations": 1,
}


def config_of_all(**overrides):
    """A config that has all of these numbers: with the spread loss beside the margin loss."""
    of_spread = {"margin_start": 0.2, "margin_end": 0.9, "margin_steps": 4}
    overrides = {"loss_weights__spread": 0.1, "spread_loss": of_spread, **overrides}
    return tiny_config(**overrides)


@pytest.fixture(scope="module")
def data():
    training, validation = load_training(**tiny_config().data)
    return training, validation, Sizes(training.image_shape, training.num_classes, len(training))


def alone(config, data):
    """Parameters, window and evaluation of one run, as train.py makes them."""
    training, validation, sizes = data
    built = build(config, *sizes)
    state = built.init_state(config.seed)
    steps, taken = jax.jit(build_train_steps(config, built)), 0
    while taken < STEPS:
        state, health = steps(state, training.images, training.labels, np.int32(STEPS - taken))
        taken = int(state.step)
        assert bool(health.finite)
    evaluation = jax.jit(build_evaluate(config, built))(
        state.variables, validation.images, validation.labels
    )
    return state, evaluation


def together(configs, data, form):
    training, validation, sizes = data
    numbers = numbers_of([flatten(resolved(config)) for config in configs])
    population = Population(configs[0], numbers, sizes, form)
    states = [init_member(config, sizes)(config.seed) for config in configs]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    steps, taken = jax.jit(population.train_steps), 0
    while taken < STEPS:
        left = np.full(len(configs), STEPS - taken, np.int32)
        states, _ = steps(numbers, states, left, training.images, training.labels)
        taken = int(states.step[0])
    evaluations = jax.jit(population.evaluate)(
        numbers, states.variables, validation.images, validation.labels
    )
    return states, evaluations


@pytest.mark.ci
@pytest.mark.parametrize(
    ("form", "gradient"),
    [
        ("vmap", "stop"),
        ("map", "full"),
        pytest.param("vmap", "full", marks=pytest.mark.long),
        pytest.param("map", "stop", marks=pytest.mark.long),
    ],
)
def test_a_member_is_the_single_run_of_its_config(data, form, gradient):
    configs = [
        config_of_all(model__routing__dynamic__gradient=gradient),
        config_of_all(model__routing__dynamic__gradient=gradient, **OTHERS),
    ]
    states, evaluations = together(configs, data, form)
    for index, config in enumerate(configs):
        state, evaluation = alone(config, data)
        member = jax.tree.map(lambda x: x[index], (states, evaluations))  # noqa: B023
        chex.assert_trees_all_close(member, (state, evaluation), atol=1e-4, rtol=1e-4)
    different = jax.tree.map(lambda x: float(jnp.abs(x[0] - x[1]).max()), states.params)
    assert min(jax.tree.leaves(different)) > 1e-4, "the members should not be alike"


@pytest.mark.ci
def test_each_number_is_read(data):
    # Long capsules from the start, else no absent class costs anything; a floor matters where the
    # rate falls.
    common = {
        "schedule__decay_every": 1,
        "schedule__decay_rate": 0.5,
        "model__class_caps__kernel_init": "truncated_normal(1.0)",
    }
    # Each differs from the first in one number, so that none hides behind another.
    changed = [{}, *({name: value} for name, value in OTHERS.items())]
    configs = [config_of_all(**common, **change) for change in changed]
    states, _ = together(configs, data, "map")
    W = states.params["class_layer"]["W"].reshape(len(configs), -1)
    largest = jnp.abs(W - W[:1]).max(axis=1)
    for change, difference in zip(changed[1:], largest[1:].tolist(), strict=True):
        assert difference > 1e-6, change


def test_the_list_of_numbers_is_tested_whole():
    known = numbers_in(flatten(resolved(config_of_all())))
    assert {name.replace("__", ".") for name in OTHERS} == set(known)
    assert set(NUMBERS) < set(known), "and those that the routing algorithm names"


@pytest.mark.ci
def test_no_steps_freeze_a_member_and_nan_stays_with_its_own(data):
    training, _, sizes = data
    configs = [tiny_config(seed=seed) for seed in range(3)]
    configs[1] = tiny_config(seed=1, schedule__learning_rate=1e30)
    numbers = numbers_of([flatten(resolved(config)) for config in configs])
    states = [init_member(config, sizes)(config.seed) for config in configs]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    for form in ("vmap", "map"):
        steps = jax.jit(Population(configs[0], numbers, sizes, form).train_steps)
        after, healths = steps(
            numbers, states, np.array([4, 4, 0], np.int32), training.images, training.labels
        )
        assert healths.finite.tolist() == [True, False, True]
        assert after.step[0] == 4
        assert 1 <= after.step[1] < 4
        frozen = jax.tree.map(lambda x: x[2], (states, after))
        chex.assert_trees_all_equal(*frozen)
        chex.assert_tree_all_finite(jax.tree.map(lambda x: x[0], after.params))


@pytest.mark.slow
def test_one_compilation_for_any_values(data):
    training, _, sizes = data
    configs = [tiny_config(seed=seed) for seed in range(2)]
    numbers = numbers_of([flatten(resolved(config)) for config in configs])
    population = Population(configs[0], numbers, sizes, "map")
    steps = jax.jit(chex.assert_max_traces(population.train_steps, n=1))
    states = [init_member(config, sizes)(config.seed) for config in configs]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    for count, seeds in ((1, (0, 1)), (3, (5, 6))):
        left = np.full(2, count, np.int32)
        numbers = {"seed": np.array(seeds, np.int32)}
        states, _ = steps(numbers, states, left, training.images, training.labels)
    assert states.step.tolist() == [4, 4]


def test_learning_rates_of_members(data):
    configs = [tiny_config(schedule__learning_rate=rate) for rate in (0.001, 0.01)]
    numbers = numbers_of([flatten(resolved(config)) for config in configs])
    rates = Population(configs[0], numbers, data[2], "vmap").learning_rates(numbers, 2000)
    np.testing.assert_allclose(rates, [0.001 * 0.96, 0.01 * 0.96], rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_members_anneal_as_their_single_runs_do(data, name):
    starts, floors = (0.001, 0.01), (0.0, 0.002)
    configs = [
        tiny_config(schedule__name=name, schedule__learning_rate=start, schedule__floor=floor)
        for start, floor in zip(starts, floors, strict=True)
    ]
    numbers = numbers_of([flatten(resolved(config)) for config in configs])
    population = Population(configs[0], numbers, data[2], "vmap")
    built = [build(config, *data[2]) for config in configs]
    total = built[0].steps_per_epoch * configs[0].train.epochs
    for step in (0, 1, total // 2, total - 1, total, 2 * total):
        single = [float(each.schedule(step)) for each in built]
        np.testing.assert_allclose(population.learning_rates(numbers, step), single, rtol=1e-5)
    half = population.learning_rates(numbers, total // 2)
    np.testing.assert_allclose(half, [0.0005, 0.006], rtol=1e-5)
    np.testing.assert_allclose(population.learning_rates(numbers, total), floors, atol=1e-9)


def test_structure_and_numbers():
    fields = flatten(resolved(tiny_config()))
    for name, value in {
        "seed": 3,
        "name": "other",
        "margin_loss.m_plus": 0.8,
        "model.class_caps.kernel_init": "normal(0.01)",
    }.items():
        assert structure_of(fields) == structure_of({**fields, name: value})
    for name, value in {
        "train.batch_size": 16,
        "model.routing.dynamic.gradient": "full",
        "margin_loss.reduction": "mean",
        "train.epochs": 4,
    }.items():
        assert structure_of(fields) != structure_of({**fields, name: value})
    assert numbers_of([fields, fields])["seed"].tolist() == [0, 0]
    assert numbers_of([fields, fields]).keys() == {"seed"}
    varied = numbers_of([fields, {**fields, "margin_loss.m_plus": 0.8}])
    np.testing.assert_allclose(varied["margin_loss.m_plus"], [0.9, 0.8])


def test_an_unknown_form_names_the_nearest(data):
    with pytest.raises(ValueError, match="did you mean 'vmap'"):
        Population(tiny_config(), {}, data[2], "vmaps")
    assert choose_member_form() == "map", "on a CPU"


def test_keep_better():
    new, old = {"w": jnp.ones((3, 2))}, {"w": jnp.zeros((3, 2))}
    kept = keep_better(jnp.array([True, False, True]), new, old)
    assert kept["w"].tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


@pytest.mark.slow
def test_metrics_of_a_member_are_means(data):
    configs = [tiny_config(seed=seed) for seed in range(2)]
    _, evaluations = together(configs, data, "map")
    sums = evaluations.sums
    of_one = means_of(Sums({k: v[1] for k, v in sums.totals.items()}, sums.count[1]))
    assert of_one["accuracy"] == pytest.approx(float(sums.totals["correct"][1]) / 50)
