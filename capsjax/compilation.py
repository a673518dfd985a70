"""Compiled programs, kept on disk so that the second start of a config need not compile."""

import jax

from capsjax.data.cache import cache_dir


def keep_compiled_programs() -> None:
    """Keep every program that takes a second to compile in "compiled" under `cache_dir`.

    The key of a program holds everything that it depends on: its text, the versions, the device.
    A folder that $JAX_COMPILATION_CACHE_DIR names is used in its place. One that cannot be
    written costs the next start its compilation, no more.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
