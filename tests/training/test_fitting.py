"""Settings that follow from the data: batch size, class weights, initial lengths, warnings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import make_config
from capsjax.config.own_data import VOTES, make_own_data_config
from capsjax.data import Arrays
from capsjax.layers import DenseCaps
from capsjax.models import make_model
from capsjax.notation import Capsules
from capsjax.ops import safe_norm, squash
from capsjax.routing import make_routing
from capsjax.training.build import build
from capsjax.training.fitting import (
    choose_class_weights,
    describe_misfits,
    fit_to_data,
    parse_class_weights,
)


def arrays_of(*counts, shape=(28, 28, 1)):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return Arrays(np.zeros((len(labels), *shape), np.uint8), labels, len(counts))


def own(**changes):
    config = make_own_data_config("npz", "paper,small")
    config.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
    return config


@pytest.mark.parametrize(("count", "expected"), [(8, 1), (30, 2), (36, 4), (2000, 128)])
def test_a_batch_makes_eight_steps_of_an_epoch(count, expected):
    fitted = fit_to_data(own(), arrays_of(count // 2, count // 2))
    assert fitted.train.batch_size == expected
    assert fitted.is_locked
    assert fit_to_data(own(train__batch_size=7), arrays_of(20, 20)).train.batch_size == 7


def test_what_nothing_depends_on_stays_the_same_config():
    config = make_config()
    assert fit_to_data(config, arrays_of(300, 300)) is config


def test_balanced_weights_are_the_inverse_of_the_numbers_with_a_mean_of_one():
    training = arrays_of(60, 30, 10)
    weights = np.array(parse_class_weights(choose_class_weights("balanced", training)))
    np.testing.assert_allclose(weights, 100 / 3 / np.array([60, 30, 10]), rtol=1e-5)
    assert np.mean(weights[training.labels]) == pytest.approx(1, rel=1e-5)


def test_given_weights_keep_their_proportions():
    weights = parse_class_weights(choose_class_weights("1, 2,0", arrays_of(10, 20, 10)))
    np.testing.assert_allclose(weights, [0.8, 1.6, 0.0])


def test_weights_that_were_chosen_before_stay_as_they_are():
    rng = np.random.default_rng(0)
    for counts in rng.integers(1, 1000, (300, 4)):
        training = arrays_of(*counts)
        chosen = choose_class_weights("balanced", training)
        assert choose_class_weights(chosen, training) == chosen


def test_weights_of_a_map_count_pixels():
    labels = np.zeros((2, 4, 4), np.int32)
    labels[0, 0, :2] = 1
    maps = Arrays(np.zeros((2, 4, 4, 1), np.uint8), labels, 2)
    weights = parse_class_weights(choose_class_weights("balanced", maps))
    np.testing.assert_allclose(weights, [32 / 2 / 30, 32 / 2 / 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("1,2", "class_weights has 2 numbers for 3 classes"),
        ("balancd", "class_weights is 'none', 'balanced' or a number .*not 'balancd'"),
        ("1,-2,1", "of at least 0 for each class"),
        ("0,0,0", "above 0 for at least one class of the training images"),
    ],
)
def test_class_weights_that_do_not_work(setting, message):
    with pytest.raises(ValueError, match=message):
        choose_class_weights(setting, arrays_of(3, 3, 3))


def test_several_classes_of_an_image_have_no_class_weights():
    several = Arrays(np.zeros((4, 2, 2, 1), np.uint8), np.ones((4, 2), np.int32), 2)
    assert choose_class_weights("none", several) == "none"
    with pytest.raises(ValueError, match="one class for each image or pixel"):
        choose_class_weights("balanced", several)


def test_weights_without_a_loss_that_takes_them_are_refused():
    config = make_config("paper,small")
    config.class_weights = "1,2"
    build(config, (28, 28, 1), 2, 200)
    config.loss_weights.margin = 0.0
    with pytest.raises(ValueError, match=r"the losses .*margin, spread, and .* reconstruction \("):
        build(config, (28, 28, 1), 2, 200)
    config.class_weights = "balanced"
    with pytest.raises(ValueError, match="needs the training labels"):
        build(config, (28, 28, 1), 2, 200)


def initial_length(count, kernel_init, num_classes=10, pose_size=16):
    """Mean length of class capsules above so many lower ones, before the first step."""
    layer = DenseCaps(num_classes, pose_size, make_routing("dynamic"), kernel_init=kernel_init)
    poses = squash(0.5 * jax.random.normal(jax.random.key(1), (2, count, 8)))
    capsules = Capsules(poses, safe_norm(poses))
    (classes, _), _ = jax.jit(layer.init_with_output)(jax.random.key(0), capsules)
    return float(jnp.mean(safe_norm(classes.poses)))


@pytest.mark.ci
def test_initial_lengths_do_not_grow_with_the_number_of_capsules():
    few, many = (initial_length(count, VOTES, 4, 4) for count in (100, 5_000))
    assert many == pytest.approx(few, rel=0.35)
    fixed = "truncated_normal(0.1)"
    few, many = (initial_length(count, fixed, 4, 4) for count in (100, 5_000))
    assert many > 5 * few


@pytest.mark.slow
def test_initial_lengths_at_the_papers_size_are_the_papers():
    ours, theirs = (initial_length(1152, init) for init in (VOTES, "truncated_normal(0.1)"))
    assert ours == pytest.approx(theirs, rel=0.15)
    assert make_own_data_config("npz", "paper").model.class_caps.kernel_init == VOTES


def test_the_reconstruction_weighs_what_it_does_in_the_paper():
    for preset, weight in (("paper", 0.392), ("keras", 0.0005), ("pytorch", 0.392)):
        config = make_own_data_config("folder", preset)
        assert config.reconstruction_loss.reduction == "mean"
        assert config.loss_weights.reconstruction == pytest.approx(weight)
    assert make_own_data_config("npz", "notebook").loss_weights.reconstruction == pytest.approx(
        0.0005 * 784 * 50
    )
    assert "reconstruction" not in make_own_data_config("npz", "cnn").loss_weights


def warnings(config, shape):
    model = make_model(image_shape=shape, num_classes=2, **config.model.to_dict())
    return describe_misfits(config, model)


def test_a_form_for_a_layer_that_is_not_there_is_announced():
    (line,) = warnings(own(model__compute__conv="conw:lax"), (28, 28, 1))
    assert "names the layer 'conw', which is not there; did you mean 'conv'?" in line
    assert "dtype" not in line
    for right in ("conv:lax", "lax", "conv:lax,primary_caps:fourier"):
        assert not warnings(own(model__compute__conv=right), (28, 28, 1))


def test_tens_of_thousands_of_capsules_are_announced_with_a_stride():
    (line,) = warnings(own(), (96, 96, 3))
    assert "images of 96x96 pixels make 12,800 primary capsules" in line
    assert "With --config.model.conv.stride=2 there are 2,592" in line
    assert not warnings(own(model__conv__stride=2), (96, 96, 3))
    assert not warnings(own(), (28, 28, 1))


def test_a_sum_over_other_numbers_than_the_papers_is_announced():
    config = make_config("paper,small")
    config.data.name = "folder"
    assert not warnings(config, (28, 28, 1))
    (line,) = warnings(config, (32, 32, 3))
    assert "a sum over 32x32x3 numbers, weighs 3.9 times what it does in the paper" in line
    assert "--config.loss_weights.reconstruction=0.392" in line
    config.loss_weights.reconstruction /= 4
    assert not warnings(config, (32, 32, 3))
    config.loss_weights.reconstruction *= 4
    config.data.name = "cifar10"
    assert not warnings(config, (32, 32, 3))
