"""Networks without capsules: against numpy, and what training does to their statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import make_config
from capsjax.config.tagged import resolved
from capsjax.data import load_training
from capsjax.layers import Conv, Dropout
from capsjax.metrics import means_of
from capsjax.runs.workdir import flatten
from capsjax.training.build import build, build_evaluate
from capsjax.training.population import Population, Sizes, numbers_of
from tests import numpy_pooling
from tests.numpy_capsnet import convolve
from tests.setting import Setting
from tests.tiny import tiny_convnet_config

each_pooling = pytest.mark.parametrize("pooling", ["capsule", "max", "average"])


@pytest.fixture(scope="module")
def setting():
    return Setting(tiny_convnet_config())


def conv(x, kernel, bias, padded):
    if padded:
        border = ((len(kernel) - 1) // 2, len(kernel) // 2)
        x = np.pad(x, ((0, 0), border, border, (0, 0)))
    return convolve(x, kernel, 1) + bias


def reference(config, variables, images):
    """Scores in testing: plain numpy, in float64."""
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    settings, x = config.model, images
    for index, padded in enumerate(settings.conv.padded):
        layer = params[f"conv_{index}"]
        x = np.maximum(conv(x, layer["kernel"], layer["bias"], padded), 0)
        if index + 1 in settings.pool.after:
            norm, of = params[f"norm_{index}"], statistics[f"norm_{index}"]
            x = (x - of["mean"]) / np.sqrt(of["var"] + settings.batch_norm.epsilon)
            x = x * norm["scale"] + norm["bias"]
            pool = getattr(numpy_pooling, f"{settings.pool.name}_pool")
            x = pool(x, settings.pool.window)
    x = x.reshape(len(x), -1)
    for index in range(len(settings.dense.features)):
        layer = params[f"dense_{index}"]
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    return x @ params["scores"]["kernel"] + params["scores"]["bias"]


def random_variables(model, seed=0):
    """Make random variables of the right shapes, with variances above zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.abs(x) + 0.5 if path[-1].key == "var" else x, dict(variables)
    )


@each_pooling
def test_scores_are_those_of_the_numpy_network(pooling):
    config = tiny_convnet_config(model__pool__name=pooling)
    model = build(config, (8, 8, 1), 10, 100).model
    variables = random_variables(model)
    images = np.random.default_rng(1).uniform(size=(3, 8, 8, 1))
    scores = jax.jit(model.apply)(variables, jnp.asarray(images, jnp.float32)).scores
    chex.assert_shape(scores, (3, 10))
    np.testing.assert_allclose(scores, reference(config, variables, images), atol=2e-5)


