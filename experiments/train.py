"""Train a network, evaluate it once on the test set, and leave behind all that repeats it.

    python experiments/train.py --config=configs/digits.py
    python experiments/train.py --config=configs/mnist.py:authors --config.train.epochs=5 \\
        --workdir=runs/a

The same --workdir again resumes. Every field of the config is a flag: --config.FIELD=VALUE
(all of them, with comments, in capsjax/config/).

All devices of the machine divide each batch among them. Several machines run the same command,
with the --workdir and the data in reach of each, under Slurm's srun or with

    --coordinator=HOST:PORT --num_processes=N --process_id=0, 1, ..., N-1
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import jax
import numpy as np
import pace
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from capsjax import devices
from capsjax.checkpoint import Checkpoints, Restored
from capsjax.compilation import keep_compiled_programs
from capsjax.data import Arrays, load_part, load_training
from capsjax.files import write_json
from capsjax.interrupt import Interrupt
from capsjax.metrics import means_of, results_of
from capsjax.progress import Progress, format_seconds
from capsjax.registry import look_up
from capsjax.training import TrainState
from capsjax.training.build import Built, build, build_evaluate, build_train_steps
from capsjax.training.division import check_divides
from capsjax.training.steps import Health
from capsjax.workdir import flatten, new_workdir, open_workdir, program_command, read_summary
from capsjax.writers import MetricsWriter, NoWriter

FLAGS = flags.FLAGS


class NonFiniteError(ValueError):
    """The loss or its gradient is not finite any more."""


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config", None, "Config file, with its preset after a colon: configs/mnist.py:authors."
    )
    flags.DEFINE_string(
        "workdir", "", "Folder of the run, runs/NAME-TIME by default. A run that is there resumes."
    )
    command_line.define_process_flags()


def main() -> None:
    config = FLAGS.config
    if config is None:
        raise ValueError("--config=FILE is missing, for example --config=configs/digits.py")
    command_line.start_processes()
    keep_compiled_programs()
    workdir = FLAGS.workdir or devices.on_primary(lambda: str(new_workdir(config.name)))
    train_and_evaluate(
        config, Path(workdir).expanduser(), config_flags.get_override_values(FLAGS["config"])
    )


def train_and_evaluate(
    config: ConfigDict, workdir: Path, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train until the last epoch, from where the folder's last checkpoint stands.

    Args:
      config: see `capsjax.config`.
      workdir: folder of the run, new or of the same config.
      overrides: fields that were given on the command line, to be recorded.

    Returns:
      What summary.json holds.

    Raises:
      ValueError: for a config, data set or folder that does not work.
      NonFiniteError: if the loss is not finite any more.
      SystemExit: after Ctrl-C or SIGTERM, when the state is saved.
    """
    check_config(config)
    devices.check_same("the config", config.to_json_best_effort(sort_keys=True))
    with devices.primary_first():
        training, validation = load_training(**config.data)
    devices.check_same("the training data", training.images.tobytes())
    mesh = devices.make_mesh("data")
    check_divides(config.train.batch_size, mesh)
    sizes = (training.image_shape, training.num_classes, len(training))
    built = build(config, *sizes)
    like = jax.eval_shape(lambda: built.init_state(config.seed))

    forms = built.model.chosen_forms(config.train.batch_size // mesh.size)
    start = {**program_command(overrides or {}), "forms": forms}
    devices.on_primary(lambda: open_workdir(workdir, config, start))
    summary = devices.on_primary(lambda: read_summary(workdir))
    if summary is not None:
        print(f"{workdir} is finished: {_describe(summary)}")
        return summary
    checkpoints = Checkpoints(
        workdir / "checkpoints", config.checkpoint.keep, sharding=devices.everywhere(mesh)
    )
    restored = checkpoints.restore_last_whole(like)
    # As at the first start, and not as is best on the machine of this one.
    built = build(config, *sizes, forms_at_start(restored, forms))
    evaluate = _make_evaluate(config, built, mesh)
    train(config, workdir, built, restored, training, validation, checkpoints, evaluate, mesh)

    chosen = checkpoints.restore(like, config.selection)
    test = load_part(config.data.name, "test", dir=config.data.dir, file=config.data.file)
    print(f"evaluating {len(test)} test images", flush=True)
    summary = {
        "name": config.name,
        "seed": config.seed,
        "selection": config.selection,
        "selected_step": chosen.step,
        "steps": built.steps_per_epoch * config.train.epochs,
        "epochs": config.train.epochs,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(chosen.state.variables)),
        "num_training_examples": len(training),
        "test": evaluate(chosen.state.variables, test),
        "validation": evaluate(chosen.state.variables, validation) if validation else None,
        "device": jax.devices()[0].device_kind,
        "device_count": mesh.size,
        **checkpoints.restore(like, "last").notes,
    }
    devices.on_primary(lambda: write_json(workdir / "summary.json", summary))
    print(f"{workdir}: {_describe(summary)}")
    return summary


