"""The extras of the package that install what a command is missing."""

# By a package's import name. A core installation computes; the extras train, read and draw.
EXTRAS = {
    "absl": "train",
    "matplotlib": "train",
    "ml_collections": "train",
    "orbax": "train",
    "PIL": "train",
    "pandas": "train",
    "safetensors": "train",
    "scipy": "train",
    "sklearn": "train",
    "tensorboardX": "train",
    "tqdm": "train",
    "datasets": "hf",
    "tensorflow": "tfds",
    "tensorflow_datasets": "tfds",
    "torch": "bench",
    "gradio": "explore",
}


def how_to_install(error: ModuleNotFoundError) -> str:
    """Return the line that names the missing package and the command that installs it.

    >>> how_to_install(ModuleNotFoundError(name="orbax.checkpoint"))
    "orbax is not installed: pip install 'capsjax[train]'"
    """
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return str(error)
    return f"{package} is not installed: pip install 'capsjax[{EXTRAS[package]}]'"
