"""A whole run: train, evaluate once on the test set, and store all that is needed to repeat it."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from capsjax.config.limits import check_limits, decided_by_validation
from capsjax.data import Arrays, load_part, load_training, source_of
from capsjax.data.labels import describe_unseen
from capsjax.kernels.compute import completed_forms
from capsjax.metrics import describe_imbalance
from capsjax.runs import devices, processes
from capsjax.runs.checkpoint import CheckpointError, Checkpoints, Restored
from capsjax.runs.choices import with_choices_of_run
from capsjax.runs.data_record import (
    check_processes,
    check_test,
    fingerprints,
    read_data,
    record_data,
)
from capsjax.runs.files import DamagedFileError, sealed, warn, write_json
from capsjax.runs.interrupt import Interrupt
from capsjax.runs.lock import hold
from capsjax.runs.longer import count_test_reads
from capsjax.runs.loop import train
from capsjax.runs.progress import format_seconds
from capsjax.runs.selection import TESTED_ALONE, check_selection, describe_selection
from capsjax.runs.single_run import STOPPING, SingleRun
from capsjax.runs.starts import program_command
from capsjax.runs.warm_start import WarmStart, read_warm_start
from capsjax.runs.workdir import flatten, open_workdir, read_finished
from capsjax.runs.writers import LINES
from capsjax.tasks import check_labels
from capsjax.training.build import Built, build
from capsjax.training.division import check_divides
from capsjax.training.fitting import describe_misfits, fit_to_data
from capsjax.training.plateau import describe_standstill
from capsjax.training.steps import TrainState, steps_per_epoch


def train_and_evaluate(
    config: ConfigDict, workdir: Path, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train until the last epoch, starting from the folder's last checkpoint.

    Args:
      config: see `capsjax.config`.
      workdir: folder of the run, new or of the same config.
      overrides: fields given on the command line, to be recorded.

    Returns:
      The contents of summary.json.

    Raises:
      ValueError: for an unusable config, data set or folder.
      NonFiniteError: if the loss is no longer finite.
      SystemExit: after one of the signals of `Interrupt`, once the state is saved.
    """
    config = with_choices_of_run(workdir, config)
    check_config(config)
    processes.check_same("the config", config.to_json_best_effort(sort_keys=True))
    with processes.primary_first():
        training, validation = load_training(**config.data)
    data = fingerprints(training=training, validation=validation)
    check_processes(data)
    config = fit_to_data(config, training)
    mesh = devices.make_mesh("data")
    check_divides(config.train.batch_size, mesh)
    sizes = (training.image_shape, training.num_classes, len(training))
    built = build(config, *sizes)
    check_labels(built.objective.task, training.labels.shape, *sizes[:2])
    like = jax.eval_shape(lambda: built.init_state(config.seed))

    forms = built.model.chosen_forms(config.train.batch_size // mesh.size)
    start = {**program_command(overrides or {}), "forms": forms}
    summary = processes.on_primary(lambda: read_finished(workdir, config, start, data))
    if summary is not None:
        _record_test_again(config, workdir, training)
        print(f"{workdir} is finished: {_describe(summary)}")
        return summary
    # Before anything is written.
    warm_start = _read_warm_start(config, workdir, like)
    _warn(config, built, training, validation)
    with hold(workdir):
        processes.on_primary(lambda: open_workdir(workdir, config, start, data))
        summary = _train(config, workdir, training, validation, mesh, like, forms, warm_start)
    print(f"{workdir}: {_describe(summary)}")
    return summary


def _train(
    config: ConfigDict,
    workdir: Path,
    training: Arrays,
    validation: Arrays | None,
    mesh: Mesh,
    like: TrainState,
    forms: dict[str, str],
    warm_start: WarmStart | None,
) -> dict[str, Any]:
    """Train from the last checkpoint, and write and return the results."""
    sizes = (training.image_shape, training.num_classes, len(training))
    in_epoch = steps_per_epoch(len(training), config.train.batch_size)
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        config.checkpoint.keep,
        sharding=devices.everywhere(mesh),
        steps_per_epoch=in_epoch,
        metric=config.selection_metric,
    )
    restored = checkpoints.restore_last_whole(like)
    if restored and restored.notes.get(TESTED_ALONE):
        raise CheckpointError(
            f"the last checkpoint in {workdir} is damaged, and that of step {restored.step} has "
            "the tested parameters alone, from which nothing can be trained. Start anew in "
            "another --workdir"
        )
    # The forms of the first start, not those that are best on the present machine.
    built = build(config, *sizes, forms_at_start(restored, forms))
    run = SingleRun(config, workdir, built, training, validation, checkpoints, mesh)
    run.open(restored, warm_start)
    try:
        with Interrupt() as interrupt:
            train(run, config, workdir, interrupt)
    finally:
        run.close()

    last = checkpoints.restore(like)
    chosen = checkpoints.restore_best_whole(like) if config.selection == "best" else last
    test = _load_test(config, workdir, training)
    print(f"evaluating {len(test)} test images", flush=True)
    summary = {
        "name": config.name,
        "seed": config.seed,
        "selection": config.selection,
        "selection_metric": config.selection_metric,
        "selected_step": chosen.step,
        "steps": last.step,
        "epochs": last.step // in_epoch,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(chosen.state.variables)),
        "num_training_examples": len(training),
        "test_reads": count_test_reads(workdir),
        "test": run.evaluate(chosen.state.variables, test),
        "validation": run.evaluate(chosen.state.variables, validation) if validation else None,
        "device": jax.devices()[0].device_kind,
        "device_count": mesh.size,
        **{name: note for name, note in last.notes.items() if name != LINES},
    }
    summary = sealed(summary)
    processes.on_primary(lambda: write_json(workdir / "summary.json", summary))
    return summary


