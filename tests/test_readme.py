"""What README.md shows works as it stands there."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

import capsjax.routing
from capsjax.config import load_config
from capsjax.notation import LearnedArray, Routed
from capsjax.ops import safe_norm, squash
from capsjax.training.build import build
from tests.tiny import tiny_config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return block


def test_the_mathematics_by_hand():
    names = {}
    exec(block_with("dynamic_routing(predict_votes"), names)
    assert names["v"].shape == (10, 16)
    assert names["c"].shape == (1152, 10)


def test_a_routing_algorithm_in_ten_lines(monkeypatch):
    names = {
        "dataclasses": dataclasses, "jax": jax, "jnp": jnp, "squash": squash,
        "safe_norm": safe_norm, "Routed": Routed, "LearnedArray": LearnedArray,
    }  # fmt: skip
    block = block_with("class WeightedRouting")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    exec(block, names)
    monkeypatch.setitem(capsjax.routing.ROUTING, "weighted", names["WeightedRouting"])
    config = tiny_config()
    with config.unlocked():
        config.model.routing = ConfigDict({"name": "weighted", "temperature": 2.0})
    model = build(config, (8, 8, 1), 10, 128).model
    images = jnp.ones((2, 8, 8, 1))
    params = model.init(jax.random.key(0), images)["params"]
    assert params["class_layer"]["b"].shape == (32, 10)
    gradient = jax.grad(lambda p: model.apply({"params": p}, images).lengths.sum())(params)
    assert float(jnp.abs(gradient["class_layer"]["b"]).max()) > 0


def test_files_that_it_names_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for config in re.findall(r"--config=(configs/[\w/]+\.py)", README):
        assert (ROOT / config).exists(), config


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--config\.([\w.]+)=", README))))
def test_fields_that_it_names_exist(name):
    of_sweep = name.startswith(("base.", "num_seeds"))
    value = load_config(ROOT / "configs" / "sweeps" / "digits.py") if of_sweep else tiny_config()
    for part in name.split("."):
        value = value[part]
