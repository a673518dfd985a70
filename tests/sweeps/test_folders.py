"""The folder of a sweep: which started populations go on."""

import pytest

from capsjax.runs.files import write_json
from capsjax.sweeps import folders, levels_of, make_sweep, trials_of
from tests.tiny import tiny_config


@pytest.fixture
def seeds():
    """The trials of a sweep, three seeds."""
    factors = {"rounds": levels_of("model.routing.dynamic.num_iterations", (1,))}
    return trials_of(make_sweep("test", tiny_config(), factors, num_seeds=3))


def begin(workdir, members):
    (folders.new_population(workdir, members, {}) / "checkpoints").mkdir()


def finish(workdir, trial):
    results = {"selection": "last", "selected_step": 1, "test": {}, "train_seconds": 1.0}
    folder = folders.trial_folder(workdir, trial)
    folder.mkdir(parents=True)
    write_json(folder / "summary.json", results)


def unfinished(workdir, trials):
    """Numbers of the populations that go on, and the seeds of their members."""
    return {
        path[-3:]: [name[-1] for name in names]
        for path, names in folders.unfinished_populations(workdir, trials)
    }


def test_populations_go_on_in_the_order_of_their_start(tmp_path, seeds):
    begin(tmp_path, seeds[:2])
    begin(tmp_path, seeds[2:])
    assert list(unfinished(tmp_path, seeds).items()) == [("000", ["0", "1"]), ("001", ["2"])]
    assert unfinished(tmp_path, seeds[:1]) == {}, "members that the sweep has not"


def test_no_seed_is_trained_twice_after_there_were_fewer(tmp_path, seeds):
    begin(tmp_path, seeds[:2])
    # With one seed less: the other is in a population of its own.
    begin(tmp_path, seeds[:1])
    assert unfinished(tmp_path, seeds) == {"001": ["0"]}
    finish(tmp_path, seeds[0])
    assert unfinished(tmp_path, seeds) == {}


def test_a_population_that_was_stopped_while_it_wrote_results_goes_on(tmp_path, seeds):
    begin(tmp_path, seeds[:2])
    finish(tmp_path, seeds[0])
    assert unfinished(tmp_path, seeds) == {"000": ["0", "1"]}