def _read_warm_start(config: ConfigDict, workdir: Path, like: TrainState) -> WarmStart | None:
    """Read what a new run starts from; one that has a checkpoint goes on from that alone."""
    if not config.init_from:
        return None
    begun = processes.on_primary(lambda: any((workdir / "checkpoints").glob("[0-9]*")))
    return None if begun else read_warm_start(config.init_from, like)


def _warn(config: ConfigDict, built: Built, training: Arrays, validation: Arrays | None) -> None:
    """Print what of the config does not suit the data."""
    lines = describe_misfits(config, built.model)
    if validation is not None:
        lines.append(describe_unseen(training, validation, "validation"))
    for line in filter(None, lines):
        print(line, flush=True)


def _load_test(config: ConfigDict, workdir: Path, training: Arrays) -> Arrays:
    """Load the test part, after the last step, and record it as that of the run."""
    test = load_part(part="test", **source_of(config.data))
    data = check_test(test, training, print)
    processes.on_primary(lambda: record_data(workdir, data))
    return test


def _record_test_again(config: ConfigDict, workdir: Path, training: Arrays) -> None:
    """Record the test data of a finished run whose record of its data was made anew."""
    try:
        if not processes.on_primary(lambda: "test" in read_data(workdir)):
            _load_test(config, workdir, training)
    except (OSError, DamagedFileError) as error:  # on a disk that can only be read
        warn(f"{error}: the test data of this finished run are not recorded")


def check_config(config: ConfigDict) -> None:
    """Raise ValueError for values that cannot work, before data are loaded."""
    check_limits(flatten(config.to_dict()))
    check_selection(config)
    for setting, remedy in decided_by_validation(config).items():
        if config.data.validation_size == 0:
            raise ValueError(
                f"{setting} needs validation data: data.validation_size above 0, or {remedy}"
            )


def forms_at_start(restored: Restored | None, chosen: dict[str, str]) -> dict[str, str]:
    """Return the forms used since the run's first start; a new run takes the chosen ones."""
    if restored is None or "forms" not in restored.notes:
        return chosen
    forms = completed_forms(restored.notes["forms"], chosen)
    backend = restored.notes["backend"]
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


def _describe(summary: dict[str, Any]) -> str:
    test = summary["test"]
    if "dice" in test:
        of_what = f"of the pixels, Dice {test['dice']:.4f}, of {test['num_examples']} images"
    else:
        of_what = f"({test['num_errors']} errors of {test['num_examples']})"
    imbalance = describe_imbalance(test, summary.get("num_classes", 1))
    if imbalance:
        of_what += f", {imbalance}"
    return (
        f"test accuracy {100 * test['accuracy']:.2f} % {of_what}, "
        f"{describe_selection(summary)} parameters (step "
        f"{summary['selected_step']}), {format_seconds(summary['train_seconds'])} of training"
        f"{_describe_end(summary)}"
    )


def _describe_end(summary: dict[str, Any]) -> str:
    """Describe where and why training ended early; "" where it did not."""
    watched = summary.get(STOPPING)
    if watched is None or not watched["ended"]:
        return ""
    return f", which ended after epoch {summary['epochs']} {describe_standstill(watched)}"
