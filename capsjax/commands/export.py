"""Write a trained network into a folder that needs no run: weights, config, StableHLO program.

    capsjax export --workdir=runs/a
    capsjax export --workdir=runs/a --output=networks/a --dtype=float16

Writes config.json, weights.safetensors, predict.stablehlo, files of your own that the config needs,
and network.json, with the SHA-256 of each file and, for the parameters that the run tested, its
results. `capsjax.load_exported(FOLDER)` makes a predictor of it; the program runs with jax alone,
on any number of images: `jax.export.deserialize(...).call(images)`.
"""

from pathlib import Path

from absl import flags

from capsjax.commands import command_line
from capsjax.runs.exported import DTYPES, export
from capsjax.runs.predictor import load_predictor

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of the run.")
    flags.DEFINE_string("checkpoint", "selected", "selected, best, last or a step.")
    flags.DEFINE_string("output", "", "New folder, WORKDIR/export by default.")
    flags.DEFINE_bool("program", True, "Write the StableHLO program.")
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Type of the stored weights.")


def main() -> None:
    workdir = command_line.existing_run(FLAGS.workdir)
    folder = Path(FLAGS.output).expanduser() if FLAGS.output else workdir / "export"
    predictor = load_predictor(workdir, FLAGS.checkpoint)
    export(predictor, workdir, folder, FLAGS.dtype, FLAGS.program)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
