"""What all tests share: strict JAX, no traces of the user's machine, and the scripts importable."""

import os
import sys
import tempfile
from pathlib import Path

# Many tests compile the same tiny programs; this way each is compiled once. Set
# before JAX is imported, for this process and for those that tests start.
_COMPILED = tempfile.TemporaryDirectory(prefix="capsjax-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402
import pytest  # noqa: E402

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
