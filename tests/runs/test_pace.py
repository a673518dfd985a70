"""When a run is saved: by steps, by the clock, and at ends of epochs as often as is affordable."""

import itertools
import types
from pathlib import Path

import pytest

from capsjax.runs import loop, pace
from capsjax.runs.interrupt import Interrupt
from capsjax.runs.pace import Due, SaveClock
from tests.tiny import tiny_config


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when a test says so."""
    clock = types.SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now

    def sleep(seconds):
        clock.now += seconds

    clock.sleep = sleep
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_steps_and_minutes_are_due_at_any_cost(clock):
    config = tiny_config(checkpoint__every_steps=7, checkpoint__every_minutes=2.0)
    saves = SaveClock()
    saves.run(lambda: clock.sleep(1000))
    assert [saves.due(config, step) for step in (6, 7, 8, 14)] == [Due.NO, Due.NOW] * 2
    clock.sleep(119)
    assert saves.due(config, 15) == Due.NO
    clock.sleep(1)
    assert saves.due(config, 15) == Due.NOW
    saves.run(lambda: clock.sleep(1))
    assert saves.due(config, 15) == Due.NO


def test_steps_and_minutes_can_be_switched_off(clock):
    config = tiny_config(checkpoint__every_steps=0, checkpoint__every_minutes=0.0)
    saves = SaveClock()
    assert saves.due(config, 7) == Due.AT_END_OF_EPOCH, "the first one waits for nothing"
    clock.sleep(1e6)
    assert saves.due(config, 7) == Due.AT_END_OF_EPOCH


def test_an_end_of_epoch_waits_until_it_and_one_more_save_are_affordable(clock):
    config = tiny_config(checkpoint__every_minutes=0.0)
    saves = SaveClock()
    saves.run(lambda: clock.sleep(2))
    # 2 s are spent, and two more saves of 2 s each: 1 % of 600 s.
    clock.sleep(597)
    assert saves.due(config, 1) == Due.NO
    clock.sleep(1)
    assert saves.due(config, 1) == Due.AT_END_OF_EPOCH
    saves.run(lambda: clock.sleep(1))  # the longest so far is what counts
    clock.sleep(98)
    assert saves.due(config, 1) == Due.NO
    clock.sleep(1)
    assert saves.due(config, 1) == Due.AT_END_OF_EPOCH


class Trainee:
    """Something to train whose epochs and saves take given seconds of a clock."""

    step, steps_per_epoch, is_alive, seconds_per_call = 0, 4, True, 3.0

    def __init__(self, clock, epochs, epoch_seconds, save_seconds):
        self.clock, self.total_steps = clock, 4 * epochs
        self.epoch_seconds, self.save_seconds = epoch_seconds, save_seconds
        self.saved = []

    def take_steps(self, count):
        self.clock.sleep(count * self.epoch_seconds / 4)
        self.step += count
        return count * self.epoch_seconds / 4

    def end_epoch(self):
        return True

    def save(self):
        self.clock.sleep(self.save_seconds)
        self.saved.append((self.step, self.clock.now))

    def write_training_metrics(self):
        pass

    def show_progress(self, ends_epoch):
        pass

    def say(self, line):
        pass


@pytest.mark.parametrize(
    ("epoch_seconds", "save_seconds", "share"), [(0.7, 0.6, 0.01), (0.1, 0.6, 0.021), (60, 2, 0.01)]
)
def test_saves_of_400_epochs_take_little_of_the_time(clock, epoch_seconds, save_seconds, share):
    trainee = Trainee(clock, 400, epoch_seconds, save_seconds)
    started = clock.now
    loop.train(trainee, tiny_config(log__every_steps=1000), Path(), Interrupt())
    steps, times = zip(*trainee.saved, strict=True)
    assert steps[0] == 4
    assert steps[-1] == 1600
    assert len(steps) * save_seconds <= share * (clock.now - started) + save_seconds
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # In words in the config: a kill costs at most these minutes, and less where saves are quick.
    assert max(gaps) <= min(300, 300 * save_seconds) + epoch_seconds + save_seconds
