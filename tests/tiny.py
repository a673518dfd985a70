"""A run of seconds: the digits, few of them, and a network that is small but whole."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

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


def load_config(name: str, preset: str = "paper") -> ConfigDict:
    """The config of a file in configs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def tiny_config(**overrides) -> ConfigDict:
    """configs/digits.py made tiny, with further overrides by dotted name ("__" for ".")."""
    config = load_config("digits")
    with config.unlocked():
        config.update_from_flattened_dict(OVERRIDES)
        config.update_from_flattened_dict(
            {name.replace("__", "."): value for name, value in overrides.items()}
        )
    return config


def tiny_flags(**overrides) -> list[str]:
    """The same for a command line."""
    fields = {**OVERRIDES, **{name.replace("__", "."): value for name, value in overrides.items()}}
    return [f"--config={ROOT / 'configs' / 'digits.py'}"] + [
        f"--config.{name}={value}" for name, value in fields.items()
    ]
