"""Sweeps: grids of settings, and populations that train their trials."""

from capsjax.sweeps.grid import Trial, is_small, levels_of, make_sweep, trials_of

__all__ = ["Trial", "is_small", "levels_of", "make_sweep", "trials_of"]
