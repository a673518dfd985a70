"""The parts of sweep.py."""
