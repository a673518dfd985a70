"""Configs: one file for each result, packaged as capsjax.configs."""
