"""Configs: each field is read, each config trains, mistakes are named."""

import functools
import importlib.util
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from capsjax.config import FAMILIES, make_config
from capsjax.config.tagged import resolved
from capsjax.data import load_training
from capsjax.runs.workdir import flatten
from capsjax.training.build import build, build_train_steps
from tests.tiny import ROOT

CONFIGS = {path.stem: path for path in (ROOT / "configs").glob("[a-z]*.py")}
# What may stand behind the colon, by family of configs with the same fields.
ARGUMENTS = {
    name: [*family.presets]
    + [f"{preset},{each}" for preset in family.presets for each in family.variants[preset]]
    for name, family in FAMILIES.items()
}
POOLINGS = ("capsule", "max", "average")
# Configs that have arguments of their own in place of presets.
OF_THEIR_OWN = {
    "capsule_pooling": POOLINGS,
    "folder": ("paper,small",),
    "deep": ("digits", "digits,4", "mnist", "mnist,4"),
    "deepcaps": ("", "large", "small,hard"),
    "efficient_capsnet": ("mnist", "multimnist", "smallnorb", "small"),
    "inverted_attention": ("mnist,small", "cifar10,released", "cifar100"),
    "em_capsules": ("", "small,released", "smallnorb,small"),
    "segcaps": ("paper,small,r1",),
    "self_routing": ("mnist,small", "smallnorb,poses"),
    "unet": ("paper,small",),
    "vb_capsules": ("", "smallnorb"),
}
CASES = [
    (name, argument)
    for name in CONFIGS
    for argument in OF_THEIR_OWN.get(name, [*ARGUMENTS["capsnet"], *ARGUMENTS["convnet"]])
]
# Image and classes by data set; "npz" stands for a user's own.
SIZES = {
    "mnist": ((28, 28, 1), 10),
    "digits": ((8, 8, 1), 10),
    "npz": ((24, 32, 3), 7),
    "folder": ((28, 28, 1), 5),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "shapes": ((16, 16, 1), 2),
    "smallnorb": ((48, 48, 2), 5),
}
# A user's own data of the sizes that some networks are for.
SIZES_OF_THEIR_OWN = {
    ("deepcaps", "large"): ((64, 64, 3), 10),
    ("efficient_capsnet", "multimnist"): ((36, 36, 1), 10),
    ("efficient_capsnet", "smallnorb"): ((48, 48, 2), 5),
    ("self_routing", "smallnorb,poses"): ((32, 32, 1), 5),
}


@functools.cache
def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


each_config = pytest.mark.parametrize("name", sorted(CONFIGS))
each_config_of_presets = pytest.mark.parametrize("name", sorted({*CONFIGS} - {*OF_THEIR_OWN}))
each_case = pytest.mark.parametrize(("name", "argument"), CASES)


class Recorder(ConfigDict):
    """A config that notes which of its leaves are read.

    The whole config as a dict, which is what is written to config.json, is not a read: nothing
    would ever be unread. A sub-dict as a dict is one for the fields that are then looked up.
    """

    def __init__(self, fields, reads, prefix=""):
        super().__init__()
        for name, value in fields.items():
            inner = f"{prefix}{name}."
            self[name] = Recorder(value, reads, inner) if is_dict(value) else value
        object.__setattr__(self, "_reads", reads)
        object.__setattr__(self, "_prefix", prefix)
        self.lock()

    def __getitem__(self, name):
        value = super().__getitem__(name)
        if not is_dict(value):
            self._reads.add(self._prefix + name)
        return value

    def to_dict(self):
        plain = as_dict(self)
        return RecordingDict(plain, self._reads, self._prefix) if self._prefix else plain


class RecordingDict(Mapping):
    """What a sub-dict of a `Recorder` becomes as a dict."""

    def __init__(self, fields, reads, prefix):
        self._fields, self._reads, self._prefix = fields, reads, prefix

    def __getitem__(self, name):
        value = self._fields[name]
        if isinstance(value, dict):
            return RecordingDict(value, self._reads, f"{self._prefix}{name}.")
        self._reads.add(self._prefix + name)
        return value

    def __iter__(self):
        return iter(self._fields)

    def __len__(self):
        return len(self._fields)


def is_dict(value):
    return isinstance(value, ConfigDict)


def as_dict(recorder):
    fields = recorder._fields.items()
    return {name: as_dict(value) if is_dict(value) else value for name, value in fields}


