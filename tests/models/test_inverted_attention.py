"""Inverted attention: exact numbers of parameters, and the network against loops in numpy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import load_config, make_config
from capsjax.models import look_inside
from capsjax.training.build import build, build_train_steps
from capsjax.training.nonfinite import find_non_finite
from tests.twenty_digits import for_twenty_digits, twenty_digits

CIFAR10, CIFAR100, MNIST = ((32, 32, 3), 10), ((32, 32, 3), 100), ((28, 28, 1), 10)
# By preset and data: parameters of backbone, primary capsules, convolutions of capsules, dense
# capsules, class capsules, readout.
COUNTS = {
    ("inverted_attention", CIFAR10): (
        (1_340_224, 65_568, 147_488 + 147_488, 0, 128_032, 17),
        1_828_817,
    ),
    ("inverted_attention,released", CIFAR10): (
        (1_340_224, 65_568, 147_488 + 147_488, 0, 128_032, 17),
        1_828_817,
    ),
    ("inverted_attention,cifar100", CIFAR100): (
        (1_340_224, 147_528, 331_848 + 331_848, 576_072, 72_072, 37),
        2_799_629,
    ),
    # Fewer channels of the image and a smaller grid: 4 x 4 x 32 children of the classes.
    ("inverted_attention,mnist", MNIST): (
        (1_339_072, 65_568, 147_488 + 147_488, 0, 81_952, 17),
        1_781_585,
    ),
    ("inverted_attention,mnist,small", MNIST): (
        (19_664, 4_128, 9_248 + 9_248, 0, 1_312, 17),
        43_617,
    ),
}
PARTS = ("backbone", "primary", "conv_caps", "dense_caps", "class", "readout")

# 8x9 -> 4x5 -> 2x3 -> 1x2 positions, and dense capsules below the classes.
TINY, CLASSES = (8, 9, 2), 3
SMALL_PARTS = {
    "model.backbone.features": (4, 5),
    "model.backbone.blocks": (1, 1),
    "model.capsules.pose_size": 4,
    "model.primary_caps.types": 2,
    "model.conv_caps.types": (3, 2),
    "model.conv_caps.kernel_size": (3, 2),
    "model.conv_caps.stride": (1, 1),
    "model.dense_caps.num_capsules": (4,),
    "train.batch_size": 4,
}
UPDATES = "model.routing.inverted_attention.num_iterations"
CONV_CAPS = {"conv_caps_0": (3, 1), "conv_caps_1": (2, 1)}


def tiny_config(**changes):
    config = make_config("inverted_attention")
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict({**SMALL_PARTS, **fields})
    return config


def tiny_build(**changes):
    return build(tiny_config(**changes), TINY, CLASSES, 8)


def some_images(n):
    return jnp.asarray(np.random.default_rng(1).uniform(size=(n, *TINY)), jnp.float32)


@functools.cache
def variables_of_tiny():
    """Random variables, the same for all settings that leave the shapes alone."""
    model, rng = tiny_build().model, np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), some_images(1))

    def draw(path, x):
        if path[-1].key in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
        return jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(draw, dict(shapes))


@functools.cache
def results(stack="concurrent", updates=2, windows="gathered"):
    """Output and intermediate values of three images."""
    changes = {"model__stack": stack, "model__conv_caps__windows": windows}
    model = tiny_build(**changes, **{UPDATES.replace(".", "__"): updates}).model
    return jax.jit(functools.partial(look_inside, model))(variables_of_tiny(), some_images(3))


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "data"), COUNTS)
def test_number_of_parameters(preset, data):
    parts, total = COUNTS[preset, data]
    model = build(make_config(preset), *data, 1000).model
    images = jax.ShapeDtypeStruct((2, *data[0]), jnp.float32)
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    params = variables["params"]
    found = [sum(count(params[key]) for key in params if key.startswith(part)) for part in PARTS]
    assert tuple(found) == parts
    assert count(params) == total
    chex.assert_shape(output.scores, (2, data[1]))
    pose_size = make_config(preset).model.capsules.pose_size
    chex.assert_shape(output.poses, (2, data[1], pose_size))


# The capsules, from primary ones to scores, against loops.


def layer_norm(pose, scale, bias):
    return (pose - pose.mean()) / np.sqrt(pose.var() + 1e-5) * scale + bias


def children_of(poses, name, windows):
    """The poses that each upper position sees: of an image, (o, i, d)."""
    if name not in CONV_CAPS:
        return poses.reshape(1, -1, poses.shape[-1])
    size, stride = CONV_CAPS[name]
    h, w, _, d = poses.shape
    positions = [
        (y, x) for y in range(0, h - size + 1, stride) for x in range(0, w - size + 1, stride)
    ]
    seen = [poses[y : y + size, x : x + size].reshape(-1, d) for y, x in positions]
    if windows == "scrambled":
        flat = np.stack(seen, axis=-1)  # (i, d, o), which the released code reads as (i, o, d)
        return flat.reshape(len(flat), len(seen), d).transpose(1, 0, 2)
    return np.stack(seen)


def update(poses, v, name, params, windows):
    """One update of a layer: poses of an image and of the layer before it, to those after it."""
    seen, W = children_of(poses, name, windows), np.asarray(params[name]["W"], np.float64)
    o, i, d = seen.shape
    j, r = W.shape[1:3]
    votes = np.zeros((o, i, j, d))
    for at in np.ndindex(o, i, j):
        votes[at] = (seen[at[:2]].reshape(r, r) @ W[at[1:]]).ravel()
    new = np.zeros((o, j, d))
    for position in range(o):
        b = np.zeros((i, j))
        if v is not None:
            b = np.einsum("ijd,jd->ij", votes[position], v[position]) / math.sqrt(d)
        c = np.exp(b) / np.exp(b).sum(-1, keepdims=True)
        for k in range(j):
            s = sum(c[child, k] * votes[position, child, k] for child in range(i))
            new[position, k] = layer_norm(s, params[name]["scale"], params[name]["bias"])
    return new


def placed(v, name):
    """Poses (o, j, d) on the grid of their layer, as the next layer sees them."""
    grids = {"conv_caps_0": (2, 3), "conv_caps_1": (1, 2)}
    return v.reshape(*grids[name], *v.shape[1:]) if name in grids else v


def reference(primary, params, stack, updates, windows):
    """The poses of all layers, from the primary poses of one image."""
    names = ("conv_caps_0", "conv_caps_1", "dense_caps_0", "class_layer")
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    if stack == "sequential":
        poses, last = np.asarray(primary, np.float64), {}
        for name in names:
            v = None
            for _ in range(updates):
                v = update(poses, v, name, params, windows)
            poses, last[name] = placed(v, name), v
        return last
    last, poses = {}, np.asarray(primary, np.float64)
    for name in names:
        last[name] = update(poses, None, name, params, windows)
        poses = placed(last[name], name)
    for _ in range(updates - 1):
        before, last = last, {}
        for below, name in zip((None, *names), names, strict=False):
            poses = np.asarray(primary) if below is None else placed(before[below], below)
            last[name] = update(poses, before[name], name, params, windows)
    return last


@pytest.mark.ci
@pytest.mark.parametrize(
    ("stack", "updates", "windows"),
    [
        ("concurrent", 1, "gathered"),
        ("concurrent", 2, "gathered"),
        ("concurrent", 3, "gathered"),
        ("sequential", 3, "gathered"),
        ("concurrent", 2, "scrambled"),
    ],
)
def test_class_poses_and_scores_are_those_of_loops(stack, updates, windows):
    output, inside = results(stack, updates, windows)
    params = variables_of_tiny()["params"]
    for n, primary in enumerate(inside["primary_layer"]["poses"]):
        expected = reference(primary, params, stack, updates, windows)["class_layer"][0]
        np.testing.assert_allclose(output.poses[n], expected, rtol=1e-3, atol=1e-4)
        linear = params["readout_layer"]["linear"]
        scores = expected @ np.asarray(linear["kernel"])[:, 0] + np.asarray(linear["bias"])
        np.testing.assert_allclose(output.scores[n], scores, rtol=1e-3, atol=1e-4)


@pytest.mark.ci
def test_stacks_differ_from_two_updates_on_and_above_the_lowest_layer():
    one, other = (results(stack, 1)[0].poses for stack in ("concurrent", "sequential"))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    (one, inside), (other, others) = (results(x, 3) for x in ("concurrent", "sequential"))
    assert float(jnp.abs(one.poses - other.poses).max()) > 1e-2
    lowest = [each["conv_caps_0"]["couplings"] for each in (inside, others)]
    np.testing.assert_allclose(*lowest, rtol=1e-4, atol=1e-6)
    assert float(lowest[0].std()) > 1e-3


@pytest.mark.slow
def test_the_control_has_uniform_couplings_and_other_updates_have_not():
    for updates, uniform in ((1, True), (2, False)):
        _, inside = results(updates=updates)
        for name in ("conv_caps_0", "conv_caps_1", "dense_caps_0", "class_layer"):
            c = inside[name]["couplings"]
            np.testing.assert_allclose(c.sum(-1), 1.0, rtol=1e-5)
            assert np.allclose(c, 1 / c.shape[-1]) == uniform, name


@pytest.mark.ci
def test_a_batch_of_one_keeps_its_axes_and_is_an_example_of_many():
    model, variables = tiny_build().model, variables_of_tiny()
    apply = jax.jit(model.apply)
    together = apply(variables, some_images(3))
    alone = apply(variables, some_images(3)[1:2])
    chex.assert_shape(alone.scores, (1, CLASSES))
    one_of_many = jax.tree.map(lambda x: x[1:2], together)
    chex.assert_trees_all_close(alone, one_of_many, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, *TINY), np.uint8)
    return images, (np.arange(8) % CLASSES).astype(np.int32)


def steps_of(built, config, batch, num_steps):
    steps = jax.jit(build_train_steps(config, built))
    start = jax.jit(built.init_state)(0)
    state = start
    for _ in range(num_steps):
        state, health = steps(state, *batch, np.int32(1))
        assert bool(health.finite)
    return start, state


@pytest.mark.ci
def test_one_step_changes_all_parameters_and_statistics(batch):
    config = tiny_config()
    built = build(config, TINY, CLASSES, 8)
    start, state = steps_of(built, config, batch, 1)
    same = jax.tree.map(
        lambda old, new: bool(jnp.allclose(old, new)), start.variables, state.variables
    )
    unchanged = [jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(same) if x]
    # A bias that all classes share adds the same to every logit: it has no gradient but rounding.
    assert set(unchanged) <= {"['params']['readout_layer']['linear']['bias']"}


@pytest.mark.ci
@pytest.mark.parametrize(("name", "over"), [("uniform", "types"), ("self", "types"), ("em", "all")])
def test_other_algorithms_train_in_this_network(name, over, batch):
    config = tiny_config(model__routing__name=name, model__conv_caps__over=over)
    built = build(config, TINY, CLASSES, 8)
    state = jax.eval_shape(lambda: built.init_state(0))
    steps = build_train_steps(config, built)
    after, _ = jax.eval_shape(steps, state, *batch, np.int32(1))
    chex.assert_trees_all_equal_shapes(after, state)


@pytest.mark.slow
def test_a_traced_number_of_updates_is_that_number():
    @jax.jit
    def poses(number):
        config = tiny_config()
        section = config.model.routing.inverted_attention
        with config.ignore_type():
            section.update(num_iterations=number, max_iterations=3)
        model = build(config, TINY, CLASSES, 8).model
        return model.apply(variables_of_tiny(), some_images(3)).poses

    for updates in (1, 3):
        expected = results("concurrent", updates)[0].poses
        np.testing.assert_allclose(poses(np.int32(updates)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.ci
def test_a_weight_that_is_not_finite_is_named(batch):
    config = tiny_config()
    variables = variables_of_tiny()
    W = variables["params"]["conv_caps_1"]["W"].at[0].set(jnp.nan)
    params = {**variables["params"], "conv_caps_1": {**variables["params"]["conv_caps_1"], "W": W}}
    broken = {**variables, "params": params}
    found = find_non_finite(config, build(config, TINY, CLASSES, 8), broken, 0, *batch)
    assert found == "the parameter W of conv_caps_1"


def test_forms_are_named_as_the_convolutions_are():
    model = tiny_build().model
    forms = model.chosen_forms(4)
    backbone = variables_of_tiny()["params"]["backbone_layer"]
    names = {name for name, layer in backbone.items() if "kernel" in layer}
    assert forms.keys() == {*names, "primary_caps", "dtype", "votes"}
    config = tiny_config(model__compute__conv="stem:lax,primary_caps:patches")
    forms = build(config, TINY, CLASSES, 8).model.chosen_forms(4)
    assert (forms["stem"], forms["primary_caps"]) == ("lax", "patches")


def test_without_a_decoder():
    with pytest.raises(ValueError, match="a network without a decoder"):
        tiny_build().model.decode(jnp.zeros((1, 3, 4)), jnp.zeros((1, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__capsules__pose_size": 5}, "one square number of dimensions, not 5 and 5"),
        ({"model__capsules__votes": "matrx"}, "unknown kind of votes 'matrx'; did you mean"),
        ({"model__stack": "sequentiell"}, "did you mean 'sequential'"),
        ({"model__backbone__stride": (1,)}, "model.backbone have a value for each stage"),
        ({"model__conv_caps__types": (3,)}, "fields of model.conv_caps have a value for each"),
        ({"model__conv_caps__kernel_size": (5, 1)}, "does not fit into 4 without padding"),
        ({"model__conv_caps__windows": "scrambeld"}, "did you mean 'scrambled'"),
    ],
)
def test_settings_that_do_not_work(changes, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: tiny_build(**changes).init_state(0))


def test_the_recipe_is_the_published_one():
    config = load_config("inverted_attention", "cifar10")
    assert config.name == "inverted-attention-cifar10"
    assert (config.data.name, config.train.epochs, config.train.batch_size) == ("cifar10", 350, 128)
    built = build(config, *CIFAR10, 50_000)
    assert built.steps_per_epoch == 390
    rates = [float(built.schedule(epoch * 390)) for epoch in (0, 149, 150, 249, 250, 349)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_an_unknown_set_is_refused():
    with pytest.raises(ValueError, match="begins with mnist, cifar10 or cifar100, not 'cifar'"):
        load_config("inverted_attention", "cifar")


@pytest.mark.long
def test_the_published_network_fits_twenty_images():
    config = for_twenty_digits(make_config("inverted_attention"))
    config.schedule.name = "constant"
    data = twenty_digits(CIFAR10[0])
    built = build(config, *CIFAR10, 20)
    steps, state = jax.jit(build_train_steps(config, built)), jax.jit(built.init_state)(0)
    for _ in range(15):
        state, health = steps(state, *data, np.int32(1))
    # The mean of twenty losses is so small only if each is below ln 2: all images are recognised.
    assert float(health.loss) < math.log(2) / 20
