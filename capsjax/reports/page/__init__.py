"""A page for a run or a sweep: one HTML file that needs no server and no network."""
