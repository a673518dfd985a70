"""A run of seconds: the digits, few of them, and a network that is small but whole."""

from pathlib import Path

from ml_collections import ConfigDict

from capsjax.config import load_config

ROOT = Path(__file__).resolve().parent.parent

OVERRIDES = {
    "data.train_size": 128,
    "data.validation_size": 50,
    "model.conv.features": 8,
    "model.primary_caps.types": 2,
    "model.class_caps.pose_size": 4,
    "model.decoder.hidden": (16,),
    "train.batch_size": 32,
    "train.epochs": 3,
    "log.every_steps": 3,
    "log.tensorboard": False,
}


def tiny_config(**overrides) -> ConfigDict:
    """configs/digits.py made tiny, with further overrides by dotted name ("__" for ".")."""
    return _digits_config("paper", OVERRIDES, overrides)


CONVNET_OVERRIDES = {
    "data.train_size": 128,
    "data.validation_size": 50,
    "model.conv.features": (4, 6),
    "model.conv.padded": (False, True),
    "model.pool.after": (1,),
    "model.dense.features": (12,),
    "train.batch_size": 32,
    "train.epochs": 3,
    "schedule.stage_ends": (1, 2),
    "optimizer.fresh_epochs": (1, 2),
    "log.every_steps": 3,
    "log.tensorboard": False,
}


def tiny_convnet_config(**overrides) -> ConfigDict:
    """The pooling network on the digits, likewise: two convolutions and one pooling."""
    return _digits_config("capsule_pooling", CONVNET_OVERRIDES, overrides)


def _digits_config(preset: str, *changes: dict) -> ConfigDict:
    config = load_config(ROOT / "configs" / "digits.py", preset)
    with config.unlocked():
        for change in changes:
            config.update_from_flattened_dict(_dotted(change))
    return config


def _dotted(overrides: dict) -> dict:
    return {name.replace("__", "."): value for name, value in overrides.items()}


def tiny_flags(file: str = "digits.py", prefix: str = "", **overrides) -> list[str]:
    """The same for a command line: of a file in configs/ that has those fields behind a prefix."""
    fields = {**OVERRIDES, **_dotted(overrides)}
    return [f"--config={ROOT / 'configs' / file}"] + [
        f"--config.{prefix}{name}={value}" for name, value in fields.items()
    ]
