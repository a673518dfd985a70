"""The limits of config values: what cannot work is refused in one line, by name."""

import math

import pytest

from capsjax.config import FAMILIES, load_config
from capsjax.config.files import config_names
from capsjax.config.limits import LIMITS, check_limits
from capsjax.runs.workdir import flatten


@pytest.mark.parametrize("name", [name for name in config_names() if "/" not in name])
def test_every_config_is_within_its_limits(name):
    check_limits(flatten(load_config(name).to_dict()))


def test_every_limit_is_of_a_field():
    fields = {name for family in FAMILIES.values() for name in flatten(family.make().to_dict())}
    assert LIMITS.keys() <= fields


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.conv.kernel_size", 0, "model.conv.kernel_size is at least 1, not 0"),
        ("model.primary_caps.types", 0, "model.primary_caps.types is at least 1, not 0"),
        ("model.decoder.hidden", (8, -1), "each value of model.decoder.hidden is at least 1"),
        ("schedule.learning_rate", -1e-3, "schedule.learning_rate is at least 0, not -0.001"),
        ("schedule.learning_rate", math.nan, "schedule.learning_rate is at least 0, not nan"),
        ("schedule.learning_rate", math.inf, "schedule.learning_rate is at least 0, not inf"),
        ("schedule.decay_rate", 0.0, "schedule.decay_rate is above 0, not 0.0"),
        ("checkpoint.every_minutes", -5.0, "checkpoint.every_minutes is at least 0, not -5.0"),
        ("optimizer.eps", 0.0, "optimizer.eps is above 0, not 0.0"),
        ("log.every_steps", 0, "log.every_steps is at least 1, not 0"),
        ("data.validation_size", math.inf, "data.validation_size is at least 0, not inf"),
        ("data.validation_size", math.nan, "data.validation_size is at least 0, not nan"),
        ("data.train_size", -1, "data.train_size is at least 0, not -1"),
        ("augment.flip_vertical", 1.5, "flip_vertical is at least 0 and at most 1, not 1.5"),
        ("task.multilabel.count", -1, "task.multilabel.count is at least 0, not -1"),
        ("train.batch_size", -1, "train.batch_size is at least 0, not -1"),
        ("seed", 2**32, "seed is at least -2147483648 and below 4294967296, not 4294967296"),
        ("seed", -(2**31) - 1, "seed is at least -2147483648 and below .*, not -2147483649"),
        ("seed", 10**20, "seed is at least .*, not 100000000000000000000"),
        ("model.dropout.dense", (0.3, 1.0), "of model.dropout.dense is at least 0 and below 1"),
    ],
)
def test_a_value_outside_of_its_limits_is_named_with_them(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_limits({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("augment.flip_vertical", 1.0),
        ("schedule.learning_rate", 0.0),
        ("model.conv_caps.types", ()),
        ("model.conv.padded", False),
        ("seed", -(2**31)),
        ("seed", 2**32 - 1),
    ],
)
def test_a_value_at_its_limit_is_allowed(name, value):
    check_limits({name: value})
