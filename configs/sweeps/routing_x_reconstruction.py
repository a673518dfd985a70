"""Table 1 of the paper: routing rounds against the reconstruction loss, on MNIST.

    python experiments/sweep.py --config=configs/sweeps/routing_x_reconstruction.py:small
    python experiments/sweep.py --config=configs/sweeps/routing_x_reconstruction.py

":small" is the small network for two epochs and three seeds: 24 trials, about three quarters of an
hour on two cores. The full size is the paper's network, 50 epochs and five seeds, for a GPU.
Results are in RESULTS.md.
"""

from capsjax.config import make_config
from capsjax.sweeps import is_small, levels_of, make_sweep

PAPER = "Sabour et al. 2017, table 1"


def get_config(size: str = "full"):
    small = is_small(size)
    base = make_config("paper,small" if small else "paper")
    base.train.epochs = 2 if small else 50
    base.log.tensorboard = False
    return make_sweep(
        "routing_x_reconstruction",
        base,
        {
            "rounds": levels_of("model.routing.dynamic.num_iterations", (1, 2, 3, 5)),
            "reconstruction": levels_of("loss_weights.reconstruction", (0.0, 0.0005)),
        },
        title="Routing rounds against reconstruction",
        num_seeds=3 if small else 5,
        reference={"rounds": "3", "reconstruction": "0.0005"},
        published=[
            ({"rounds": "1", "reconstruction": "0.0"}, 0.34, 0.032, PAPER),
            ({"rounds": "1", "reconstruction": "0.0005"}, 0.29, 0.011, PAPER),
            ({"rounds": "3", "reconstruction": "0.0"}, 0.35, 0.036, PAPER),
            ({"rounds": "3", "reconstruction": "0.0005"}, 0.25, 0.005, PAPER),
        ],
    )
