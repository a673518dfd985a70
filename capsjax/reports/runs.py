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
from capsjax.runs.own_files import recorded_codes
from capsjax.runs.selection import describe_selection
from capsjax.runs.starts import read_starts, typed_words
from capsjax.runs.workdir import flatten, naming_remedy, read_config, read_summary
from capsjax.runs.writers import read_metrics

# Fields that locate files, which does not affect what was run.
PLACES = ("data.dir", "data.file")
# Flags that are not shown; those of a sweep are of its base config.
HIDDEN = (
    "--workdir",
    *(f"--config.{base}{name}" for base in ("", "base.") for name in ("seed", *PLACES)),
)

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
      workdir: its folder.
      fields: its config, flat.
      starts: env.json, one entry for each start.
      summary: its results; None if it is not finished.
      epochs: number of epochs done.
      training: fingerprint of its training data; None if it is not known.
      codes: what files of the user's registered for it, see `recorded_codes`.
    """

    workdir: Path
    fields: dict[str, Any]
    starts: list[dict[str, Any]]
    summary: dict[str, Any] | None
    epochs: float
    training: Mapping[str, Any] | None
    codes: list[tuple[str, str, str | None]]

    @property
    def levels(self) -> str:
        """Levels of a trial of a sweep, which its name has before the seed; empty for a run."""
        name, seed = self.fields["name"], f",seed={self.fields['seed']}"
        return name.removesuffix(seed) if name.endswith(seed) else ""

    @property
    def without_seed(self) -> str:
        """Key that is equal for runs that differ only in their seed."""
        same = {name: value for name, value in self.fields.items() if name != "seed"}
        same["name"] = self.levels or same["name"]
        return repr((sorted(same.items()), self.training, self.codes))

    @property
    def command(self) -> str:
        """The last command, without the seed and the places of files; for a trial its levels."""
        words = typed_words(self.starts[-1]["command"], "sweep" if self.levels else "train")
        if words[0] == "python":
            words = [Path(words[1]).name, *words[2:]]
        kept, is_value = [], False
        for word in words:
            flag, equals, _ = word.partition("=")
            is_hidden = is_value or flag in HIDDEN
            # The value of a flag may be the next word.
            is_value = not is_value and is_hidden and not equals
            if not is_hidden:
                kept.append(word)
        command = f"`{shlex.join(kept)}`"
        return f"`{self.levels}` of {command}" if self.levels else command


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
        codes = recorded_codes(workdir)
        summary = read_summary(workdir)
        return Run(workdir, fields, read_starts(workdir), summary, epochs, training, codes)


def runs_table(runs: Sequence[Run]) -> str:
    """Make a Markdown table in which runs that differ only in their seed share a row.

    A run that is given twice counts once, and one that was made again with the same seed has a row
    of its own. Rows of the same command name the folders.
    """
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in {run.workdir.resolve(): run for run in runs}.values():
        alike = [group for (key, _), group in groups.items() if key == run.without_seed]
        seed = run.fields["seed"]
        again = sum(any(each.fields["seed"] == seed for each in group) for group in alike)
        groups.setdefault((run.without_seed, again), []).append(run)
    rows = [_row(group) for group in groups.values()]
    commands = [row[0] for row in rows]
    for row, group in zip(rows, groups.values(), strict=True):
        if commands.count(row[0]) > 1:
            row[0] += f" in {', '.join(f'`{run.workdir}`' for run in group)}"
    return table(HEADER, rows)


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
        ", ".join(_num_errors(run) for run in runs),
        f"{document.accuracy:.2f} ({document.how})" if document else "-",
        f"{results[0]['num_parameters']:,}" if results else "-",
        describe_selection(first.fields),
        wording.duration(seconds.mean),
        ", ".join(dict.fromkeys(_hardware(start) for run in runs for start in run.starts)),
    ]


def _epochs(runs: Sequence[Run]) -> str:
    planned = runs[0].fields["train.epochs"]
    ended = [run.summary.get("epochs", planned) for run in runs if run.summary]
    parts = {
        "ended early": [str(epochs) for epochs in ended if epochs < planned],
        "not finished": [f"{run.epochs:.1f}" for run in runs if run.summary is None],
    }
    notes = [f"{how}: at {', '.join(epochs)}" for how, epochs in parts.items() if epochs]
    return f"{planned} ({'; '.join(notes)})" if notes else str(planned)


def _num_errors(run: Run) -> str:
    return str(run.summary["test"].get("num_errors", "-")) if run.summary else "-"


def _hardware(start: dict[str, Any]) -> str:
    if start["backend"] != "cpu":
        return f"{start['device_count']} x {start['device']}"
    return f"{start['processor']}, {wording.plural(start['cpu_count'], 'core')}"
