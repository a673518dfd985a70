"""The second start of a config does not compile."""

import subprocess
import sys

import jax
import pytest

from capsjax.runs.compilation import keep_compiled_programs
from tests.tiny import ROOT

PROGRAM = """
import jax, jax.numpy as jnp
from capsjax.runs.compilation import keep_compiled_programs
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
keep_compiled_programs()
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(float(jax.jit(lambda x: jnp.sin(x) + 1.0)(0.0)))
print("hits", hits.count("/jax/compilation_cache/cache_hits"))
"""


def start(monkeypatch, cache) -> list[str]:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("CAPSJAX_CACHE_DIR", str(cache))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.ci
def test_the_second_start_reads_what_the_first_compiled(monkeypatch, tmp_path):
    assert start(monkeypatch, tmp_path / "cache") == ["1.0", "hits 0"]
    assert any((tmp_path / "cache" / "compiled").iterdir())
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "taken away again by start")
    value, hits = start(monkeypatch, tmp_path / "cache")
    assert value == "1.0"
    assert hits != "hits 0"


@pytest.mark.ci
def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert start(monkeypatch, tmp_path / "cache")[0] == "1.0"


def test_the_folder_that_the_user_chose_stays():
    chosen = jax.config.jax_compilation_cache_dir
    assert chosen
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == chosen
