"""Which parameters of a run count: those of the last step, or the best on the validation part."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from capsjax.registry import look_up
from capsjax.tasks import TASKS

# The note of a checkpoint with the tested parameters of a step and the optimizer of another one.
TESTED_ALONE = "tested_alone"


def check_selection(config: ConfigDict) -> None:
    """Raise ValueError for a selection that cannot be made; the message names the remedy."""
    look_up(dict.fromkeys(("last", "best")), config.selection, "selection")
    task = look_up(TASKS, config.task.name, "task (task.name)")
    metrics = ("loss", "accuracy", *getattr(task, "MEASURES", ()))
    kind = f"selection_metric for {config.task.name}"
    look_up(dict.fromkeys(metrics), config.selection_metric, kind)
    if config.selection == "best" and config.data.validation_size == 0:
        raise ValueError(
            "selection 'best' needs validation data: data.validation_size above 0, or "
            "--config.selection=last for the last parameters"
        )


def describe_selection(fields: Mapping[str, Any] | ConfigDict) -> str:
    """Name the parameters that count, given a config or the summary of a run.

    >>> describe_selection({"selection": "best", "selection_metric": "accuracy"})
    'best accuracy'
    >>> describe_selection({"selection": "best", "selection_metric": "loss"})
    'best'
    """
    # Summaries of earlier versions have no metric: there was the loss alone.
    metric = fields.get("selection_metric", "loss")
    if fields["selection"] != "best" or metric == "loss":
        return fields["selection"]
    return f"best {metric}"
