"""The parts of experiments/report.py: the sweep's file, the analysis, the text, the tables."""
