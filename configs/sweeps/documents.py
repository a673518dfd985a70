"""How three documents differ from the paper, one difference at a time, on MNIST.

    python experiments/sweep.py --config=configs/sweeps/documents.py:small
    python experiments/sweep.py --config=configs/sweeps/documents.py

The Keras tutorial's mean over pixels makes the reconstruction loss 784 times weaker, the
TensorFlow notebook's sum over a batch of 50 makes it 50 times heavier, and the PyTorch tutorial
makes a capsule of eight neighbouring pixels of a channel. ":small" is the small network for two
epochs and three seeds.
"""

from capsjax.config import make_config
from capsjax.sweeps import is_small, make_sweep

PIXELS, BATCH = 784, 50


def get_config(size: str = "full"):
    small = is_small(size)
    base = make_config("paper,small" if small else "paper")
    base.train.epochs = 2 if small else 50
    base.log.tensorboard = False
    weight = base.loss_weights.reconstruction
    return make_sweep(
        "documents",
        base,
        {
            "choice": {
                "paper": {},
                "keras": {"loss_weights.reconstruction": weight / PIXELS},
                "notebook": {"loss_weights.reconstruction": weight * BATCH},
                "pytorch": {"model.primary_caps.grouping": "pixels"},
            }
        },
        title="What three documents do otherwise than the paper",
        num_seeds=3 if small else 5,
        reference={"choice": "paper"},
    )
