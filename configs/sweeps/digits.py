"""Routing rounds against the reconstruction loss on scikit-learn's digits: no download.

    python experiments/sweep.py --config=configs/sweeps/digits.py --workdir=runs/digits-table
    python experiments/report.py --workdir=runs/digits-table

Four points and five seeds, 20 trials. Results are in RESULTS.md.
"""

from pathlib import Path

from capsjax.config import load_config
from capsjax.sweeps import levels_of, make_sweep


def get_config():
    base = load_config(Path(__file__).parent.parent / "digits.py")
    with base.unlocked():
        base.log.tensorboard = False
    weight = base.loss_weights.reconstruction
    return make_sweep(
        "digits",
        base,
        {
            "rounds": levels_of("model.routing.dynamic.num_iterations", (1, 3)),
            "reconstruction": levels_of("loss_weights.reconstruction", (0.0, weight)),
        },
        title="Routing rounds against reconstruction, on digits of 8x8 pixels",
        num_seeds=5,
        reference={"rounds": "3", "reconstruction": str(weight)},
    )
