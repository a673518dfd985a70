"""Networks that come with the package, trained; each in a folder of `capsjax export`."""

from pathlib import Path
from typing import TYPE_CHECKING

from capsjax.registry import look_up

if TYPE_CHECKING:
    from capsjax.runs.predictor import Predictor

FOLDERS = {path.parent.name: path.parent for path in Path(__file__).parent.glob("*/network.json")}


def load_pretrained(name: str = "mnist") -> "Predictor":
    """Load a network that comes with the package.

    Args:
      name: "mnist", the small CapsNet; card.md in its folder has command, data and accuracy.

    Raises:
      ValueError: for an unknown name, or a file that is damaged; the message names it.
      ImportError: if the extra `train` is not installed.
    """
    return load_exported(look_up(FOLDERS, name, "pretrained network"))


def load_exported(folder: str | Path) -> "Predictor":
    """Load a network that `capsjax export` has written.

    Args:
      folder: the folder.

    Raises:
      ValueError: if there is none, or a file is not what was written; the message names it.
      ImportError: if the extra `train` is not installed.
    """
    try:
        from capsjax.runs import exported
    except ModuleNotFoundError as error:
        needed = "pip install 'capsjax[train]'"
        raise ImportError(f"{error.name} is not installed: {needed}") from None
    return exported.load_exported(folder)
