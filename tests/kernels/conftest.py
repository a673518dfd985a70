"""What the tests of kernels for a GPU share."""

import pytest

from capsjax.kernels import triton


@pytest.fixture
def kernels_run(monkeypatch):
    """Kernels are compiled where they can be, and interpreted elsewhere."""
    if not triton.available():
        monkeypatch.setattr(triton, "interpreted", lambda: True)
