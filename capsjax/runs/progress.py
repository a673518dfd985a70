"""Progress of long work: a bar on a terminal, lines elsewhere, and the remaining time."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping

from tqdm import tqdm

SECONDS_OF_A_TICK = 1.0


class Progress:
    """A counter of finished work, with a bar where there is a terminal.

    The clock starts with the object: make it when compilation is over.

    Args:
      total: amount of work in all.
      done: amount that was done before.
      unit: name of what is counted.
      stream: where lines go, standard output by default; the bar goes to standard error.
    """

    def __init__(self, total: int, done: int = 0, unit: str = "step", stream=None):
        self._total, self._done, self._first = total, done, done
        self._start, self._stream = time.perf_counter(), stream
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            disable=None,  # off where there is no terminal
            dynamic_ncols=True,
            smoothing=0.05,
        )

    @property
    def has_bar(self) -> bool:
        """Whether there is a terminal, and a bar on it."""
        return not self._bar.disable

    def advance(self, count: int) -> None:
        """Count `count` more as done."""
        self._done += count
        self._bar.update(count)

    def elapsed(self) -> float:
        """Return the seconds since the start of the clock."""
        return time.perf_counter() - self._start

    def eta(self) -> float:
        """Return the seconds to the end, at the mean rate so far."""
        return self.elapsed() * self.left() / max(self._done - self._first, 1)

    def left(self) -> int:
        """Return the amount of work that is left; none if more was done than expected."""
        return max(self._total - self._done, 0)

    def show(self, left: str | None = None, right: str | None = None) -> None:
        """Write beside the bar, if there is one."""
        if self.has_bar and left is not None:
            self._bar.set_description_str(left)
        if self.has_bar and right is not None:
            self._bar.set_postfix_str(right)

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.has_bar:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=self._stream or sys.stdout, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


class RunProgress(Progress):
    """Progress of one run: steps, images per second and the latest metrics.

    Args:
      total: steps of the whole run.
      done: steps done before this start.
      batch_size: images of a step.
    """

    def __init__(self, total: int, done: int, batch_size: int):
        super().__init__(total, done)
        self._batch_size = batch_size

    def update(self, done: int) -> None:
        """Set how many steps are done."""
        self.advance(done - self._done)
        self.show(right=f"{self.images_per_second():.0f} images/s")

    def images_per_second(self) -> float:
        """Return the rate since this start, evaluation and checkpoints included."""
        return (self._done - self._first) * self._batch_size / max(self.elapsed(), 1e-9)

    def report(self, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        """Show metrics of a part of the data: above the bar, or as a line of their own."""
        numbers = " ".join(
            f"{name} {metrics[name]:.4f}"
            for name in ("loss", "margin", "reconstruction", "accuracy", "dice")
            if name in metrics
        )
        line = f"epoch {epoch:.2f} step {self._done}/{self._total} {split}: {numbers}"
        if not self.has_bar:
            rate = f"{self.images_per_second():.0f} images/s, ETA {format_seconds(self.eta())}"
            self.say(f"{line} | {rate}")
        elif split != "train":
            self.say(line)
        else:
            self.show(left=f"loss {metrics['loss']:.4f}")


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show what is waited for: on a terminal with the seconds so far, elsewhere as a line.

    Args:
      what: what goes on in the block, such as "compiling".
    """
    clock = tqdm(desc=what, bar_format="{desc} ... {elapsed}", disable=None, leave=False)
    if clock.disable:
        print(f"{what} ...", flush=True)
        yield
        return
    ended = threading.Event()

    def tick():
        while not ended.wait(SECONDS_OF_A_TICK):
            clock.refresh()

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield
    finally:
        ended.set()
        ticking.join()
        clock.close()


def format_seconds(seconds: float) -> str:
    """Format seconds for people.

    >>> format_seconds(3725.0), format_seconds(65.0)
    ('1:02:05', '1:05')
    """
    return tqdm.format_interval(seconds).removeprefix("0")