def test_the_baseline_is_the_numpy_network():
    config = make_config("cnn,small")
    config.model.conv.features, config.model.dense.features = (3, 2, 4), (6, 5)
    model = build(config, (7, 9, 2), 3, 1000).model
    variables = random_variables(model)
    assert set(variables) == {"params"}
    images = np.random.default_rng(1).uniform(size=(2, 7, 9, 2))
    output = jax.jit(model.apply)(variables, jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(output.scores, reference(config, variables, images), atol=2e-5)
    assert output.reconstruction is None


def test_a_batch_of_one_is_as_a_batch_of_many(setting):
    variables, model = random_variables(setting.built.model), setting.built.model
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(5, 8, 8, 1)), jnp.float32)
    apply = jax.jit(model.apply)
    together = apply(variables, images).scores
    alone = np.concatenate([apply(variables, image[None]).scores for image in np.asarray(images)])
    chex.assert_trees_all_close(together, alone, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel_size", "size"), [(2, 5), (3, 5), (5, 3)])
def test_a_padded_convolution_keeps_the_size_of_its_image(kernel_size, size):
    x = jnp.ones((1, size, size, 1))
    layer = Conv(1, kernel_size, padded=True, kernel_init="constant(1.0)")
    out, _ = layer.init_with_output(jax.random.key(0), x)
    chex.assert_shape(out, (1, size, size, 1))
    # How many pixels a corner sees: an even kernel looks further to the bottom and right.
    before, after = (kernel_size - 1) // 2, kernel_size // 2
    assert float(out[0, 0, 0, 0]) == min(after + 1, size) ** 2
    assert float(out[0, -1, -1, 0]) == min(before + 1, size) ** 2


# Dropout.


def test_without_keys_nothing_is_dropped():
    x = jnp.arange(12.0).reshape(3, 4)
    chex.assert_trees_all_equal(Dropout(0.5).apply({}, x, None), x)


@pytest.mark.slow
def test_what_an_image_loses_depends_on_its_key_alone():
    x, keys = jnp.ones((4, 50)), jax.random.split(jax.random.key(0), 4)
    together = Dropout(0.4).apply({}, x, keys)
    chex.assert_trees_all_equal(Dropout(0.4).apply({}, x[2:3], keys[2:3]), together[2:3])
    assert len({row.tobytes() for row in np.asarray(together)}) == 4
    other = Dropout(0.4, index=1).apply({}, x, keys)
    assert not np.array_equal(together, other)


def test_dropout_keeps_the_mean():
    keys = jax.random.split(jax.random.key(0), 100)
    out = np.asarray(Dropout(0.4).apply({}, jnp.full((100, 200), 3.0), keys))
    # Of 20,000: six standard deviations.
    assert (out == 0).mean() == pytest.approx(0.4, abs=0.021)
    np.testing.assert_allclose(out[out > 0], 5.0, rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_are_not_allowed(rate):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        Dropout(rate).apply({}, jnp.ones((1, 2)), None)


# Training.


@pytest.mark.ci
def test_statistics_follow_the_batches():
    setting = Setting(
        tiny_convnet_config(model__dropout__pool=0.0, data__train_size=32, augment__max_shift=0)
    )
    state = setting.run(setting.start(), 1)
    # One batch of all 32 images: what stands before the batch norm can be computed.
    layer = jax.device_get(setting.start().params["conv_0"])
    images = setting.training.images / 255.0
    before = np.maximum(conv(images, layer["kernel"], layer["bias"], padded=False), 0)
    mean, var = before.mean(axis=(0, 1, 2)), before.var(axis=(0, 1, 2))
    momentum = setting.config.model.batch_norm.momentum
    found = state.statistics["batch_stats"]["norm_0"]
    np.testing.assert_allclose(found["mean"], (1 - momentum) * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], momentum + (1 - momentum) * var, rtol=1e-4)
    # An evaluation leaves them alone, and uses them.
    evaluate = jax.jit(build_evaluate(setting.config, setting.built))
    data = setting.training.images, setting.training.labels
    for variables in (setting.start().variables, state.variables):
        assert np.isfinite(float(evaluate(variables, *data).sums.totals["loss"]))


@pytest.mark.slow
def test_steps_cut_into_calls_are_bit_for_bit_the_same(setting):
    whole = setting.run(setting.start(), 4, 4)
    pieces = setting.run(setting.start(), 1, 2, 1, 3, 1)
    assert int(whole.step) == 8
    chex.assert_trees_all_equal(whole, pieces)


@pytest.mark.ci
def test_dropout_differs_from_step_to_step_and_between_seeds():
    # No learning and one batch in always the same order of images: only dropout is left.
    fixed = {"schedule__learning_rate": 0.0, "data__train_size": 32, "augment__max_shift": 0}

    def losses(**overrides):
        setting, found = Setting(tiny_convnet_config(**fixed, **overrides)), []
        state = setting.start()
        for _ in range(3):
            before = float(state.window.totals["loss"])
            state = setting.run(state, 1)
            found.append(float(state.window.totals["loss"]) - before)
        return np.array(found)

    with_dropout = losses()
    assert np.ptp(with_dropout) > 1e-2
    none = {"model__dropout__pool": 0.0, "model__dropout__dense": (0.0,)}
    assert np.ptp(losses(**none)) < 1e-3


@pytest.mark.ci
def test_memorises_one_batch():
    setting = Setting(
        tiny_convnet_config(
            data__train_size=32,
            augment__max_shift=0,
            model__batch_norm__momentum=0.9,
            model__dropout__pool=0.0,
            model__dropout__dense=(0.0,),
            schedule__name="constant",
            optimizer__fresh_epochs=(),
        )
    )
    state = setting.run(setting.start(), *[1] * 300)
    evaluate = jax.jit(build_evaluate(setting.config, setting.built))
    sums = evaluate(state.variables, setting.training.images, setting.training.labels).sums
    assert means_of(sums)["accuracy"] == 1.0


@pytest.mark.ci
def test_a_member_of_a_population_is_the_single_run():
    configs = [
        tiny_convnet_config(),
        tiny_convnet_config(seed=3, model__pool__capsule__temperature=0.5),
    ]
    training, validation = load_training(**configs[0].data)
    sizes = Sizes(training.image_shape, training.num_classes, len(training))
    numbers = numbers_of([flatten(resolved(config)) for config in configs])
    assert set(numbers) == {"seed", "model.pool.capsule.temperature"}
    settings = [Setting(config) for config in configs]
    starts = [setting.start(setting.config.seed) for setting in settings]
    states = jax.tree.map(lambda *x: np.stack(x), *starts)
    population = Population(configs[0], numbers, sizes, "map")
    data = training.images, training.labels
    states, _ = jax.jit(population.train_steps)(numbers, states, np.array([3, 3], np.int32), *data)
    part = validation.images, validation.labels
    evaluations = jax.jit(population.evaluate)(numbers, states.variables, *part)
    for index, (setting, start) in enumerate(zip(settings, starts, strict=True)):
        state = setting.run(start, 3)
        evaluation = jax.jit(build_evaluate(setting.config, setting.built))(state.variables, *part)
        member = jax.tree.map(lambda x: np.asarray(x)[index], (states, evaluations))  # noqa: B023
        chex.assert_trees_all_close(member, (state, evaluation), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model__conv__padded": (False,)}, "padded has a value for each of the 2"),
        ({"model__dropout__dense": ()}, "a rate for each of the 1 dense layers"),
        ({"model__pool__after": (3,)}, r"numbers of convolutions, 1 to 2, not \(3,\)"),
        ({"model__pool__name": "maxi"}, "unknown pooling 'maxi'; did you mean 'max'"),
        ({"model__conv__kernel_size": 9}, "needs at least 9x9 pixels"),
        ({"optimizer__fresh_epochs": (2, 1)}, "rising numbers from 1 on"),
        ({"model__dropout__pool": 1.0}, "from 0 to below 1"),
    ],
)
def test_settings_that_do_not_work(overrides, message):
    config = tiny_convnet_config(**overrides)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: build(config, (8, 8, 1), 10, 100).init_state(0))


def test_forms_of_the_convolutions_are_told_for_the_images_that_they_see():
    model = build(make_config("capsule_pooling"), (28, 28, 1), 10, 60000).model
    forms = model.chosen_forms(128)
    assert set(forms) == {"dtype", *(f"conv_{index}" for index in range(5))}


def test_an_image_that_is_too_small_for_the_kernels():
    # 12 -> 10 -> 8 -> pooled 3 -> 3 -> 3 -> pooled 1, and a kernel of 3.
    built = build(make_config("capsule_pooling"), (12, 12, 1), 10, 600)
    with pytest.raises(ValueError, match="needs at least 3x3 pixels"):
        jax.eval_shape(lambda: built.init_state(0))
