"""What all tests share: strict JAX, no traces of the user's machine, and the scripts importable."""

import gc
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# Most of the time of the suite is compilation of tiny programs. Each is compiled once and, but for
# the runs of experiments/train.py in processes of their own, with as little work as XLA allows.
# Set before JAX is imported; pytest-xdist's workers inherit both from the first process.
if "CAPSJAX_TESTS_COMPILED" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="capsjax-tests-")
    os.environ["CAPSJAX_TESTS_COMPILED"] = _COMPILED.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["CAPSJAX_TESTS_COMPILED"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # Compiles three times as fast. Versions that do not have a flag end where they meet it.
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith(("0.9.", "0.10.")),
)
# Where in the source an operation comes from is looked up for each one, and read by no test.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# The numbers of the suite are those of a CPU, wherever it runs. JAX_PLATFORMS=cuda asks for a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

if os.environ["JAX_PLATFORMS"] != "cpu":
    # There float32 products have rounded operands by default, and no test's tolerance is for that.
    jax.config.update("jax_default_matmul_precision", "highest")

# Tracing makes many objects that live on; looking through all of them so often takes one second in
# fifteen.
gc.set_threshold(50_000, 50, 50)
# Broadcasting of arrays of different rank is where a missing axis goes unnoticed.
jax.config.update("jax_numpy_rank_promotion", "raise")
sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True, scope="session")
def the_same_number_type_on_all_machines():
    """The default number type is the machine's fastest; tests compare numbers of float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capsjax.kernels.compute.fastest_dtype", lambda: "float32")
        yield


@pytest.fixture(autouse=True)
def private_directories(monkeypatch, tmp_path):
    """No test reads or writes the user's data sets and caches."""
    monkeypatch.setenv("CAPSJAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
