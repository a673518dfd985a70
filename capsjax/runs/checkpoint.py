"""Checkpoints through Orbax: each put in place in one step, the last few and the best kept.

Where several processes run together, all call the same methods, and Orbax divides the work.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from capsjax.registry import look_up
from capsjax.runs.processes import barrier, check_same, is_lost_process, is_primary


class CheckpointError(ValueError):
    """A missing or unreadable checkpoint; the message names the remedy."""


class Restored(NamedTuple):
    """A checkpoint that was read.

    Attributes:
      step: number of steps done when it was saved.
      state: the state as it was saved.
      notes: the small values that were saved with it.
    """

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Saving returns when the checkpoint is on disk under its final name. What is left of a save
    that was killed has another name, and is not taken for a checkpoint.

    Args:
      directory: folder of the checkpoints; made at the first save.
      keep: number of the last ones to keep; the one of lowest validation loss is kept too.
      read_only: for programs that only read.
      sharding: placement of restored arrays, whatever devices they were saved from; the default
        device if None.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 1,
        read_only: bool = False,
        sharding: jax.sharding.Sharding | None = None,
    ):
        _quieten_orbax()
        if keep < 1:
            raise ValueError(f"checkpoint.keep is at least 1, not {keep}")
        self._directory = Path(os.path.abspath(directory))
        self._sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        self._options = ocp.CheckpointManagerOptions(
            # A training run waits for each save, which takes less than a step of the full network,
            # so that the state may then be donated to the next step.
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            best_fn=_validation_loss,  # without it Orbax does not store the metrics
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(n=keep),
                    checkpoint_managers.BestN(
                        get_metric_fn=_validation_loss,
                        reverse=True,  # the lowest is the best
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )
        if read_only or is_primary():
            self._check_metrics()
        barrier("metrics checked")
        self._manager = self._open()

    def _check_metrics(self) -> None:
        """Check all metrics, because Orbax opens no directory that has a damaged one."""
        for path in self._directory.glob("[0-9]*/metrics/metrics"):
            try:
                json.loads(path.read_bytes())
            except ValueError as error:
                step = int(path.parts[-3])
                problem = CheckpointError(self._damage(step, error))
                if self._options.read_only:
                    raise problem from error
                self._move({step: problem}, "going on without it")

    def _open(self) -> ocp.CheckpointManager:
        handlers = {"state": ocp.StandardCheckpointHandler(), "notes": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(
            self._directory,
            item_names=tuple(handlers),
            item_handlers=handlers,
            options=self._options,
        )

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, in ascending order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Return the step of the checkpoint of lowest validation loss, None if none has one."""
        losses = self.validation_losses()
        return min(losses, key=losses.__getitem__) if losses else None

    def validation_losses(self) -> dict[int, float]:
        """Return the validation loss of each checkpoint that has one, by step."""
        metrics = {step: self._manager.metrics(step) for step in self.steps()}
        return {step: _validation_loss(each) for step, each in metrics.items() if each}

    def save(
        self, step: int, state: Any, notes: Mapping[str, Any], validation_loss: float | None = None
    ) -> None:
        """Save a checkpoint, unless the step already has one.

        Args:
          step: number of steps done.
          state: any pytree of arrays.
          notes: small values that JSON can represent.
          validation_loss: the loss by which the best is chosen; None within an epoch.

        Raises:
          CheckpointError: if it cannot be written; the earlier checkpoints are unharmed.
        """
        if self._options.read_only:
            raise CheckpointError(f"{self._directory} was opened for reading only")
        if step in self._manager.all_steps():
            return
        if validation_loss is not None and not math.isfinite(validation_loss):
            validation_loss = None  # NaN is neither larger nor smaller: it would stay the best
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_filled(state)),
                    notes=ocp.args.JsonSave(dict(notes)),
                ),
                metrics=None if validation_loss is None else {"validation_loss": validation_loss},
                force=True,
            )
            self._manager.wait_until_finished()
        except Exception as error:  # tensorstore raises ValueError for a full disk
            raise CheckpointError(
                f"could not save step {step} in {self._directory} ({_short(error)}). Make room or "
                "check the permissions, then start the same command again: it goes on from the "
                "last whole checkpoint"
            ) from error

    def restore(self, like: Any, which: str = "last") -> Restored:
        """Read a checkpoint.

        Args:
          like: a state of the same shapes, whose values do not matter (`jax.eval_shape` returns
            one); the result has its types.
          which: "last", "best", or a step.

        Raises:
          CheckpointError: if there is none, it is damaged, or it belongs to another network.
        """
        return self._restore_step(self._find(which), like)

    def notes(self, which: str = "last") -> dict[str, Any]:
        """Read the small values of a checkpoint, chosen as in `restore`, without its state."""
        step = self._find(which)
        try:
            arguments = ocp.args.Composite(notes=ocp.args.JsonRestore())
            return dict(self._manager.restore(step, args=arguments)["notes"])
        except Exception as error:  # as in _restore_step
            raise CheckpointError(self._damage(step, error)) from error

    def restore_last_whole(self, like: Any) -> Restored | None:
        """Read the last readable checkpoint; return None if the run has none at all.

        Damaged ones after it are reported and moved to another directory beside this one.

        Raises:
          CheckpointError: if there are checkpoints, but none can be read, or not the same one by
            all processes.
        """
        damaged = {}
        for step in reversed(self.steps()):
            try:
                restored = self._restore_step(step, like)
            except CheckpointError as error:
                damaged[step] = error
                continue
            check_same(f"the last checkpoint in {self._directory} that can be read", step)
            if damaged and not self._options.read_only:
                self._set_aside(damaged, f"going on from step {step}")
            return restored
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self._directory} can be read: {damaged[max(damaged)]}. Start "
                "anew in another --workdir"
            )
        return None

    def _restore_step(self, step: int, like: Any) -> Restored:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding), like
        )
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_filled(like)), notes=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # whatever a damaged file makes tensorstore or JSON raise
            if is_lost_process(error):
                raise
            raise CheckpointError(self._damage(step, error)) from error
        return Restored(step, _refilled(like, restored["state"]), dict(restored["notes"]))

    def _find(self, which: str) -> int:
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"no checkpoint in {self._directory}: train first")
        if which.isdigit():
            return look_up({str(step): step for step in steps}, which, "checkpoint")
        named = {"last": lambda: steps[-1], "best": self.best_step}
        step = look_up(named, which, "checkpoint (not a step either)")()
        if step is None:
            raise CheckpointError(
                f"no checkpoint in {self._directory} has a validation loss to be best by; "
                f"use 'last' or one of {', '.join(map(str, steps))}"
            )
        return step

    def _damage(self, step: int, error: Exception) -> str:
        return (
            f"the checkpoint of step {step} in {self._directory} is damaged or belongs to another "
            f"network ({_short(error)})"
        )

    def _set_aside(self, damaged: Mapping[int, CheckpointError], outcome: str) -> None:
        if is_primary():
            self._move(damaged, outcome)
        barrier("set aside")
        self._manager = self._open()

    def _move(self, damaged: Mapping[int, CheckpointError], outcome: str) -> None:
        aside = self._directory.with_name(self._directory.name + "_damaged")
        aside.mkdir(exist_ok=True)
        for step, error in damaged.items():
            target = aside / str(step)
            while target.exists():
                target = target.with_name(target.name + "_")
            os.replace(self._directory / str(step), target)
            logging.getLogger("absl").warning("%s; moved to %s; %s", error, target, outcome)


def _filled(tree: Any) -> Any:
    """Return the tree with named tuples as dicts, as Orbax stores them, without empty fields.

    So a checkpoint that was written before a field was added can be read by programs that do not
    use that field. (Orbax treats an empty dict in only one of two trees as a difference.)
    """
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if not isinstance(tree, Mapping):
        return tree
    return {name: _filled(each) for name, each in tree.items() if jax.tree.leaves(each)}


def _refilled(like: Any, filled: Any) -> Any:
    """Undo `_filled` for a tree like the first."""
    if hasattr(like, "_asdict"):
        return type(like)(**_refilled(like._asdict(), filled))
    if not isinstance(like, Mapping):
        return filled
    return {
        name: _refilled(each, filled[name]) if name in filled else each
        for name, each in like.items()
    }


def _validation_loss(metrics: Mapping[str, float]) -> float:
    return metrics["validation_loss"]


def _quieten_orbax() -> None:
    """Silence Orbax, which reports each of its actions and each checkpoint without metrics."""
    logger = logging.getLogger("absl")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "Requested `tracked_metric`" not in message and "read only" not in message.replace(
        "_", " "
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
