"""Compiled programs, kept on disk so that the second start of a config need not compile."""

import jax

from capsjax.data.cache import cache_dir


def keep_compiled_programs() -> None:
    """Keep every program that takes a second to compile in "compiled" under `cache_dir`.

    The key of a program covers everything that it depends on: its text, the versions, the device.
    $JAX_COMPILATION_CACHE_DIR, if set, names the folder instead. An unwritable folder costs the
    next start only its compilation.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