def small_run():
    """A config that trains in a moment: two steps on the digits."""
    config = load("digits").get_config().unlock()
    config.data.train_size = 16
    config.data.validation_size = 10
    config.model.conv.update(features=2, kernel_size=2)
    config.model.primary_caps.update(types=1, pose_size=2, kernel_size=2, stride=3)
    config.model.class_caps.pose_size = 2
    config.model.decoder.hidden = (3,)
    config.train.update(epochs=1, batch_size=8)
    config.evaluate.batch_size = 1000
    return config


def small_run_without_capsules():
    """The same of a network with all that such a network can have."""
    config = load("digits").get_config("capsule_pooling").unlock()
    config.data.train_size = 16
    config.data.validation_size = 10
    config.model.conv.update(features=(2, 3), padded=(False, True), kernel_size=2)
    config.model.pool.update(after=(1,), window=(2, 2))
    config.model.dense.features = (4,)
    config.schedule.stage_ends = (1, 2)
    config.optimizer.fresh_epochs = (1, 2)
    config.train.update(epochs=3, batch_size=8)
    config.evaluate.batch_size = 1000
    return config


def small_run_of_deepcaps():
    """The same of DeepCaps: 8x8 -> 4x4 -> 2x2, one cell of which is routed."""
    config = load("deepcaps").get_config().unlock()
    config.data.update(name="digits", train_size=16, validation_size=10)
    config.model.stem.features = 2
    config.model.cells.update(
        types=(2, 2), pose_size=(2, 2), kernel_size=(3, 3), stride=(2, 2), routed=(False, True)
    )
    config.model.class_caps.pose_size = 2
    config.model.decoder.update(map_features=2, features=(2,), stride=(2,))
    config.train.update(epochs=1, batch_size=8)
    config.evaluate.batch_size = 1000
    return config


def small_run_of_efficient_capsnet():
    """The same of Efficient-CapsNet: 8x8 -> 7x7 -> 3x3 -> 1x1."""
    config = load("efficient_capsnet").get_config().unlock()
    config.data.update(name="digits", train_size=16, validation_size=10)
    config.model.conv.update(features=(2, 4), kernel_size=(2, 3), stride=(1, 2))
    config.model.primary_caps.update(kernel_size=3, pose_size=2)
    config.model.class_caps.pose_size = 2
    config.model.decoder.hidden = (3,)
    config.train.update(epochs=1, batch_size=8)
    config.evaluate.batch_size = 1000
    return config


def small_run_of_inverted_attention():
    """The same of inverted attention: 8x8 -> 4x4 -> 2x2, and dense capsules."""
    config = load("inverted_attention").get_config("mnist,small").unlock()
    config.data.update(name="digits", train_size=16, validation_size=10)
    config.model.backbone.update(features=(2,), blocks=(1,), stride=(2,))
    config.model.capsules.pose_size = 4
    config.model.primary_caps.types = 1
    config.model.conv_caps.update(types=(2,), kernel_size=(3,), stride=(1,))
    config.model.dense_caps.num_capsules = (2,)
    config.schedule.stage_ends = (1, 2)
    config.train.update(epochs=1, batch_size=8)
    config.evaluate.batch_size = 1000
    return config


def small_run_of_matrix_capsules(name):
    """The same of matrix capsules: 8x8 -> 4x4 -> 2x2."""
    config = load(name).get_config().unlock()
    config.data.update(name="digits", train_size=16, validation_size=10)
    config.model.conv.update(features=2, kernel_size=2)
    config.model.capsules.pose_size = 4
    config.model.primary_caps.types = 1
    config.model.conv_caps.update(types=(2,), kernel_size=(3,), stride=(1,))
    config.model.class_caps.entries = (1, 3)
    config.train.update(epochs=1, batch_size=8)
    config.evaluate.batch_size = 1000
    return config


def small_run_on_shapes(name):
    """The same of a network for maps."""
    config = load(name).get_config().unlock()
    config.data.update(train_size=16, validation_size=10)
    config.data.shapes.update(height=8, width=8, count=26, test_count=4)
    config.train.update(epochs=1, batch_size=8)
    return config


