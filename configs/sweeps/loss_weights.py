"""The weights of the losses, over decades, on MNIST.

    python experiments/sweep.py --config=configs/sweeps/loss_weights.py:small
    python experiments/sweep.py --config=configs/sweeps/loss_weights.py

The weight of the reconstruction (the paper's is 0.0005 on a sum over pixels) against that of the
absent classes (the paper's is 0.5). ":small" is the small network for one epoch and two seeds.
"""

from capsjax.config import make_config
from capsjax.sweeps import is_small, levels_of, make_sweep


def get_config(size: str = "full"):
    small = is_small(size)
    base = make_config("paper,small" if small else "paper")
    base.train.epochs = 1 if small else 50
    base.log.tensorboard = False
    weights = (0.0, 0.00005, 0.0005, 0.005, 0.05)
    return make_sweep(
        "loss_weights",
        base,
        {
            "reconstruction": levels_of("loss_weights.reconstruction", weights),
            "down_weight": levels_of("margin_loss.down_weight", (0.05, 0.5, 1.0)),
        },
        title="Weights of the losses",
        num_seeds=2 if small else 5,
        reference={"reconstruction": "0.0005", "down_weight": "0.5"},
    )