def check_config(config: ConfigDict) -> None:
    """Raise ValueError for what only this script reads."""
    smallest = {
        "augment.max_shift": 0,
        "checkpoint.every_epochs": 1,
        "evaluate.batch_size": 0,
        "log.every_steps": 1,
        "train.epochs": 1,
    }
    fields = flatten(config.to_dict())
    for name, least in smallest.items():
        if fields[name] < least:
            raise ValueError(f"{name} is at least {least}, not {fields[name]}")
    look_up({"last": "last", "best": "best"}, config.selection, "selection")
    if config.selection == "best" and config.data.validation_size == 0:
        raise ValueError("selection 'best' needs validation data: data.validation_size above 0")


def train(
    config: ConfigDict,
    workdir: Path,
    built: Built,
    restored: Restored | None,
    training: Arrays,
    validation: Arrays | None,
    checkpoints: Checkpoints,
    evaluate: Callable[[dict, Arrays], dict[str, float]],
    mesh: Mesh,
) -> None:
    """Take all steps that are left, and leave a checkpoint of the last one."""
    if restored is None:
        state = jax.jit(lambda: built.init_state(config.seed))()
        # Where a restored state lies too: otherwise evaluation is compiled for each of them.
        state = devices.replicate(state, mesh)
        notes = {"train_seconds": 0.0, "image_shape": training.image_shape}
        notes["num_classes"] = training.num_classes
        notes["forms"] = built.model.chosen_forms(config.train.batch_size // mesh.size)
        notes["backend"] = jax.default_backend()
    else:
        state, notes = restored.state, restored.notes
        print(f"resuming {workdir} from step {restored.step}")
    step, in_epoch = int(state.step), built.steps_per_epoch
    total = in_epoch * config.train.epochs

    images, labels = devices.replicate((training.images, training.labels), mesh)
    started = time.perf_counter()
    train_steps = _compile_train_steps(config, built, mesh, state, images, labels)
    notes["compile_seconds"] = time.perf_counter() - started
    print(
        f"{workdir}: {len(training)} training examples, {config.train.epochs} epochs of "
        f"{in_epoch} steps; compiled in {notes['compile_seconds']:.1f} s",
        flush=True,
    )

    writer = (
        MetricsWriter(workdir, config.log.tensorboard, step) if devices.is_primary() else NoWriter()
    )
    progress = Progress(total, step, config.train.batch_size)
    saved_at, logged_step, window_seconds = time.monotonic(), step, 0.0
    call_steps, first_step = 1, step
    best_loss = min(checkpoints.validation_losses().values(), default=math.inf)
    try:
        with Interrupt() as interrupt:
            while step < total:
                call_steps = min(call_steps, pace.next_stop(config, step, in_epoch) - step)
                started = time.perf_counter()
                state, health = train_steps(state, images, labels, np.int32(call_steps))
                step, finite = int(state.step), bool(health.finite)
                seconds = time.perf_counter() - started
                if step == first_step + 1:
                    notes["seconds_to_first_step"] = time.perf_counter() - command_line.STARTED
                    progress.say(f"first step after {notes['seconds_to_first_step']:.1f} s")
                if not finite:
                    _stop_non_finite(workdir, step, health, checkpoints)
                notes["train_seconds"] += seconds
                window_seconds += seconds
                call_steps, due, signal = pace.agree(
                    pace.steps_of_next_call(call_steps, seconds),
                    pace.is_due(config, step, saved_at),
                    interrupt.signal or 0,
                )
                progress.update(step)
                epoch, validation_loss = step / in_epoch, None

                if step % config.log.every_steps == 0 or step % in_epoch == 0:
                    metrics = means_of(state.window)
                    images_taken = (step - logged_step) * config.train.batch_size
                    metrics["images_per_second"] = images_taken / window_seconds
                    metrics["learning_rate"] = float(built.schedule(step - 1))
                    writer.write(step, epoch, "train", metrics)
                    progress.report(epoch, "train", metrics)
                    empty = jax.tree.map(np.zeros_like, state.window)
                    state = state._replace(window=devices.replicate(empty, mesh))
                    logged_step, window_seconds = step, 0.0
                due |= signal > 0
                if step % in_epoch == 0:
                    if validation:
                        metrics = evaluate(state.variables, validation)
                        writer.write(step, epoch, "validation", metrics)
                        progress.report(epoch, "validation", metrics)
                        validation_loss = metrics["loss"]
                    epochs_done = step // in_epoch
                    due |= epochs_done % config.checkpoint.every_epochs == 0 or step == total
                    due |= validation_loss is not None and validation_loss < best_loss
                    best_loss = min(best_loss, validation_loss or math.inf)
                if due:
                    checkpoints.save(step, state, notes, validation_loss)
                    saved_at = time.monotonic()
                if signal and step < total:
                    print(f"saved step {step}; the same command with --workdir={workdir} resumes")
                    raise SystemExit(128 + signal)
    finally:
        progress.close()
        writer.close()


def forms_at_start(restored: Restored | None, chosen: dict[str, str]) -> dict[str, str]:
    """The forms that a run has computed in since its first start; a new one takes the chosen."""
    if restored is None or "forms" not in restored.notes:
        return chosen
    forms, backend = restored.notes["forms"], restored.notes["backend"]
    if forms != chosen:
        listed = ", ".join(f"{name} {form}" for name, form in forms.items())
        print(
            f"going on with the forms of the first start, on {backend}: {listed}. With those that "
            "suit this machine the run would not be the same"
        )
    if backend != jax.default_backend():
        print(
            f"the run began on {backend} and goes on on {jax.default_backend()}, where sums have "
            "another order: its results are not those of an uninterrupted run bit for bit"
        )
    return forms


def _compile_train_steps(
    config: ConfigDict, built: Built, mesh: Mesh, state: TrainState, images, labels
):
    """The compiled program, made before the clock of the progress starts."""
    jitted = jax.jit(build_train_steps(config, built, mesh), donate_argnums=0)
    return jitted.lower(state, images, labels, np.int32(1)).compile()


def _make_evaluate(config: ConfigDict, built: Built, mesh: Mesh):
    evaluate = jax.jit(build_evaluate(config, built, mesh))

    def evaluate_part(variables: dict, part: Arrays) -> dict[str, float]:
        images, labels = devices.replicate((part.images, part.labels), mesh)
        return results_of(evaluate(variables, images, labels).sums)

    return evaluate_part


def _stop_non_finite(workdir: Path, step: int, health: Health, checkpoints: Checkpoints) -> None:
    shown = health.shown()
    devices.on_primary(lambda: write_json(workdir / "failure.json", {"step": step, **shown}))
    listed = ", ".join(f"{name} {value}" for name, value in shown.items())
    raise NonFiniteError(
        f"step {step} is not finite: {listed}. The last checkpoint is of step "
        f"{max(checkpoints.steps(), default=0)}. A lower schedule.learning_rate or a larger "
        "model.squash.eps may help"
    )


def _describe(summary: dict[str, Any]) -> str:
    test = summary["test"]
    return (
        f"test accuracy {100 * test['accuracy']:.2f} % ({test['num_errors']} errors of "
        f"{test['num_examples']}), {summary['selection']} parameters (step "
        f"{summary['selected_step']}), {format_seconds(summary['train_seconds'])} of training"
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
