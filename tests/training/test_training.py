"""Training steps and evaluation as pure functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capsjax.data.augment import to_float
from capsjax.metrics import means_of
from capsjax.training import Objective, make_evaluate, steps_per_epoch
from capsjax.training.build import build_train_steps
from tests.setting import Setting
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def setting():
    return Setting(tiny_config())


def test_steps_cut_into_calls_are_bit_for_bit_the_same(setting):
    whole = setting.run(setting.start(), 4, 4)
    pieces = setting.run(setting.start(), 1, 2, 1, 3, 1)
    assert int(whole.step) == 8
    chex.assert_trees_all_equal(whole, pieces)


def test_a_call_ends_at_the_end_of_the_epoch(setting):
    assert int(setting.run(setting.start(), 100).step) == 128 // 32


@pytest.mark.slow
def test_one_trace_serves_any_number_of_steps(setting):
    steps = jax.jit(chex.assert_max_traces(setting.pure_steps, n=1))
    state = setting.start()
    for count in (1, 3, 2):
        state, _ = steps(state, setting.images, setting.labels, np.int32(count))
    chex.clear_trace_counter()


@pytest.mark.slow
def test_seeds_give_different_parameters_and_equal_seeds_equal_ones(setting):
    chex.assert_trees_all_equal(setting.start(1).params, setting.start(1).params)
    first, second = setting.start(1).params, setting.start(2).params
    assert not np.array_equal(first["class_layer"]["W"], second["class_layer"]["W"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_couplings_that_were_drawn_stay_whatever_decays(optimizer):
    decay = {"optimizer__weight_decay": 0.1}
    if optimizer == "adamw":
        decay = {"optimizer__arguments": "weight_decay=0.1"}
    setting = Setting(
        tiny_config(model__routing__name="random", optimizer__name=optimizer, **decay)
    )
    before = setting.start().params["class_layer"]
    after = setting.run(setting.start(), 3).params["class_layer"]
    np.testing.assert_array_equal(after["draws"], before["draws"])
    assert np.all(np.array(after["W"]) != before["W"])


@pytest.mark.ci
def test_training_differs_with_the_seed_of_the_data_order():
    first, second = Setting(tiny_config()), Setting(tiny_config(seed=1))
    params = first.start(0)
    moved = [each.run(params, 2).params["class_layer"]["W"] for each in (first, second)]
    assert not np.array_equal(*moved)


class Spy(Objective):
    """Reports in place of the margin loss which images a batch holds: the sum of their ids."""

    def parts(self, output, images, labels, step=None):
        parts = super().parts(output, images, labels, step)
        return {**parts, "margin": 0.0 * parts["margin"] + jnp.mean(2.0**labels)}


@pytest.mark.slow
def test_an_epoch_takes_every_example_once_in_a_new_order():
    setting = Setting(tiny_config(augment__max_shift=0, train__batch_size=4))
    built = setting.built._replace(objective=Spy(*setting.built.objective))
    spied = jax.jit(build_train_steps(setting.config, built))
    ids = jnp.arange(16, dtype=jnp.int32)  # a sum of distinct powers of two tells which ones
    state, batches = setting.start(), []
    for _ in range(8):
        before = float(state.window.totals["margin"])
        state, _ = spied(state, setting.images[:16], ids, np.int32(1))
        batches.append(round(float(state.window.totals["margin"]) - before))
    assert sum(batches[:4]) == sum(batches[4:]) == 2**16 - 1
    assert batches[:4] != batches[4:]


def test_memorises_one_batch():
    setting = Setting(tiny_config(data__train_size=32, augment__max_shift=0, train__epochs=1))
    state = setting.run(setting.start(), *[1] * 150)
    sums = make_evaluate(
        setting.built.model, setting.built.objective, batch_size=32, train_batch_size=32
    )(state.variables, setting.images, setting.labels).sums
    assert means_of(sums)["accuracy"] == 1.0


@pytest.mark.slow
def test_stops_at_the_first_step_that_is_not_finite(setting):
    state, health = setting.steps(setting.start(), setting.images, setting.labels, np.int32(1))
    assert bool(health.finite)
    start = optax.tree.norm(setting.start().params)
    np.testing.assert_allclose(health.parameter_norm, start, rtol=1e-6)
    broken = jax.tree.map(lambda x: x.at[...].set(jnp.nan), state.params["class_layer"])
    before = state._replace(params={**state.params, "class_layer": broken})
    state, health = setting.steps(before, setting.images, setting.labels, np.int32(3))
    assert not bool(health.finite)
    chex.assert_trees_all_equal(state.params, before.params)
    assert int(state.step) == 2
    assert np.isnan(float(health.loss))
    assert np.isnan(float(health.parameter_norm))


@pytest.mark.slow
def test_a_step_for_a_gpu_waits_for_no_condition(monkeypatch):
    # A condition sends a number to the host and waits, and keeps a second copy of what it reads.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    setting = Setting(tiny_config(model__compute__dtype="bfloat16"))
    state = jax.eval_shape(setting.built.init_state, 0)
    traced = jax.jit(setting.pure_steps).trace(state, setting.images, setting.labels, np.int32(3))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" in text
    assert "stablehlo.case" not in text
    assert "stablehlo.if" not in text


def test_window_counts_examples_and_its_means_are_those_of_the_batches(setting):
    state = setting.run(setting.start(), 1)
    first = means_of(state.window)
    state = setting.run(state, 1)
    assert float(state.window.count) == 64
    assert 0 <= first["accuracy"] <= 1
    weights = setting.config.loss_weights
    total = weights.margin * first["margin"] + weights.reconstruction * first["reconstruction"]
    assert first["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_without_a_decoder_there_is_no_reconstruction_loss():
    setting = Setting(tiny_config(model__use_decoder=False))
    state = setting.run(setting.start(), 1)
    assert float(state.window.totals["reconstruction"]) == 0
    assert "decoder_layer" not in state.params


@pytest.mark.ci
def test_a_population_of_seeds_trains_under_vmap(setting):
    states = jax.jit(jax.vmap(setting.built.init_state))(jnp.arange(3))
    steps = jax.vmap(setting.pure_steps, in_axes=(0, None, None, None))
    states, _ = jax.jit(steps)(states, setting.images, setting.labels, 2)
    single = setting.run(setting.start(1), 2)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[1], states.params), single.params, atol=1e-5
    )


@pytest.mark.ci
@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_evaluation_counts_every_example_exactly_once(setting, batch_size):
    variables = setting.start().variables
    images, labels = setting.validation.images, setting.validation.labels
    evaluate = make_evaluate(
        setting.built.model, setting.built.objective, batch_size=batch_size, train_batch_size=32
    )
    sums, scores = jax.jit(evaluate)(variables, images, labels)
    floats = to_float(jnp.asarray(images))
    output = setting.built.model.apply(variables, floats)
    parts = setting.built.objective.parts(output, floats, jnp.asarray(labels))

    assert float(sums.count) == len(labels) == 50
    chex.assert_trees_all_close(scores, output.scores, atol=1e-5)
    correct = int((output.scores.argmax(-1) == labels).sum())
    assert int(sums.totals["correct"]) == correct
    means = means_of(sums)
    # Not the mean of the means of batches: the last one is smaller.
    assert means["margin"] == pytest.approx(float(parts["margin"]), rel=1e-5)
    assert means["reconstruction"] == pytest.approx(float(parts["reconstruction"]), rel=1e-5)
    assert means["loss"] == pytest.approx(float(setting.built.objective.total(parts)), rel=1e-5)


@pytest.mark.slow
def test_evaluation_decodes_the_longest_capsule_whatever_the_label(setting):
    variables = setting.start().variables
    evaluate = make_evaluate(
        setting.built.model, setting.built.objective, batch_size=50, train_batch_size=32
    )
    images, labels = setting.validation.images, setting.validation.labels
    one, other = (
        evaluate(variables, images, each).sums.totals["reconstruction"]
        for each in (labels, (labels + 1) % 10)
    )
    assert float(one) == float(other)


@pytest.mark.slow
def test_a_loss_summed_over_the_batch_is_reported_for_a_training_batch(setting):
    variables = setting.start().variables
    objective = setting.built.objective
    losses = {**objective.losses, "reconstruction": {"reduction": "batch_sum"}}
    objective = objective._replace(losses=losses)
    images, labels = setting.validation.images, setting.validation.labels
    of = {
        name: means_of(
            make_evaluate(setting.built.model, each, batch_size=20, train_batch_size=32)(
                variables, images, labels
            ).sums
        )["reconstruction"]
        for name, each in {"sum": setting.built.objective, "batch_sum": objective}.items()
    }
    assert of["batch_sum"] == pytest.approx(32 * of["sum"], rel=1e-5)


@pytest.mark.parametrize("batch_size", [0, 129])
def test_a_batch_larger_than_the_data_is_refused(batch_size):
    with pytest.raises(ValueError, match=r"train\.batch_size is between 1 and the 128"):
        steps_per_epoch(128, batch_size)
