"""Single runs as rows of a table, read from the files in their folders."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsjax.analysis.statistics import summarize
from capsjax.reports import wording
from capsjax.reports.documents import DOCUMENTS
from capsjax.reports.tables import table
from capsjax.runs.data_record import read_data
from capsjax.runs.selection import describe_selection
from capsjax.runs.starts import read_starts, typed_words
from capsjax.runs.workdir import flatten, naming_remedy, read_config, read_summary
from capsjax.runs.writers import read_metrics

# Fields that locate files, which does not affect what was run.
PLACES = ("data.dir", "data.file")

HEADER = (
    "run",
    "epochs",
    "seeds",
    "accuracy, %",
    "errors of each seed",
    "document, %",
    "parameters",
    "tested",
    "training of a run",
    "hardware",
)


class Run(NamedTuple):
    """A run, as its folder describes it.

    Attributes:
      fields: its config, flat.
      starts: env.json, one entry for each start.
      summary: its results; None if it is not finished.
      epochs: number of epochs done.
      training: fingerprint of its training data; None if it is not known.
    """

    fields: dict[str, Any]
    starts: list[dict[str, Any]]
    summary: dict[str, Any] | None
    epochs: float
    training: Mapping[str, Any] | None

    @property
    def without_seed(self) -> str:
        """Key that is equal for runs that differ only in their seed."""
        same = {name: value for name, value in self.fields.items() if name != "seed"}
        return repr((sorted(same.items()), self.training))

    @property
    def command(self) -> str:
        """The command, without the seed and without the places of files."""
        hidden = ("--workdir", *(f"--config.{name}" for name in ("seed", *PLACES)))
        words = typed_words(self.starts[0]["command"], "train")
        if words[0] == "python":
            words = [Path(words[1]).name, *words[2:]]
        kept = [word for word in words if word.partition("=")[0] not in hidden]
        return f"`{shlex.join(kept)}`"


def read_run(workdir: Path) -> Run:
    """Read the run in a folder.

    Raises:
      WorkdirError: if there is none, or a file of it is damaged.
    """
    fields = flatten(read_config(workdir).to_dict())
    fields = {name: value for name, value in fields.items() if name not in PLACES}
    records = read_metrics(workdir)
    epochs = records[-1]["epoch"] if records else 0.0
    with naming_remedy():
        training = read_data(workdir).get("training")
        return Run(fields, read_starts(workdir), read_summary(workdir), epochs, training)


def runs_table(runs: Sequence[Run]) -> str:
    """Make a Markdown table in which runs that differ only in their seed share a row."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.without_seed, []).append(run)
    return table(HEADER, [_row(group) for group in groups.values()])


def _row(runs: Sequence[Run]) -> list[str]:
    first, results = runs[0], [run.summary for run in runs if run.summary]
    accuracy = summarize([100 * each["test"]["accuracy"] for each in results])
    seconds = summarize([each["train_seconds"] for each in results])
    document = DOCUMENTS.get(first.fields["name"])
    return [
        first.command,
        _epochs(runs),
        ", ".join(str(run.fields["seed"]) for run in runs),
        wording.mean_and_deviation(accuracy, decimals=2),
        ", ".join(str(each["test"].get("num_errors", "-")) for each in results) or "-",
        f"{document.accuracy:.2f} ({document.how})" if document else "-",
        f"{results[0]['num_parameters']:,}" if results else "-",
        describe_selection(first.fields),
        wording.duration(seconds.mean),
        ", ".join(dict.fromkeys(_hardware(start) for run in runs for start in run.starts)),
    ]


def _epochs(runs: Sequence[Run]) -> str:
    planned = runs[0].fields["train.epochs"]
    missing = [f"{run.epochs:.1f}" for run in runs if run.summary is None]
    return f"{planned} (not finished: at {', '.join(missing)})" if missing else str(planned)


def _hardware(start: dict[str, Any]) -> str:
    if start["backend"] != "cpu":
        return f"{start['device_count']} x {start['device']}"
    return f"{start['processor']}, {wording.plural(start['cpu_count'], 'core')}"
