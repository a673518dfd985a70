"""SR-CapsNet: numbers of parameters derived by hand, and what it computes, against loops."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import load_config, make_config
from capsjax.models import look_inside
from capsjax.training.build import build, build_train_steps
from tests.numpy_capsnet import convolve
from tests.twenty_digits import fit_twenty_digits


def backbone_of_resnet20(channels):
    """Three stages of six convolutions 3x3 without bias, and two numbers of a norm a channel."""
    stem = 9 * channels * 16 + 2 * 16
    stages = sum(
        9 * (below * width + 5 * width * width) + 6 * 2 * width
        for below, width in ((16, 16), (16, 32), (32, 64))
    )
    return stem + stages


def plain(*widths):
    return sum(9 * c * o + 2 * o for c, o in itertools.pairwise(widths))


def primary(channels, types, pose):
    """A convolution 3x3 to poses and one to activations, and two numbers of a norm for each."""
    return (9 * channels + 2) * types * (pose + 1)


def couplings(positions, types, pose, classes):
    return positions * types * classes * (pose + 1)


RGB, MNIST, NORB = ((32, 32, 3), 10), ((28, 28, 1), 10), ((32, 32, 1), 5)
# By preset and data: parameters of backbone, primary capsules, class capsules, their norm and
# readout; and the sum.
COUNTS = {
    ("self_routing", RGB): (
        (backbone_of_resnet20(3), primary(64, 32, 16), couplings(64, 32, 16, 10), 0, 0),
        931_664,
    ),
    ("self_routing,smallnorb", NORB): (
        (
            plain(1, 16, 32, 32, 64, 64, 128),
            primary(128, 32, 16),
            couplings(16, 32, 16, 5),
            0,
            0,
        ),
        814_960,
    ),
    # Without poses of the classes, their W, norm and readout, these are 849,776.
    ("self_routing,mnist,poses", MNIST): (
        (
            backbone_of_resnet20(1),
            primary(64, 32, 16),
            couplings(49, 32, 16, 10) + 49 * 32 * 10 * 16 * 16,
            2 * 10 * 16,
            17,
        ),
        4_864_193,
    ),
    ("self_routing,mnist,small", MNIST): (
        (plain(1, 8, 16, 32), primary(32, 8, 8), couplings(49, 8, 8, 10), 0, 0),
        62_104,
    ),
}
PARTS = ("backbone_layer", "primary_layer", "class_layer", "class_norm", "readout_layer")

# 6x5 -> 3x3 -> 2x2 positions.
TINY, CLASSES = (6, 5, 2), 3
SMALL_PARTS = {
    "model.backbone.name": "plain",
    "model.backbone.features": (3, 4),
    "model.backbone.stride": (2, 1),
    "model.backbone.blocks": (1, 1),
    "model.capsules.types": 2,
    "model.capsules.pose_size": 3,
    "model.conv_caps.types": (2,),
    "model.conv_caps.kernel_size": (3,),
    "model.conv_caps.stride": (2,),
    "train.batch_size": 4,
}
KINDS = {
    "published": {},
    "poses": {
        "model.class_caps.pose_size": 4,
        "model.readout": "linear",
    },
}


def tiny_config(kind="published", **changes):
    config = make_config("self_routing")
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict({**SMALL_PARTS, **KINDS[kind], **fields})
    return config


@functools.cache
def tiny(kind):
    """A small network, random variables, and its function of images."""
    model, rng = build(tiny_config(kind), TINY, CLASSES, 4).model, np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *TINY)))

    def draw(path, leaf):
        values = rng.normal(0.1, 0.5, leaf.shape)
        return np.asarray(abs(values) + 0.5 if path[-1].key == "var" else values, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, dict(shapes))
    return model, variables, jax.jit(functools.partial(look_inside, model))


def some_images(n):
    return np.random.default_rng(1).uniform(size=(n, *TINY)).astype(np.float32)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("preset", "data"), COUNTS)
def test_number_of_parameters(preset, data):
    (image_shape, num_classes), (parts, total) = data, COUNTS[preset, data]
    config = make_config(preset)
    model = build(config, image_shape, num_classes, 1000).model
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    params = variables["params"]
    assert tuple(count(params.get(part, {})) for part in PARTS) == parts
    assert count(params) == sum(parts) == total
    chex.assert_shape(output.scores, (2, num_classes))
    if config.model.class_caps.pose_size:
        chex.assert_shape(output.poses, (2, num_classes, 16))
    else:
        assert output.poses is None


# The network against loops, one image at a time but for the statistics of the batch.


def normalise(x, params, stats, kept, training):
    axes = tuple(range(x.ndim - kept))
    mean, var = (x.mean(axes), x.var(axes)) if training else (stats["mean"], stats["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def padded(x):
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def softmax(b):
    e = np.exp(b - b.max())
    return e / e.sum()


def self_route(children, layer):
    """Poses and activations of the capsules above, from (pose, activation) by place."""
    j = layer["b_r"].shape[1]
    mass, whole = np.zeros(j), 0.0
    sums = np.zeros((j, layer["W"].shape[2])) if "W" in layer else None
    for place, child in enumerate(children):
        if child is None:
            continue
        u, a = child
        c = softmax(np.array([layer["W_r"][place, k] @ u for k in range(j)]) + layer["b_r"][place])
        mass, whole = mass + a * c, whole + a
        if sums is not None:
            sums += (a * c)[:, None] * np.array([layer["W"][place, k] @ u for k in range(j)])
    return (None if sums is None else sums / mass[:, None]), mass / whole


def window(poses, activations, y, x):
    """The capsules that a window of 3x3 at stride 2 sees; 3x3 positions, padded on all sides."""
    children = []
    for row in (2 * y - 1, 2 * y, 2 * y + 1):
        for column in (2 * x - 1, 2 * x, 2 * x + 1):
            inside = 0 <= row < 3 and 0 <= column < 3
            for t in range(poses.shape[2]):
                at = (row, column, t)
                children.append((poses[at], activations[at]) if inside else None)
    return children


def reference(variables, images, training):
    """Scores, class poses and primary poses."""
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    params, stats = wide["params"], wide["batch_stats"]
    x = np.asarray(images, np.float64)
    for index, stride in ((0, 2), (1, 1)):
        name = f"plain_{index}"
        x = convolve(padded(x), params["backbone_layer"][name]["kernel"], stride)
        norms = [tree["backbone_layer"][f"{name}_norm"] for tree in (params, stats)]
        x = np.maximum(normalise(x, *norms, 1, training), 0)
    layer = params["primary_layer"]
    norm, stat = (tree["primary_layer"]["norm"] for tree in (params, stats))
    poses = convolve(padded(x), layer["kernel"], 1).reshape(len(x), 3, 3, 2, 3)
    primary_poses = normalise(poses, norm["poses"], stat["poses"], 2, training)
    logits = convolve(padded(x), layer["activation_kernel"], 1)
    logits = normalise(logits, norm["activations"], stat["activations"], 1, training)
    activations = 1 / (1 + np.exp(-logits))
    places = ((0, 0), (0, 1), (1, 0), (1, 1))
    routed = [
        [self_route(window(p, a, *place), params["conv_caps_0"]) for place in places]
        for p, a in zip(primary_poses, activations, strict=True)
    ]
    poses, activations = (
        np.array([[above[part] for above in image] for image in routed]) for part in (0, 1)
    )
    norms = [tree["conv_norm_0"]["poses"] for tree in (params, stats)]
    poses = normalise(poses, *norms, 2, training).reshape(len(x), -1, 3)
    classes = [
        self_route(list(zip(p, a.ravel(), strict=True)), params["class_layer"])
        for p, a in zip(poses, activations, strict=True)
    ]
    if "W" not in params["class_layer"]:
        return np.log([a for _, a in classes]), None, primary_poses
    norms = [tree["class_norm"]["poses"] for tree in (params, stats)]
    poses = normalise(np.array([v for v, _ in classes]), *norms, 2, training)
    linear = params["readout_layer"]["linear"]
    return poses @ linear["kernel"][:, 0] + linear["bias"], poses, primary_poses


@pytest.mark.slow
def test_forward_pass_is_that_of_loops():
    _, variables, apply = tiny("published")
    images = some_images(3)
    output, inside = apply(variables, images)
    scores, _, primary_poses = reference(variables, images, training=False)
    np.testing.assert_allclose(inside["primary_layer"]["poses"], primary_poses, atol=1e-4)
    np.testing.assert_allclose(output.scores, scores, rtol=1e-4, atol=1e-4)
    assert np.ptp(scores) > 0.1
    assert output.poses is None
    np.testing.assert_allclose(np.exp(output.scores).sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_training_normalises_by_the_batch_and_updates_the_running_statistics():
    model, variables, _ = tiny("poses")
    images, keys = jnp.asarray(some_images(4)), jax.random.split(jax.random.key(0), 4)
    train = jax.jit(functools.partial(model.apply, mutable=["batch_stats"]))
    output, changed = train(variables, images, None, keys)
    scores, poses, _ = reference(variables, images, training=True)
    np.testing.assert_allclose(output.scores, scores, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(output.poses, poses, rtol=1e-3, atol=1e-3)
    old, new = variables["batch_stats"], changed["batch_stats"]
    same = jax.tree.map(lambda x, y: bool(np.any(x == y)), old, new)
    assert not any(jax.tree.leaves(same)), same
    # Each entry of a pose has its own mean.
    chex.assert_shape(new["conv_norm_0"]["poses"]["mean"], (2, 3))


@pytest.mark.ci
def test_a_batch_of_one_is_an_example_of_many():
    _, variables, apply = tiny("published")
    images = some_images(3)
    together, alone = apply(variables, images)[0], apply(variables, images[1:2])[0]
    chex.assert_shape(alone.scores, (1, CLASSES))
    np.testing.assert_allclose(alone.scores, together.scores[1:2], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_activations_of_zero_are_finite_and_so_are_their_gradients():
    model, variables, _ = tiny("published")
    images, labels = jnp.asarray(some_images(2)), jnp.array([0, 2])
    objective = build(tiny_config(), TINY, CLASSES, 4).objective

    params = jax.tree.map(jnp.asarray, variables["params"])
    backbone = params.pop("backbone_layer")

    @jax.jit
    def loss_and_gradient(params):
        def loss(params):
            whole = {**variables, "params": {**params, "backbone_layer": backbone}}
            output = model.apply(whole, images)
            return objective.total(objective.parts(output, images, labels))

        return jax.value_and_grad(loss)(params)

    usual, gradient = loss_and_gradient(params)
    # The cross-entropy is the likelihood of the label: activations are probabilities.
    scores, _, _ = reference(variables, images, training=False)
    np.testing.assert_allclose(usual, -np.mean(scores[[0, 1], [0, 2]]), rtol=1e-4)
    chex.assert_tree_all_finite(gradient)
    norm = params["primary_layer"]["norm"]["activations"]
    norm["bias"] = jnp.full_like(norm["bias"], -1000.0)  # the released code has NaN
    loss, gradient = loss_and_gradient(params)
    assert float(jnp.abs(gradient["class_layer"]["W_r"]).max()) == 0
    np.testing.assert_allclose(loss, math.log(CLASSES), rtol=1e-5)
    chex.assert_tree_all_finite(gradient)


def test_the_control_has_uniform_couplings_and_learns_none():
    config = tiny_config("poses", model__routing__self__uniform=True)
    model = build(config, TINY, CLASSES, 4).model
    _, variables, _ = tiny("poses")
    params = {
        name: {key: x for key, x in layer.items() if key not in ("W_r", "b_r")}
        for name, layer in variables["params"].items()
    }
    output, inside = jax.jit(functools.partial(look_inside, model))(
        {**variables, "params": params}, some_images(2)
    )
    np.testing.assert_allclose(inside["class_layer"]["couplings"], 1 / CLASSES, rtol=1e-6)
    assert float(output.scores.std()) > 0.01


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("published", {"model__routing__self__uniform": True}, "all classes are equal: give class"),
        (
            "poses",
            {"model__readout": "auto", "model__routing__self__uniform": True},
            "all classes are equal: give class",
        ),
        ("published", {"model__readout": "linear"}, "linear reads poses, .*pose_size is 0: give"),
        ("published", {"model__routing__name": "dynamic"}, "DynamicRouting makes .*'self'"),
        ("published", {"model__backbone__name": "plan"}, "unknown backbone .*mean 'plain'"),
        ("published", {"model__backbone__stride": (1,)}, "a value for each convolution, not"),
        ("poses", {"model__conv_caps__types": (2, 2)}, "fields of model.conv_caps have a value"),
    ],
)
def test_settings_that_do_not_work(kind, changes, message):
    config = tiny_config(kind, **changes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: build(config, TINY, CLASSES, 4).init_state(0))


def test_auto_reads_the_activations_of_self_routing():
    model = build(tiny_config("published", model__readout="auto"), TINY, CLASSES, 4).model
    output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), some_images(2))
    chex.assert_shape(output.scores, (2, CLASSES))


@pytest.mark.parametrize(("name", "over"), [("dynamic", "types"), ("em", "all")])
def test_other_algorithms_route_this_network(name, over):
    changes = {"model__routing__name": name, "model__conv_caps__over": over}
    model = build(tiny_config("poses", **changes), TINY, CLASSES, 4).model
    output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), some_images(2))
    chex.assert_shape(output.scores, (2, CLASSES))


def test_forms_are_named_as_the_convolutions_are():
    changes = {"model__compute__conv": "plain_1:lax,primary_caps:patches"}
    forms = build(tiny_config(**changes), TINY, CLASSES, 4).model.chosen_forms(4)
    assert forms.keys() == {"plain_0", "plain_1", "primary_caps", "dtype"}
    assert (forms["plain_1"], forms["primary_caps"]) == ("lax", "patches")


def test_without_a_decoder():
    with pytest.raises(ValueError, match="a network without a decoder"):
        tiny("published")[0].decode(jnp.zeros((1, 3, 4)), jnp.zeros((1, 3)))


def test_the_recipe_is_the_published_one():
    config = load_config("self_routing", "cifar10")
    assert config.name == "self-routing-cifar10"
    assert (config.train.batch_size, config.optimizer.weight_decay) == (64, 1e-4)
    built = build(config, *RGB, 45_000)
    assert built.steps_per_epoch == 703
    rates = [float(built.schedule(epoch * 703)) for epoch in (0, 149, 150, 249, 250, 349)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    assert (config.selection, config.selection_metric) == ("best", "accuracy")
    mnist = load_config("self_routing")
    assert mnist.data.name == "mnist"
    assert (mnist.selection, mnist.selection_metric) == ("last", "loss"), "that of earlier runs"
    assert load_config("self_routing", "svhn").schedule.stage_ends == (100, 150)
    with pytest.raises(ValueError, match="begins with mnist, cifar10, svhn or smallnorb, not 'sv"):
        load_config("self_routing", "svnh")


@pytest.mark.ci
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_moves_couplings_and_the_second_everything(kind):
    config = tiny_config(kind)
    config.optimizer.weight_decay = 0.0
    built = build(config, TINY, CLASSES, 4)
    images = np.random.default_rng(2).integers(0, 256, (4, *TINY), np.uint8)
    labels = np.array([0, 1, 2, 0], np.int32)
    steps, states = jax.jit(build_train_steps(config, built)), [jax.jit(built.init_state)(0)]
    for _ in range(2):
        state, health = steps(states[-1], images, labels, np.int32(1))
        assert bool(health.finite)
        states.append(state)

    def moved(state):
        changed = jax.tree.map(lambda x, y: bool(np.any(x != y)), states[0].params, state.params)
        return {jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(changed) if x}

    if kind == "published":
        # As long as couplings are uniform, scores depend neither on poses nor on activations.
        assert moved(states[1]) == {"['class_layer']['W_r']", "['class_layer']['b_r']"}
    everything = {
        jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(states[0].params)
    }
    # A bias that all classes share adds the same to every logit.
    assert everything - moved(states[2]) <= {"['readout_layer']['linear']['bias']"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("variants", "uniform"), [("mnist", False), ("mnist,poses", False), ("mnist,poses", True)]
)
def test_fits_20_images_at_published_width(variants, uniform):
    config = make_config(f"self_routing,{variants}")
    config.model.routing.self.uniform = uniform
    config.schedule.name = "constant"
    fit_twenty_digits(config, steps=20, rounds=10)
