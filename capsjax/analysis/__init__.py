"""What a trained network does, its size, and statistics over many of them."""
