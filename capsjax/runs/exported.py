"""A trained network as a folder of its own: written from a run, loaded without it.

config.json          the config of its run
weights.safetensors  parameters and statistics, by their path in the variables
predict.stablehlo    the forward pass with its weights, for programs without capsjax
own_files.json code/ files of a user's own that the config needs, see `capsjax.runs.own_files`
network.json         sizes, origin, the SHA-256 of the files above, and the results of the run if
                     it tested these parameters, in float32; written last
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.flax import load, save

from capsjax.config.tagged import resolved
from capsjax.registry import look_up
from capsjax.runs.files import (
    DamagedFileError,
    WorkdirError,
    read_sealed,
    sealed,
    write_bytes,
    write_json,
)
from capsjax.runs.own_files import load_own_files, stored_own_files
from capsjax.runs.predictor import Predictor
from capsjax.runs.starts import read_starts
from capsjax.runs.workdir import naming_remedy, read_config, read_summary
from capsjax.training.build import build

NETWORK, WEIGHTS, PROGRAM = "network.json", "weights.safetensors", "predict.stablehlo"
# Types of stored weights. All computations have them in float32.
DTYPES = {"float32": jnp.float32, "float16": jnp.float16, "bfloat16": jnp.bfloat16}
PLATFORMS = ("cpu", "cuda", "tpu")
# The plain forms, which hold for any batch size and on any device.
PLAIN = {"dtype": "float32", "conv": "lax", "votes": "held"}


def export(
    predictor: Predictor,
    workdir: Path,
    folder: Path,
    dtype: str = "float32",
    with_program: bool = True,
) -> None:
    """Write a trained network into a folder, which is made.

    Args:
      predictor: the network.
      workdir: folder of its run, for its results and its command.
      folder: new or empty.
      dtype: "float32", "float16" or "bfloat16", of the weights.
      with_program: whether to write the StableHLO program, which holds the weights in float32.

    Raises:
      WorkdirError: if there is something in the folder, or a file of the run is damaged or missing;
        the message names the remedy.
      ValueError: for an unknown type.
      OSError: if env.json of the run cannot be read, or the folder not be written.
    """
    stored = look_up(DTYPES, dtype, "type of weights (--dtype)")
    if folder.exists() and any(folder.iterdir()):
        raise WorkdirError(f"{folder} is not empty: give another --output, or delete it")
    # What may fail comes before the first write, as the next export refuses a folder in use.
    with naming_remedy():
        summary, start = read_summary(workdir), read_starts(workdir)[-1]
    rounded = jax.tree.map(lambda x: jnp.asarray(x, stored), predictor.variables)
    program = program_of(_with(predictor, rounded)) if with_program else None
    own_files = stored_own_files(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in own_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, content)
    write_json(folder / "config.json", resolved(predictor.config))
    write_bytes(folder / WEIGHTS, save(flatten_dict(rounded, sep="/")))
    if program is not None:
        write_bytes(folder / PROGRAM, program)
    is_tested = summary is not None and summary["selected_step"] == predictor.step
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    fields = {
        "image_shape": list(predictor.model.image_shape),
        "num_classes": predictor.model.num_classes,
        "class_names": list(predictor.class_names),
        "step": predictor.step,
        "dtype": dtype,
        "test": summary["test"] if is_tested else None,
        "trained_with": {name: start.get(name) for name in ("command", "device", "packages")},
        "files": {path.relative_to(folder).as_posix(): _sha256(path) for path in written},
    }
    write_json(folder / NETWORK, sealed(fields))


def load_exported(folder: str | Path) -> Predictor:
    """Load a network that `export` has written.

    Args:
      folder: the folder.

    Raises:
      WorkdirError: if there is none, or a file of a user's own cannot be loaded.
      DamagedFileError: if a file is not what was written; the message names it.
    """
    folder = Path(folder).expanduser()
    if not (folder / NETWORK).exists():
        raise WorkdirError(f"no exported network in {folder} (it has no {NETWORK}): capsjax export")
    fields = read_sealed(folder / NETWORK, needed=("files", "image_shape", "num_classes", "step"))
    for name, expected in fields["files"].items():
        if not (folder / name).exists() or _sha256(folder / name) != expected:
            raise DamagedFileError(folder / name, f"its SHA-256 is not that of {NETWORK}")
    config = read_config(folder)
    load_own_files(folder)
    built = build(
        config, tuple(fields["image_shape"]), fields["num_classes"], config.train.batch_size
    )
    try:
        weights = load((folder / WEIGHTS).read_bytes())
    except SafetensorError as error:
        raise DamagedFileError(folder / WEIGHTS, error) from None
    variables = jax.tree.map(jnp.float32, unflatten_dict(weights, sep="/"))
    names = fields.get("class_names", ())
    return Predictor(config, fields["step"], built.model, variables, built.objective, names)


def program_of(predictor: Predictor) -> bytes:
    """Return the forward pass of a network as a StableHLO program, for any number of images.

    `jax.export.deserialize(program).call(images)` takes float32 images (n, h, w, c) in [0, 1] and
    returns a dict of the parts of `Output` that the network has.
    """
    config = predictor.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.compute.update({k: v for k, v in PLAIN.items() if k in config.model.compute})
    shape, num_classes = predictor.model.image_shape, predictor.model.num_classes
    model = build(config, tuple(shape), num_classes, config.train.batch_size).model

    def predict(images: jax.Array) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest"):
            output = model.apply(predictor.variables, images)
        return {name: x for name, x in output._asdict().items() if x is not None}

    n, *_ = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, *shape), jnp.float32)
    with _without_paths():
        exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Keep the paths of this machine's source files out of the programs that are made."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, name)
    jax.config.update(name, ".*")
    try:
        yield
    finally:
        jax.config.update(name, before)


def _with(predictor: Predictor, rounded: Any) -> Predictor:
    variables = jax.tree.map(jnp.float32, rounded)
    config, step, model = predictor.config, predictor.step, predictor.model
    return Predictor(config, step, model, variables, predictor.objective, predictor.class_names)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
