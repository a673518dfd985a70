"""An exported network, and what is loaded again from its folder."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import capsjax
from capsjax import routing
from capsjax.runs import exported
from capsjax.runs.exported import NETWORK, PROGRAM, WEIGHTS, export, load_exported
from capsjax.runs.files import DamagedFileError, WorkdirError, sealed, write_json
from capsjax.runs.predictor import Predictor
from capsjax.runs.workdir import RESULTS, open_workdir
from capsjax.training.build import build
from tests import own_algorithm
from tests.tiny import ROOT, tiny_config, tiny_convnet_config

IMAGES = np.random.default_rng(0).random((5, 8, 8, 1)).astype(np.float32)


def untrained(config, workdir):
    """The predictor of a run that has begun."""
    open_workdir(workdir, config, {"command": ["train.py"]})
    built = build(config, (8, 8, 1), 10, 1000)
    variables = built.init_state(0).variables
    return Predictor(config, 7, built.model, variables, built.objective)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A predictor, and the folder of its export with weights in float16."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    predictor = untrained(tiny_config(), workdir)
    export(predictor, workdir, workdir / "export", "float16")
    return predictor, workdir / "export"


@pytest.mark.slow
def test_it_predicts_what_the_run_does_up_to_rounding(network):
    predictor, folder = network
    loaded = load_exported(folder)
    assert loaded.step == 7
    assert loaded.config.to_dict()["model"]["name"] == "capsnet"
    assert {x.dtype for x in jax.tree.leaves(loaded.variables)} == {np.dtype("float32")}
    one, other = predictor.predict(IMAGES), loaded.predict(IMAGES)
    np.testing.assert_allclose(one.scores, other.scores, atol=2e-3)
    np.testing.assert_allclose(one.reconstruction, other.reconstruction, atol=2e-3)
    assert not np.array_equal(one.scores, other.scores)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
def test_the_program_predicts_any_number_of_images_without_capsjax(network, count):
    folder = network[1]
    program = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    found = program.call(IMAGES[:count])
    expected = load_exported(folder).forward(IMAGES[:count])
    assert found.keys() == {"scores", "poses", "reconstruction"}
    for name, values in found.items():
        np.testing.assert_allclose(values, getattr(expected, name), atol=1e-5)


def test_the_program_knows_no_path_of_the_machine_that_wrote_it(network):
    assert str(ROOT).encode() not in (network[1] / PROGRAM).read_bytes()


def test_weights_are_by_their_path_in_the_variables(network):
    predictor, folder = network
    weights = load_file(folder / WEIGHTS)
    kernel = weights["params/conv_layer/kernel"]
    assert kernel.dtype == np.float16
    np.testing.assert_allclose(
        kernel, predictor.variables["params"]["conv_layer"]["kernel"], atol=1e-3
    )
    assert len(weights) == len(jax.tree.leaves(predictor.variables))


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, PROGRAM, NETWORK])
def test_a_flipped_bit_is_noticed_and_the_file_named(network, name):
    path = network[1] / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    try:
        with pytest.raises(DamagedFileError, match=name):
            load_exported(network[1])
    finally:
        path.write_bytes(whole)


def test_a_folder_in_use_is_refused(network):
    predictor, folder = network
    with pytest.raises(WorkdirError, match="not empty: give another --output"):
        export(predictor, folder.parent, folder)


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match=r"no network\.json.*capsjax export"):
        load_exported(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("env.json", "{"),
        ("env.json", None),
        ("summary.json", "{"),
    ],
)
def test_a_failed_export_leaves_no_folder_in_the_way(network, tmp_path, name, text):
    predictor, folder = network
    shutil.copytree(folder.parent, tmp_path / "run", ignore=lambda *_: ["export"])
    if text is None:
        (tmp_path / "run" / name).unlink()
    else:
        (tmp_path / "run" / name).write_text(text)
    with pytest.raises(WorkdirError, match=f"{name} is damaged: .* Start the run again"):
        export(predictor, tmp_path / "run", tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(("step", "results"), [(7, {"accuracy": 0.9}), (8, None)])
def test_results_are_those_of_the_exported_parameters(network, tmp_path, step, results):
    predictor, folder = network
    shutil.copytree(folder.parent, tmp_path / "run", ignore=lambda *_: ["export"])
    fields = {**dict.fromkeys(RESULTS, 0), "selected_step": step, "test": {"accuracy": 0.9}}
    write_json(tmp_path / "run" / "summary.json", sealed(fields))
    export(predictor, tmp_path / "run", tmp_path / "export", with_program=False)
    assert json.loads((tmp_path / "export" / NETWORK).read_text())["test"] == results


def test_files_of_one_s_own_go_with_the_network(network, tmp_path, own):
    """The run names an algorithm of such a file, and the program that loads it does not know it."""
    predictor, folder = network
    file, run = own
    shutil.copytree(folder.parent, run, ignore=lambda *_: ["export"], dirs_exist_ok=True)
    export(predictor, run, tmp_path / "export", with_program=False)
    first = routing.ROUTING["fixed"]()
    own_algorithm.forget()
    file.unlink()
    load_exported(tmp_path / "export")
    assert dataclasses.asdict(routing.ROUTING["fixed"]()) == dataclasses.asdict(first)
    (tmp_path / "export" / "own_files.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"own_files\.json"):
        load_exported(tmp_path / "export")


def test_a_program_that_cannot_be_made_leaves_no_folder(network, tmp_path, monkeypatch):
    def fail(_):
        raise ValueError("no program")

    predictor, folder = network
    monkeypatch.setattr(exported, "program_of", fail)
    with pytest.raises(ValueError, match="no program"):
        export(predictor, folder.parent, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    export(predictor, folder.parent, tmp_path / "export", with_program=False)
    assert (tmp_path / "export" / NETWORK).exists()
    assert not (tmp_path / "export" / PROGRAM).exists()


@pytest.mark.ci
def test_statistics_of_batch_norm_are_exported_too(tmp_path):
    predictor = untrained(tiny_convnet_config(), tmp_path / "run")
    export(predictor, tmp_path / "run", tmp_path / "export")
    loaded = load_exported(tmp_path / "export")
    assert "batch_stats" in loaded.variables
    np.testing.assert_array_equal(loaded.predict(IMAGES).scores, predictor.predict(IMAGES).scores)


@pytest.mark.slow
def test_the_pretrained_network_reads_digits():
    predictor = capsjax.load_pretrained("mnist")
    card = json.loads((capsjax.pretrained.FOLDERS["mnist"] / NETWORK).read_text())
    assert card["test"]["num_examples"] == 10_000
    assert predictor.model.image_shape == (28, 28, 1)
    with pytest.raises(ValueError, match="unknown pretrained network 'mnits'; did you mean"):
        capsjax.load_pretrained("mnits")
