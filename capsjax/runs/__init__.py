"""Runs: training from start to end, the folder of a run, and what reads it back."""
