"""index.json of a sweep: which start it describes."""

from capsjax.runs.files import read_json
from capsjax.sweeps import folders, levels_of, make_sweep, trials_of
from capsjax.sweeps import run as sweep
from tests.tiny import tiny_config


def test_a_start_that_trains_nothing_leaves_machine_and_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.Sweep, "_train", lambda self, trials, folder=None: trials)
    factors = {"rounds": levels_of("model.routing.dynamic.num_iterations", (1,))}
    config = make_sweep("test", tiny_config(), factors, num_seeds=1)

    def start_on(device):
        described = {"device": device, "command": f"the command on {device}"}
        monkeypatch.setattr(sweep, "describe_start", lambda: dict(described))
        sweep.run_sweep(config, tmp_path)
        index = read_json(tmp_path / "index.json")
        assert index["command"] == f"the command on {index['device']}"
        return index["device"]

    assert [start_on("a GPU"), start_on("another GPU")] == ["a GPU", "another GPU"]
    (trial,) = trials_of(config)
    folders.write_failure(tmp_path, trial, "non_finite", "the loss is nan")
    assert start_on("a laptop") == "another GPU"
    (tmp_path / "index.json").unlink()
    assert start_on("a laptop") == "a laptop"
