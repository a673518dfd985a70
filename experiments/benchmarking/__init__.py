"""What experiments/benchmark.py is made of: cases, their timing, the sections and the report."""
