"""Does training with rounded operands cost accuracy? On MNIST, in float32, TF32 and bfloat16.

    python experiments/sweep.py --config=configs/sweeps/number_types.py:small
    python experiments/sweep.py --config=configs/sweeps/number_types.py

Operands of convolutions and votes are rounded, everything else is float32; TF32 is float32 on a
CPU. ":small" is the small network for 20 epochs, the full one trains for 50, both with a cosine
schedule.
"""

from capsjax.config import make_config
from capsjax.sweeps import is_small, make_sweep


def get_config(size: str = "full"):
    small = is_small(size)
    base = make_config("paper,small" if small else "paper")
    base.train.epochs = 20 if small else 50
    base.schedule.name = "cosine"
    base.log.tensorboard = False
    return make_sweep(
        "number-types",
        base,
        {
            "dtype": {
                name: {"model.compute.dtype": name} for name in ("float32", "tf32", "bfloat16")
            }
        },
        title="Number types of operands",
        num_seeds=8,
        reference={"dtype": "float32"},
    )
