"""What a sweep says while it runs."""

import pytest

from capsjax.sweeps.progress import SweepProgress


@pytest.fixture
def progress():
    steps = dict.fromkeys(("a", "b", "c"), 200)
    made = SweepProgress(num_trials=6, steps=steps, errors={"finished before": 0.02})
    yield made
    made.close()


def test_a_line_has_trials_epoch_scores_and_eta(progress, capsys):
    progress.skip("a", 100)  # of an earlier start: they took no time of this one
    progress.take(["a", "b"], 50, seconds=50.0)
    progress.result("rounds=1,seed=0", 0.03)
    progress.result("rounds=3,seed=0", 0.01)
    progress.show_trials("population 000 of 2, epoch 1.00/2", 1, force=True)
    assert capsys.readouterr().out == (
        "1 of 6 trials done; population 000 of 2, epoch 1.00/2; validation error: best 1.00 % "
        "(rounds=3,seed=0), median 2.00 %; ETA 3:20\n"
    )


def test_the_latest_result_of_a_trial_counts(progress, capsys):
    progress.result("a", 0.5)
    progress.result("a", 0.04)
    progress.show_trials("where", 0, force=True)
    assert "best 2.00 % (finished before), median 3.00 %" in capsys.readouterr().out


def test_lines_are_rare_unless_something_happened(progress, capsys):
    for _ in range(5):
        progress.show_trials("where", 0)
    progress.show_trials("an epoch ended", 0, force=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "an epoch ended" in lines[1]


def test_more_steps_than_expected_leave_no_time(progress, capsys):
    progress.take(["a", "b", "c"], 201, seconds=60.0)
    progress.show_trials("where", 0, force=True)
    assert "ETA 0:00\n" in capsys.readouterr().out


def test_a_member_that_ended_in_an_earlier_start_is_not_counted(progress):
    progress.end("not finite before")
    progress.skip("finished before", 150)
    assert progress.left() == 600
    progress.take(["a", "finished before"], 50, seconds=10.0)
    assert progress.left() == 550
    assert progress.eta() == pytest.approx(55.0)


def test_what_is_left_of_a_trial_is_counted_once_when_it_ends(progress):
    progress.take(["a", "b"], 50, seconds=10.0)
    for _ in range(2):
        progress.end("a")
    assert progress.left() == 150 + 200
    assert progress.eta() == pytest.approx(35.0)


def test_without_any_result_there_is_no_score(capsys):
    progress = SweepProgress(2, {"a": 10}, {})
    progress.show_trials("where", 0, force=True)
    assert "validation" not in capsys.readouterr().out
