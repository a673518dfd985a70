"""How far a run is: a bar on a terminal, lines elsewhere, an ETA without compile time."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
    """Shows steps, ETA, images per second and the latest metrics.

    The clock starts with the object: make it when compilation is over.

    Args:
      total: steps of the whole run.
      done: steps done before this start.
      batch_size: images of a step.
    """

    def __init__(self, total: int, done: int, batch_size: int):
        self._total, self._done, self._first, self._batch_size = total, done, done, batch_size
        self._start = time.perf_counter()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="step",
            disable=None,  # off where there is no terminal
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def update(self, done: int) -> None:
        """Say how many steps are done."""
        self._bar.update(done - self._done)
        self._done = done
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{self.images_per_second():.0f} images/s")

    def images_per_second(self) -> float:
        """Since this start, evaluation and checkpoints included."""
        elapsed = time.perf_counter() - self._start
        return (self._done - self._first) * self._batch_size / max(elapsed, 1e-9)

    def eta(self) -> float:
        """Seconds to the end, at the mean rate so far."""
        elapsed = time.perf_counter() - self._start
        return elapsed * (self._total - self._done) / max(self._done - self._first, 1)

    def report(self, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        """Show metrics of a part of the data: above the bar, or as a line of their own."""
        numbers = " ".join(
            f"{name} {metrics[name]:.4f}"
            for name in ("loss", "margin", "reconstruction", "accuracy")
            if name in metrics
        )
        line = f"epoch {epoch:.2f} step {self._done}/{self._total} {split}: {numbers}"
        if self._bar.disable:
            rate = f"{self.images_per_second():.0f} images/s, ETA {format_seconds(self.eta())}"
            self.say(f"{line} | {rate}")
        elif split != "train":
            self.say(line)
        else:
            self._bar.set_description_str(f"loss {metrics['loss']:.4f}")

    def say(self, line: str) -> None:
        """Show a line: above the bar, if there is one."""
        say(self._bar, line)

    def close(self) -> None:
        self._bar.close()


def say(bar: tqdm, line: str) -> None:
    """Show a line above a bar, or alone where there is no terminal."""
    if bar.disable:
        print(line, flush=True)
    else:
        bar.write(line, file=sys.stderr)


def format_seconds(seconds: float) -> str:
    """Seconds for people.

    >>> format_seconds(3725.0), format_seconds(65.0)
    ('1:02:05', '1:05')
    """
    return tqdm.format_interval(seconds).removeprefix("0")
