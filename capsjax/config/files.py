"""Config files by name: the package's own are found wherever the program runs."""

import importlib.util
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from capsjax.registry import suggest


def configs_folder() -> Path:
    """Return the folder of the configs that come with the package."""
    return Path(str(files("capsjax.configs")))


def config_names() -> list[str]:
    """Return the names of the configs that come with the package, sweeps included.

    >>> "digits" in config_names(), "sweeps/digits" in config_names()
    (True, True)
    """
    root = configs_folder()
    paths = [path for path in root.rglob("*.py") if path.name != "__init__.py"]
    names = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    return sorted(names, key=lambda name: (name.count("/"), name))


def find_config(value: str) -> str:
    """Find the file that a value of --config names, and keep what follows the colon.

    Args:
      value: a path, or the name of a config of the package: "digits" or "configs/digits.py".

    Raises:
      ValueError: if there is no such file, or it is not one of Python.

    >>> find_config("digits:keras").endswith("configs/digits.py:keras")
    True
    """
    path, colon, argument = value.partition(":")
    if Path(path).expanduser().is_file():
        if Path(path).suffix != ".py":
            raise ValueError(f"--config={path} is no config file, which ends in .py")
        return f"{Path(path).expanduser()}{colon}{argument}"
    name = path.removeprefix("configs/").removesuffix(".py")
    if name in config_names():
        return f"{configs_folder() / name}.py{colon}{argument}"
    raise ValueError(
        f"no config file {path!r}; {suggest(name, config_names())}. An example is "
        "--config=configs/digits.py"
    )


def load_config(file: str | Path, *argument: str) -> ConfigDict:
    """Load the config of a file, for another one to start from.

    Args:
      file: a path, or the name of a config of the package, such as "digits".
      *argument: what follows the colon on a command line, if anything.

    Raises:
      ValueError: if there is no such file.

    >>> load_config("digits").model.conv.kernel_size
    3
    """
    path = Path(find_config(str(file)))
    return load_module(path, path.stem).get_config(*argument)


def load_module(file: Path, name: str) -> ModuleType:
    """Run a file as a module of a given name, and return it.

    Raises:
      Exception: whatever the file raises.
    """
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
