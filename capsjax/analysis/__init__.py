"""The size of a network, and statistics over many trained ones."""
