"""Compilation of training programs: options for NVIDIA's GPUs, where XLA knows them."""

import jax
import jax.numpy as jnp
import pytest

from capsjax.kernels import triton
from capsjax.training import compilation


class Jitted:
    """Takes the place of a jitted function, and notes what it is compiled with."""

    def __init__(self, error=None):
        self.error, self.options = error, []

    def lower(self, *arguments):
        return self

    def compile(self, compiler_options=None):
        self.options.append(compiler_options)
        if compiler_options and self.error:
            raise self.error
        return jax.jit(lambda x: x).lower(1.0).compile()


@pytest.mark.parametrize(("available", "options"), [(True, compilation.OF_CUDA), (False, None)])
def test_options_are_for_gpus_that_they_were_measured_on(monkeypatch, available, options):
    monkeypatch.setattr(triton, "available", lambda: available)
    jitted = Jitted()
    compilation.compile_steps(jitted, 1)
    assert jitted.options == [options]


def test_a_version_of_xla_without_an_option_compiles_without_all(monkeypatch):
    monkeypatch.setattr(triton, "available", lambda: True)
    monkeypatch.setattr(compilation, "OF_CUDA", {"xla_gpu_no_such_option": True})
    doubled = compilation.compile_steps(jax.jit(lambda x: 2 * x), jnp.ones(3))
    assert doubled(jnp.ones(3)).tolist() == [2, 2, 2]


def test_another_error_of_the_compiler_is_an_error(monkeypatch):
    monkeypatch.setattr(triton, "available", lambda: True)
    jitted = Jitted(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compilation.compile_steps(jitted, 1)
    assert len(jitted.options) == 1
