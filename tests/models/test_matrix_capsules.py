"""Matrix capsules: exact numbers of parameters, and what the networks compute, against numpy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import load_config, make_config
from capsjax.kernels.compute import Compute
from capsjax.layers import DenseCaps
from capsjax.layers.capsule_norm import CapsuleNorm
from capsjax.layers.coordinates import Coordinates
from capsjax.layers.image_input import MOVES, ImageInput
from capsjax.layers.votes import MatrixVotes
from capsjax.models import Output, look_inside
from capsjax.notation import Capsules
from capsjax.routing import make_routing
from capsjax.training.build import build, build_train_steps
from tests import numpy_matrix_capsules
from tests.twenty_digits import fit_twenty_digits

NORB, PAIRS, MNIST = ((32, 32, 2), 5), ((48, 48, 2), 5), ((28, 28, 1), 10)
# By preset and data: parameters of convolution, its norm, primary capsules, each layer of capsules.
COUNTS = {
    ("em_capsules", NORB): ((1_632, 0, 17_408, 147_520, 147_520, 2_570), 316_650),
    ("em_capsules,small", NORB): ((3_264, 0, 8_704, 18_464, 36_896, 1_290), 68_618),
    ("em_capsules,small,released", NORB): ((3_264, 0, 8_704, 18_464, 36_896, 1_290), 68_618),
    ("vb_capsules", NORB): ((3_200, 128, 8_736, 18_464, 36_896, 1_290), 68_714),
    ("em_capsules,smallnorb", PAIRS): ((1_632, 0, 17_408, 147_520, 147_520, 2_570), 316_650),
    ("em_capsules,smallnorb,small", PAIRS): ((3_264, 0, 8_704, 18_464, 36_896, 1_290), 68_618),
    ("vb_capsules,smallnorb", PAIRS): ((3_200, 128, 8_736, 18_464, 36_896, 1_290), 68_714),
    ("em_capsules", MNIST): ((832, 0, 17_408, 147_520, 147_520, 5_140), 318_420),
}
PARTS = ("conv_layer", "conv_norm", "primary_layer", "conv_caps_0", "conv_caps_1", "class_layer")

# 15x14 -> 7x6 -> 3x2 -> 2x1 positions.
TINY, CLASSES = (15, 14, 2), 3
SMALL_PARTS = {
    "model.conv.features": 4,
    "model.conv.kernel_size": 3,
    "model.capsules.pose_size": 4,
    "model.primary_caps.types": 2,
    "model.conv_caps.types": (2, 3),
    "model.conv_caps.kernel_size": (3, 2),
    "model.class_caps.entries": (1, 3),
    "train.batch_size": 4,
}
HOT = {"model.routing.em.final_lambda": 0.5, "model.class_caps.final_lambda": 0.4}
KINDS = {
    "em": ("em_capsules", HOT),
    "released": ("em_capsules,released", {**HOT, "model.class_caps.entries": (1, 0)}),
    "vb": ("vb_capsules", {}),
}


def tiny_config(kind, **changes):
    preset, settings = KINDS[kind]
    config = make_config(preset)
    config.update_from_flattened_dict({**SMALL_PARTS, **settings, **changes})
    return config


@functools.cache
def tiny(kind):
    """A small network and variables at which nothing is at its trivial end."""
    model = build(tiny_config(kind), TINY, CLASSES, 4).model
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *TINY)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(0.1, 0.5, leaf.shape)
        scale = 1e-3 if path[-1].key == "beta_a" else 1.0
        return np.asarray(
            abs(values) + 0.5 if path[-1].key == "var" else scale * values, leaf.dtype
        )

    variables = jax.tree_util.tree_map_with_path(draw, dict(shapes))

    @jax.jit
    def apply(variables, images):
        return look_inside(model, variables, images)

    return model, variables, apply


def some_images(n):
    return np.random.default_rng(1).uniform(size=(n, *TINY)).astype(np.float32)


def reference(kind, variables, images, **changes):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    released, is_em = kind == "released", kind != "vb"
    damping = 0.1 if released else 0.0
    # Centres of receptive fields: 5 and 9 of 15 rows, 5 of 14 columns.
    of_em = ([-0.025, 0.015], [-0.02])
    settings = {
        "name": "em" if is_em else "vb",
        "layers": ((3, 2), (3, 2), (2, 1)),
        "over": "released" if released else "all",
        "start": "set" if kind == "em" else "types",
        "offset": -1.0 if released else 0.0,
        "em": (
            (1.419, 2500.0) if is_em else (1.0, 1.0),
            {"final_lambda": 0.5, "damping": damping} if is_em else {},
            {"final_lambda": 0.4, "damping": damping, "min_mass": 1e-5 if released else 1e-7}
            if is_em
            else {},
        ),
        "coordinates": (
            *(of_em if is_em else ([0.05, 0.1], [0.1])),
            (1, 0) if released else (1, 3),
        ),
        "training": False,
    }
    wide_images = np.asarray(images, np.float64)
    return numpy_matrix_capsules.forward(wide, wide_images, **{**settings, **changes})


def count(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("preset", "data"), COUNTS)
def test_number_of_parameters(preset, data):
    (image_shape, num_classes), (parts, total) = data, COUNTS[preset, data]
    model = build(make_config(preset), image_shape, num_classes, 1000).model
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    params = variables["params"]
    assert tuple(count(params.get(part, {})) for part in PARTS) == parts
    assert count(params) == total
    chex.assert_shape(output.scores, (2, num_classes))
    chex.assert_shape(output.poses, (2, num_classes, 16))
    assert set(model.chosen_forms(8)) == {"conv", "primary_caps", "votes", "dtype"}


@pytest.mark.parametrize(
    ("routing", "backend", "votes"),
    [("em", "cpu", "recomputed"), ("em", "gpu", "held"), ("dynamic", "cpu", "held")],
)
def test_votes_are_of_groups_of_images_where_that_is_faster(monkeypatch, routing, backend, votes):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = make_config("em_capsules")
    config.model.routing.name = routing
    for stored in (None, {"votes": "held"}):
        model = build(config, *NORB, 1000, stored).model
        forms = model.chosen_forms(8)
        assert forms["votes"] == (votes if stored is None else "held")
        for settings in (*model.conv_caps, model.class_caps):
            assert settings["compute"].votes == forms["votes"]


def test_matrix_votes_and_their_gradients_are_those_of_one_sum():
    rng = np.random.default_rng(0)
    u, W = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 3, 4), (3, 2, 2, 2)))
    of_votes = jnp.asarray(rng.normal(size=(2, 5, 3, 2, 4)), jnp.float32)

    def plain(u, W):
        votes = jnp.einsum("...iab,ijbc->...ijac", u.reshape(2, 5, 3, 2, 2), W)
        return votes.reshape(2, 5, 3, 2, 4)

    (got, pull), (expected, pull_plain) = (
        jax.vjp(each, u, W) for each in (lambda u, W: MatrixVotes()(u, W, "float32"), plain)
    )
    results = (got, pull(of_votes)), (expected, pull_plain(of_votes))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-5)


def test_class_capsules_of_em_have_their_own_start_and_temperature():
    model = build(make_config("em_capsules"), *NORB, 1000).model
    assert (model.routing.final_lambda, model.class_routing.final_lambda) == (0.02, 0.005)
    assert (model.routing.beta_a_init, model.class_routing.beta_a_init) == (-1250.0, -2500.0)
    assert model.class_caps["coordinates"].rows == pytest.approx((-0.08, -0.04, 0.0, 0.04))
    model = build(make_config("vb_capsules"), *NORB, 1000).model
    assert model.class_caps["coordinates"].columns == pytest.approx((0.025, 0.05, 0.075, 0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_forward_pass_is_that_of_the_numpy_network(kind):
    _, variables, apply = tiny(kind)
    images = some_images(2)
    output, _ = apply(variables, images)
    a, poses = reference(kind, variables, images)
    np.testing.assert_allclose(output.scores, a, atol=2e-4)
    np.testing.assert_allclose(output.poses, poses, atol=2e-3)
    assert np.ptp(a) > 0.05
    # A wrong choice changes more than the tolerance.
    wrong = reference(kind, variables, images, over="positions")
    assert max(np.abs(wrong[0] - a).max(), np.abs(wrong[1] - poses).max()) > 1e-2


@pytest.mark.ci
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_is_an_example_of_many(kind):
    _, variables, apply = tiny(kind)
    images = some_images(2)
    together, inside = apply(variables, images)
    alone, _ = apply(variables, images[1:])
    one_of_many = jax.tree.map(lambda x: x[1:], together)
    chex.assert_trees_all_equal_shapes(alone, one_of_many)
    chex.assert_trees_all_close(alone, one_of_many, atol=1e-4)
    chex.assert_shape(inside["conv_caps_0"]["votes"], (2, 6, 18, 2, 4))
    chex.assert_shape(inside["class_layer"]["couplings"], (2, 6, CLASSES))


@pytest.mark.slow
def test_training_normalises_by_the_batch_and_updates_the_running_statistics():
    model, variables, _ = tiny("vb")
    images, keys = jnp.asarray(some_images(4)), jax.random.split(jax.random.key(0), 4)
    train = jax.jit(functools.partial(model.apply, mutable=["batch_stats"]))
    output, changed = train(variables, images, None, keys)
    a, poses = reference("vb", variables, images, training=True)
    np.testing.assert_allclose(output.scores, a, atol=2e-3)
    np.testing.assert_allclose(output.poses, poses, atol=2e-3)
    old, new = variables["batch_stats"]["class_norm"], changed["batch_stats"]["class_norm"]
    # One mean for each type, of all entries of its poses.
    for part in ("poses", "activations"):
        chex.assert_shape(old[part]["mean"], (CLASSES,))
        assert np.abs(new[part]["mean"] - old[part]["mean"]).min() > 0


@pytest.mark.slow
def test_a_batch_norm_of_logits_removes_their_offset():
    rng = np.random.default_rng(4)
    poses, logits = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 3, 4), (5, 3)))
    norm = CapsuleNorm({"momentum": 0.9, "epsilon": 1e-5})
    statistics = norm.init(jax.random.key(0), Capsules(poses, logits), False)

    def activation(offset):
        capsules, _ = norm.apply(
            statistics, Capsules(poses, logits + offset), True, mutable=["batch_stats"]
        )
        return capsules.activations

    gradient = jax.grad(lambda offset: jnp.sum(activation(offset)[:, 0] ** 2))(jnp.float32(0.5))
    assert abs(float(gradient)) < 1e-6
    np.testing.assert_allclose(activation(100.0), activation(0.0), atol=1e-4)


@functools.cache
def em_training():
    config = tiny_config("em")
    # At the temperature of `HOT` and the first costs, all activations are 0.
    config.model.routing.em.final_lambda = 0.02
    config.model.class_caps.final_lambda = 0.005
    built = build(config, TINY, CLASSES, 4)
    return built, jax.jit(build_train_steps(config, built)), jax.jit(built.init_state)(0)


def train(state):
    images = np.random.default_rng(2).integers(0, 256, (4, *TINY), np.uint8)
    labels = np.array([0, 1, 2, 0], np.int32)
    return em_training()[1](state, images, labels, np.int32(1))


@pytest.mark.ci
def test_one_step_changes_every_parameter():
    _, _, state = em_training()
    after, health = train(state)
    assert bool(health.finite)
    changed = jax.tree.map(lambda x, y: bool(np.any(x != y)), state.params, after.params)
    assert all(jax.tree.leaves(changed)), changed


@pytest.mark.ci
def test_the_margin_of_a_training_step_is_that_of_its_step():
    built, _, state = em_training()
    _, early = train(state)
    _, late = train(state._replace(step=jnp.int32(20_000)))
    images, labels = jnp.zeros((1, *TINY)), jnp.array([1])
    scores = jnp.full((1, CLASSES), 0.5)
    output = Output(scores)
    # Equal scores: the square of the margin for each of the other classes.
    parts = {
        step: built.objective.parts(output, images, labels, step) for step in (0, 10_000, None)
    }
    found = [float(part["spread"]) for part in parts.values()]
    np.testing.assert_allclose(found, [2 * 0.2**2, 2 * 0.55**2, 2 * 0.9**2], rtol=1e-5)
    assert float(early.loss) < 0.2 < 0.9 < float(late.loss)


def test_the_control_has_couplings_of_the_start():
    _, variables, _ = tiny("em")
    config = tiny_config("em", **{"model.routing.em.num_iterations": 1})
    model = build(config, TINY, CLASSES, 4).model
    _, inside = jax.jit(functools.partial(look_inside, model))(variables, some_images(1))
    np.testing.assert_allclose(inside["class_layer"]["couplings"], 1 / CLASSES, rtol=1e-5)
    c = np.asarray(inside["conv_caps_1"]["couplings"])
    # 3x2 positions below windows of 2x2: the middle row lies in two of them.
    np.testing.assert_allclose(sorted(set(np.round(c.ravel(), 5))), [1 / 6, 1 / 3], atol=1e-5)


@functools.cache
def class_layer(coordinates):
    layer = DenseCaps(
        CLASSES,
        9,
        make_routing("em", final_lambda=0.5, beta_a_init=0.0),
        votes=MatrixVotes(),
        shared="positions",
        coordinates=coordinates,
    )
    rng = np.random.default_rng(3)
    poses = rng.normal(size=(1, 2, 3, 2, 9)).astype(np.float32)
    below = Capsules(jnp.asarray(poses), jnp.full((1, 2, 3, 2), 0.5))
    params = jax.jit(layer.init)(jax.random.key(0, impl="rbg"), below)["params"]

    @jax.jit
    def apply(below):
        (above, _), inside = layer.apply({"params": params}, below, mutable=["intermediates"])
        return above, inside["intermediates"]["votes"]

    return below, apply


PLACES = Coordinates((-0.4, 0.4), (-0.9, 0.0, 0.9), (2, 5))


@pytest.mark.slow
def test_coordinates_touch_two_entries_and_no_other():
    below, with_them = class_layer(PLACES)
    _, without = class_layer(None)
    added = np.asarray(with_them(below)[1] - without(below)[1]).reshape(2, 3, 2, CLASSES, 9)
    expected = np.zeros((2, 3, 2, CLASSES, 9))
    expected[..., 2] = np.reshape(PLACES.rows, (2, 1, 1, 1))
    expected[..., 5] = np.reshape(PLACES.columns, (3, 1, 1))
    np.testing.assert_allclose(added, expected, atol=1e-5)


@pytest.mark.parametrize("coordinates", [None, PLACES])
def test_class_activations_change_with_the_place_of_parts_by_coordinates_alone(coordinates):
    below, apply = class_layer(coordinates)
    moved = jax.tree.map(lambda x: jnp.roll(x, 1, axis=2), below)
    change = np.abs(apply(moved)[0].activations - apply(below)[0].activations).max()
    assert change > 1e-3 if coordinates else change < 1e-5


def test_coordinates_that_do_not_fit():
    with pytest.raises(ValueError, match=r"coordinates of a grid \(2, 3\) for children on .*3, 2"):
        PLACES.table((3, 2), 1, 9)
    with pytest.raises(ValueError, match="from 0 to 3 for votes of 4 dimensions, not"):
        PLACES.table((2, 3), 1, 4)
    config = tiny_config("em", **{"model.class_caps.coordinates": "tenth"})
    with pytest.raises(ValueError, match="'tenth'; did you mean 'tenths'"):
        build(config, TINY, CLASSES, 4)


CROPPED = {"model.input.crop": 14, "model.input.standardize": "channel"}


@pytest.mark.slow
def test_a_network_sees_the_central_crop_and_in_training_one_by_key():
    plain = build(tiny_config("em"), (14, 14, 2), CLASSES, 4).model
    model = build(tiny_config("em", **CROPPED), (19, 17, 2), CLASSES, 4).model
    _, variables, _ = tiny("em")  # of as many positions
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 19, 17, 2)), jnp.float32)
    keys = jax.random.split(jax.random.key(3), 2)
    stage = ImageInput(crop=14, standardize="channel")
    apply, apply_plain = jax.jit(model.apply), jax.jit(plain.apply)
    found = []
    for given in (None, keys):
        scores = apply(variables, images, None, given).scores
        expected = apply_plain(variables, stage.apply({}, images, given)).scores
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        found.append(scores)
    assert np.abs(found[0] - found[1]).max() > 1e-2


@pytest.mark.slow
def test_scores_are_the_means_of_those_of_thirteen_crops():
    settings = {**CROPPED, "model.input.crops": 13}
    build_model = functools.partial(build, num_classes=CLASSES, num_examples=4)
    model = build_model(tiny_config("em", **settings), (20, 21, 2)).model
    single = build_model(tiny_config("em", **CROPPED), (20, 21, 2)).model
    _, variables, _ = tiny("em")
    images = jnp.asarray(np.random.default_rng(2).uniform(size=(2, 20, 21, 2)), jnp.float32)
    found = jax.jit(model.apply)(variables, images)
    apply = jax.jit(single.apply)
    # Images whose central crops are the 13 crops.
    outputs = [apply(variables, jnp.roll(images, (-y, -x), (1, 2))) for y, x in MOVES]
    means = np.mean([output.scores for output in outputs], axis=0)
    np.testing.assert_allclose(found.scores, means, atol=1e-5)
    np.testing.assert_allclose(found.poses, outputs[0].poses, atol=1e-5)
    assert np.abs(outputs[0].scores - means).max() > 1e-3
    # What is shown of its capsules is that of the central crop of each image.
    shown, inside = jax.jit(functools.partial(look_inside, model))(variables, images)
    np.testing.assert_allclose(shown.scores, means, atol=1e-5)
    of_central = jax.jit(functools.partial(look_inside, single))(variables, images)[1]
    assert jax.tree.structure(inside) == jax.tree.structure(of_central)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), inside, of_central)
    # In training each image has one crop.
    keys = jax.random.split(jax.random.key(3), 2)
    trained = jax.jit(model.apply)(variables, images, None, keys).scores
    np.testing.assert_allclose(trained, apply(variables, images, None, keys).scores, atol=1e-6)


def test_coordinates_and_forms_are_those_of_the_crop(monkeypatch):
    # Rows of 32 pixels, from the middle of the crop and not from that of the image.
    model = build(make_config("em_capsules,smallnorb"), *PAIRS, 1000).model
    assert model.image_shape == (48, 48, 2)
    assert model.class_caps["coordinates"].rows == pytest.approx((-0.08, -0.04, 0.0, 0.04))
    seen = []
    monkeypatch.setattr(
        Compute, "form_of", lambda self, images, *_: seen.append(images[1:]) or "lax"
    )
    model.chosen_forms(8)
    assert seen == [(32, 32, 2), (14, 14, 32)]


def test_a_crop_that_is_larger_than_the_images():
    with pytest.raises(ValueError, match=r"model\.input\.crop is at most 28 for .* 28x28 pixels"):
        build(make_config("em_capsules,smallnorb"), *MNIST, 1000)


def test_recipes_for_smallnorb():
    em, released = (make_config(f"em_capsules,smallnorb{more}") for more in ("", ",released"))
    assert em.model.input.to_dict() == {
        "crop": 32,
        "crops": 1,
        "standardize": "image",
        "standardize_first": True,
        "brightness": pytest.approx(63 / 255),
        "contrast": 0.8,
    }
    # Its brightness and contrast come before the standardisation, which undoes them.
    assert not released.model.input.standardize_first
    vb = make_config("vb_capsules,smallnorb")
    assert (vb.model.input.standardize, vb.model.input.contrast) == ("channel", 0.0)
    for config in (em, vb):
        assert (config.data.name, config.data.validation_size) == ("smallnorb", 0)
        assert config.augment.max_shift == 0
        assert config.train.epochs * (24_300 // config.train.batch_size) > 56_000


def test_an_image_that_is_too_small_and_a_decoder_that_is_not_there():
    model = build(tiny_config("em"), (7, 9, 2), CLASSES, 4).model
    with pytest.raises(ValueError, match="a window of 2 pixels does not fit into 1"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 7, 9, 2)))
    with pytest.raises(ValueError, match="no decoder"):
        model.decode(jnp.zeros((1, 3, 4)), jnp.zeros((1, 3)))


@pytest.mark.ci
def test_other_algorithms_route_both_networks():
    images = jax.ShapeDtypeStruct((2, *TINY), jnp.float32)
    for kind in ("em", "vb"):
        for name in ("uniform", "dynamic", "em", "vb"):
            config = tiny_config(kind, **{"model.routing.name": name})
            model = build(config, TINY, CLASSES, 4).model
            output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
            chex.assert_shape(output.scores, (2, CLASSES))


def test_configs_by_name():
    assert load_config("em_capsules").name == "em-capsules"
    small = load_config("em_capsules", "small,released")
    assert small.name == "em-capsules-small-released"
    assert small.model.conv_caps.over == "released"
    assert load_config("vb_capsules").model.routing.vb.activation == "logit"
    assert load_config("vb_capsules", "smallnorb").name == "vb-capsules-smallnorb"
    assert load_config("em_capsules", "smallnorb,small").model.conv.features == 64


@pytest.mark.long
@pytest.mark.parametrize("preset", ["em_capsules", "em_capsules,small", "vb_capsules"])
def test_fits_20_images_at_published_width(preset):
    start, state = fit_twenty_digits(make_config(preset), steps=30, rounds=10)
    changed = jax.tree.map(lambda x, y: bool(np.any(x != y)), start.params, state.params)
    assert all(jax.tree.leaves(changed)), changed
