"""Results reported by the documents that this project reproduces."""

from typing import NamedTuple


class Document(NamedTuple):
    """The result that a document reports.

    Attributes:
      accuracy: accuracy on the 10,000 test images of MNIST, in percent.
      how: how many runs, and which parameters, as far as the document states.
    """

    accuracy: float
    how: str


# Documents by the name in the config of a run.
DOCUMENTS = {
    "mnist-paper": Document(99.75, "mean of 3, last"),
    "mnist-authors": Document(99.75, "mean of 3, last"),
    "mnist-cnn": Document(99.61, "not stated"),
    "mnist-keras": Document(99.09, "one, last"),
    "mnist-notebook": Document(99.43, "one, lowest validation loss"),
    "mnist-pytorch": Document(99.66, "mean, a fixed epoch"),
    "pooling-capsule": Document(99.62, "one, last"),
    "pooling-max": Document(99.64, "one, last"),
}
