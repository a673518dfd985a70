"""Sweeps: one file for each table."""