def small_run_of_segcaps():
    """The same of SegCaps: 8x8 -> 4x4 -> 8x8."""
    config = small_run_on_shapes("segcaps")
    config.model.conv.features = 2
    config.model.down_caps.update(types=(2,), pose_size=(2,), kernel_size=3, stride=(2,))
    config.model.up_caps.update(types=(1,), pose_size=(2,))
    config.model.merge_caps.update(types=(), pose_size=())
    config.model.class_caps.pose_size = 2
    config.model.decoder.hidden = (3,)
    return config


def small_run_of_unet():
    """The same of a U-Net of two levels."""
    config = small_run_on_shapes("unet")
    config.model.conv.features = (2, 2)
    return config


def small_run_of_self_routing():
    """The same of self-routing: 8x8 -> 4x4 -> 2x2, and class capsules without poses."""
    config = load("self_routing").get_config().unlock()
    config.data.update(name="digits", train_size=16, validation_size=10)
    config.model.backbone.update(features=(2, 4), blocks=(1, 1), stride=(1, 2))
    config.model.capsules.update(types=1, pose_size=2)
    config.model.conv_caps.update(types=(2,), kernel_size=(3,), stride=(2,))
    config.schedule.stage_ends = (1, 2)
    config.train.update(epochs=1, batch_size=8)
    config.evaluate.batch_size = 1000
    return config


SMALL_RUNS = {
    "capsnet": small_run,
    "convnet": small_run_without_capsules,
    "deepcaps": small_run_of_deepcaps,
    "efficient_capsnet": small_run_of_efficient_capsnet,
    "inverted_attention": small_run_of_inverted_attention,
    "em_capsules": functools.partial(small_run_of_matrix_capsules, "em_capsules"),
    "segcaps": small_run_of_segcaps,
    "self_routing": small_run_of_self_routing,
    "unet": small_run_of_unet,
    "vb_capsules": functools.partial(small_run_of_matrix_capsules, "vb_capsules"),
}


def leaves_read_by_a_run(config, workdir):
    from capsjax.runs import train  # defines flags when it is imported

    reads = set()
    train.train_and_evaluate(Recorder(config, reads), workdir)
    return reads


