"""What all tests share: strict JAX, no traces of the user's machine, and the scripts importable."""

import os
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Broadcasting of arrays of different rank is where a missing axis goes unnoticed.
jax.config.update("jax_numpy_rank_promotion", "raise")
for folder in (ROOT, ROOT / "experiments"):
    sys.path.insert(0, str(folder))


@pytest.fixture(autouse=True)
def private_directories(monkeypatch, tmp_path):
    """No test reads or writes the user's data sets and caches."""
    monkeypatch.setenv("CAPSJAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
