"""The parts of experiments/benchmark.py: cases, their timing, the sections and the report."""