@pytest.fixture
def hasty_compiler():
    """Nearly all of a run of two steps is compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.ci
@pytest.mark.usefixtures("hasty_compiler")
@pytest.mark.parametrize(
    "family",
    # The others take half a minute each to compile.
    [
        name if name in ("capsnet", "convnet") else pytest.param(name, marks=pytest.mark.ci)
        for name in SMALL_RUNS
    ],
)
def test_every_leaf_is_read_by_a_run(family, tmp_path, capsys):
    # One leaf more in each sub-dict that is not handed to a function whole (there it is an
    # unknown argument, see below): the test is able to fail.
    config = SMALL_RUNS[family]()
    bogus = {"bogus", *(f"{part}.bogus" for part in READ_BY_NAME)}
    for name in bogus:
        parent = config[name.rpartition(".")[0]] if "." in name else config
        parent.bogus = 1
    reads = leaves_read_by_a_run(config, tmp_path / "run")
    assert set(flatten(resolved(config))) - reads == bogus
    assert "test accuracy" in capsys.readouterr().out  # the run went to its end


# Sub-dicts whose fields are looked up one by one; all others are handed to a function whole.
READ_BY_NAME = ("train", "evaluate", "checkpoint", "log")


def sub_dicts(config, prefix=""):
    for name, value in config.items():
        if is_dict(value):
            yield prefix + name
            yield from sub_dicts(value, f"{prefix}{name}.")


HANDED_OVER = [
    # What a U-Net has, but for its layers, SegCaps has too.
    pytest.param(family, part, marks=pytest.mark.ci if family == "unet" else ())
    for family in SMALL_RUNS
    for part in sub_dicts(ConfigDict(resolved(FAMILIES[family].make())))
    if part not in READ_BY_NAME
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "part"), HANDED_OVER)
def test_a_field_that_a_function_does_not_know_stops_the_run(family, part):
    config = SMALL_RUNS[family]()
    config[part].bogus = 1
    with pytest.raises((TypeError, ValueError), match="bogus"):
        use(config)


def use(config):
    """The parts of a config that are handed over, as a run hands them over."""
    training, _ = load_training(**config.data)
    built = build(config, training.image_shape, training.num_classes, len(training))

    def loss():
        variables = built.init_state(config.seed).variables
        images, labels = jnp.zeros((1, *training.image_shape)), jnp.asarray(training.labels[:1])
        output = built.model.apply(variables, images, labels)
        return built.objective.total(built.objective.parts(output, images, labels))

    return jax.eval_shape(loss)


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALL_RUNS)
def test_the_same_run_without_such_a_field(family):
    assert use(SMALL_RUNS[family]()).shape == ()


@each_case
def test_every_config_has_the_fields_of_its_family(name, argument):
    # So what one run reads of one config is what is read of all.
    config = load(name).get_config(argument)
    family = FAMILIES[config.model.name].make()
    assert set(flatten(config.to_dict())) == set(flatten(family.to_dict()))


@pytest.mark.ci
# Variants of presets, such as "small", are for the pixels of MNIST.
@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name, argument in CASES if name != "digits" or "," not in argument],
)
def test_one_step_of_every_config(name, argument):
    config = load(name).get_config(argument)
    image_shape, num_classes = SIZES_OF_THEIR_OWN.get((name, argument), SIZES[config.data.name])
    # 0 is chosen by a run from the number of examples.
    config.train.batch_size = config.train.batch_size or 32
    count = config.train.batch_size + 1
    built = build(config, image_shape, num_classes, count)
    state = jax.eval_shape(lambda: built.init_state(config.seed))
    images = jax.ShapeDtypeStruct((count, *image_shape), jnp.uint8)
    label = built.objective.task.shape_of_labels(image_shape, num_classes)
    labels = jax.ShapeDtypeStruct((count, *label), jnp.int32)

    train_steps = build_train_steps(config, built)
    after, health = jax.eval_shape(train_steps, state, images, labels, np.int32(1))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert health.loss.shape == ()


@each_case
def test_leaves_can_be_set_on_the_command_line(name, argument):
    # Neither a list nor None can be.
    for value in flatten(load(name).get_config(argument).to_dict()).values():
        assert isinstance(value, bool | int | float | str | tuple)
        if isinstance(value, tuple):
            assert all(isinstance(item, int | float) for item in value)


@each_config_of_presets
def test_sizes_are_known_and_names_tell_the_preset(name):
    config = load(name).get_config("keras,small")
    assert config.data.name in SIZES
    assert config.name == f"{name}-keras-small"


@each_config
def test_configs_are_locked_and_name_the_nearest_field(name):
    config = load(name).get_config()
    assert config.is_locked
    assert config.model.compute.is_locked
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.schedule.learning_rat = 0.1
    with pytest.raises(AttributeError, match='Did you mean "loss_weights"'):
        _ = config.lossweights
    with pytest.raises(KeyError, match='Did you mean "max_shift"'):
        config.update_from_flattened_dict({"augment.maxshift": 2})


@each_config
def test_a_field_keeps_its_type(name):
    config = load(name).get_config()
    with pytest.raises(TypeError):
        config.train.epochs = "ten"


@each_config_of_presets
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("autors", "unknown preset 'autors'; did you mean 'authors'"),
        ("paper,smal", "unknown variant of the preset 'paper' 'smal'; did you mean 'small'"),
        ("paper,max", "unknown variant of the preset 'paper' 'max'"),
        ("small", "unknown preset 'small'"),
        ("", "unknown preset ''"),
        ("paper,", "unknown variant of the preset 'paper' ''"),
    ],
)
def test_unknown_presets_and_variants(name, argument, message):
    with pytest.raises(ValueError, match=message):
        load(name).get_config(argument)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("self_routing", "trains on cifar10, not on MNIST: .* --config=self_routing, and"),
        ("unet,small", "trains on shapes, not on MNIST: .* --config=unet, and"),
    ],
)
def test_a_preset_for_other_data_is_not_one_of_mnist(argument, message):
    with pytest.raises(ValueError, match=message):
        load("mnist").get_config(argument)


def test_poolings_by_name():
    for pooling in POOLINGS:
        config = load("capsule_pooling").get_config(pooling)
        assert config.model.pool.name == pooling
        assert config.name == f"pooling-{pooling}"
    with pytest.raises(ValueError, match="'averag'; did you mean 'average'"):
        load("capsule_pooling").get_config("averag")


def test_presets_leave_each_other_alone():
    make_config("authors").train.epochs = 1
    assert make_config("authors").train.epochs == 640
    assert make_config("paper").to_dict() == make_config().to_dict()
    assert make_config("notebook").to_dict() != make_config().to_dict()
