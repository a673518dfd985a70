"""Faster forms of convolution and routing with equal results, and the one place that chooses."""
