"""The page of a run: its result, its curves, what its network makes of test images, its records."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from capsjax.config.tagged import resolved
from capsjax.metrics import describe_imbalance
from capsjax.reports import wording
from capsjax.reports.documents import DOCUMENTS
from capsjax.reports.page import classes, records
from capsjax.reports.page.curves import curves, panels
from capsjax.reports.page.html import Section, element, facts, image, join, page, paragraph
from capsjax.reports.page.pictures import address_of
from capsjax.reports.page.tested import (
    Tested,
    pose_study,
    sections_of_classes,
    sections_of_maps,
)
from capsjax.runs.data_record import Fingerprints, read_data
from capsjax.runs.files import read_json
from capsjax.runs.selection import describe_selection
from capsjax.runs.starts import read_starts
from capsjax.runs.workdir import naming_remedy, read_config, read_summary
from capsjax.runs.writers import read_metrics

# Figures of evaluate.py and visualize.py, for a page without test images.
KEPT = {
    "mistakes": "The most confident mistakes",
    "reconstructions": "Test images and their reconstructions",
    "maps": "Test images and their maps",
    "poses": "Poses moved and decoded",
    "couplings": "Coupling coefficients",
}


class RunRecord(NamedTuple):
    """What the files of a run record of it.

    Attributes:
      workdir: its folder.
      fields: its config.
      starts: env.json, an entry for each start.
      summary: its results; None if it is not finished.
      metrics: lines of metrics.jsonl.
      data: fingerprints of its data, by part.
    """

    workdir: Path
    fields: Mapping[str, Any]
    starts: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None
    metrics: Sequence[Mapping[str, Any]]
    data: Fingerprints


def read_record(workdir: Path) -> RunRecord:
    """Read the files of a run.

    Raises:
      WorkdirError: if there is no run, or a file of it is damaged; the message names the remedy.
    """
    fields = resolved(read_config(workdir))
    with naming_remedy():
        starts, summary = read_starts(workdir), read_summary(workdir)
        return RunRecord(
            workdir, fields, starts, summary, read_metrics(workdir), read_data(workdir)
        )


def run_page(record: RunRecord, tested: Tested | None, missing: str = "") -> str:
    """Make the page of a run.

    Args:
      record: what its files record.
      tested: its network on the test images; None for a page of files alone.
      missing: why there are no test images, in a sentence.

    Returns:
      The whole file.
    """
    sections = [_run(record, tested, missing)]
    if drawn := curves(record.metrics):
        sections.append(drawn)
    data: dict[str, Any] = {"curves": panels(record.metrics)}
    if tested is None:
        sections += _kept(record)
    elif tested.images.labels.ndim == 3:
        sections += sections_of_maps(tested)
    elif tested.images.labels.ndim == 1:
        sections += sections_of_classes(tested)
        if tested.prediction.reconstruction is not None:
            section, data["poses"] = pose_study(tested)
            sections.append(section)
    sections += [
        records.data(record.data, record.fields["data"]),
        records.environment(record.starts),
        records.commands(record.starts, "train", _more_of(record.workdir)),
        records.settings(record.fields),
    ]
    return page(record.fields["name"], result_line(record), sections, data)


def result_line(record: RunRecord) -> str:
    """State the result of a run in one line."""
    epochs = record.metrics[-1]["epoch"] if record.metrics else 0.0
    if record.summary is None:
        planned = record.fields["train"]["epochs"]
        return f"Not finished: at epoch {epochs:g} of {planned}."
    test = record.summary["test"]
    share, counted = f"{100 * test['accuracy']:.2f} %", f"{test['num_examples']:,} test images"
    if "dice" in test:
        line = f"**Dice {test['dice']:.4f}**, {share} of the pixels of {counted} right"
    else:
        line = f"**{share}** of {counted} right ({wording.plural(test['num_errors'], 'error')})"
    step, selection = record.summary["selected_step"], describe_selection(record.summary)
    planned = record.fields["train"]["epochs"]
    # Fewer where training ended early.
    trained = wording.plural(record.summary.get("epochs", planned), "epoch")
    return f"{line}, after {trained} of training; parameters of step {step:,} ({selection})."


def _run(record: RunRecord, tested: Tested | None, missing: str) -> Section:
    """List the facts of a run, and what is missing on its page."""
    summary, fields = record.summary or {}, record.fields
    document = DOCUMENTS.get(fields["name"])
    reads = summary.get("test_reads")
    listed = facts(
        {
            "Network": fields["model"]["name"],
            "Routing": fields["model"].get("routing", {}).get("name", ""),
            "Parameters": _count(summary.get("num_parameters")),
            "Training images": _count(summary.get("num_training_examples")),
            "Seed": str(fields["seed"]),
            "Training": wording.duration(summary.get("train_seconds")) if summary else "",
            "Machine": records.hardware(record.starts[-1]),
            "Its document": f"{document.accuracy} % ({document.how})" if document else "",
            "Test set": f"read {reads} times for results" if reads and reads > 1 else "",
            "Folder": str(record.workdir),
        }
    )
    notes = [paragraph(text, class_="note") for text in _notes(record, tested)]
    if missing:
        notes.append(paragraph(missing, class_="warning"))
    return Section("run", "The run", join([listed, *notes]))


def _notes(record: RunRecord, tested: Tested | None) -> Iterator[str]:
    if record.summary is not None and "num_classes" in record.summary:
        test, count = record.summary["test"], record.summary["num_classes"]
        if described := describe_imbalance(test, count):
            yield f"Classes have different numbers of images: {described}."
    if tested is None:
        return
    if tested.images.labels.ndim == 2:
        yield "Images with several classes each have no confusion matrix and no single mistake."
        return
    summary, labels = record.summary, tested.images.labels
    if summary is None or tested.predictor.step != summary["selected_step"]:
        yield f"The test images below are those of step {tested.predictor.step:,}."
    elif labels.ndim == 1:
        here = int((tested.prediction.labels != labels).sum())
        there = summary["test"]["num_errors"]
        if here != there:
            yield (
                f"Computed here, the network makes {here:,} errors of {len(labels):,}, and "
                f"{there:,} when it was trained: other data, or another machine's rounding."
            )


def _kept(record: RunRecord) -> Iterator[Section]:
    """Yield what evaluate.py and visualize.py have left in the folder."""
    summary, name = record.summary, record.fields["data"]["name"]
    step = summary["selected_step"] if summary else ""
    evaluation = record.workdir / "evaluation" / f"{name}-test-{step}"
    if (evaluation / "evaluation.json").exists():
        stored = read_json(evaluation / "evaluation.json")
        matrix, names = np.array(stored["confusion_matrix"]), stored.get("class_names", ())
        unit = "pixels" if "dice" in stored else "images"
        yield classes.confusion(matrix, names, unit)
        yield classes.per_class(matrix, names, unit)
    for figure, heading in KEPT.items():
        folder = evaluation if figure == "mistakes" else record.workdir / "figures"
        path = folder / f"{figure}.png"
        if path.exists():
            source = path.relative_to(record.workdir)
            shown = image(address_of(path.read_bytes()), heading, class_="drawn")
            note = element("p", f"As it was drawn before: {source}.", class_="note")
            yield Section(figure, heading, join([shown, note]))


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _more_of(workdir: Path) -> list[str]:
    flag = f"--workdir={workdir}"
    return [shlex.join(["capsjax", name, flag]) for name in ("evaluate", "visualize", "export")]
