"""Settings and results of a sweep's trials on TensorBoard's page HParams, a run for each trial."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from capsjax.runs.files import naming
from capsjax.runs.writers import BOARD
from capsjax.sweeps import Trial
from capsjax.sweeps.folders import Status, read_status, trial_folder

# Results on the page, and where they are in a summary: of the parameters that count.
NAMES = {
    f"result/{part}_{metric}": (part, metric)
    for part in ("validation", "test")
    for metric in ("error", "loss")
}
# End of the name of a trial's file, of which there is one at most.
SUFFIX = ".hparams"


def write_trials(workdir: Path, config: ConfigDict, trials: Sequence[Trial]) -> None:
    """Write settings and results of trials for TensorBoard, in place of what was written before.

    Args:
      workdir: folder of the sweep.
      config: config of the sweep.
      trials: some of its trials; nothing is written for those that have not begun, or are without
        `log.tensorboard`.
    """
    numeric = {
        factor for factor, levels in config.factors if all(_is_number(name) for name, _ in levels)
    }
    for trial in trials:
        folder = trial_folder(workdir, trial)
        if trial.config.log.tensorboard and (folder / "config.json").exists():
            settings = {
                name: float(level) if name in numeric else level
                for name, level in trial.levels.items()
            }
            settings["seed"] = trial.config.seed
            _write(folder / BOARD, settings, read_status(workdir, trial))


def _write(folder: Path, settings: Mapping[str, Any], status: Status) -> None:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.summary import hparams

    results = _results(status)
    # The page has a column for each result that the experiment names, before there are any.
    experiment, start, _ = hparams(dict(settings), dict.fromkeys(NAMES, 0.0))
    numbers = [Summary.Value(tag=name, simple_value=value) for name, value in results.items()]
    parts = [experiment, start, Summary(value=[*numbers, *_end(status)])]
    step = status.summary["steps"] if results else 0
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"*{SUFFIX}"):
            old.unlink()
        writer = EventsWriter(str(folder / "events"), SUFFIX)
        for part in parts:
            writer.write_event(Event(step=step, summary=part))
        writer.close()


def _end(status: Status) -> list:
    """Return the value for how a trial ended; none while it has not."""
    from tensorboardX.proto import api_pb2
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

    if status.name == "waiting":
        return []
    how = "STATUS_SUCCESS" if status.name == "finished" else "STATUS_FAILURE"
    end = HParamsPluginData(session_end_info=SessionEndInfo(status=api_pb2.Status.Value(how)))
    data = SummaryMetadata.PluginData(plugin_name="hparams", content=end.SerializeToString())
    tag = "_hparams_/session_end_info"
    return [Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))]


def _is_number(level: str) -> bool:
    try:
        return math.isfinite(float(level))
    except ValueError:
        return False


def _results(status: Status) -> Mapping[str, float]:
    """Return the results of a finished trial, by the names on the page; else none."""
    parts = {} if status.summary is None else status.summary
    return {
        name: float(parts[part][metric])
        for name, (part, metric) in NAMES.items()
        if parts.get(part)
    }
