"""Capsule pooling against max and average pooling, in the same network, on MNIST.

    python experiments/train.py --config=configs/capsule_pooling.py          # capsule pooling
    python experiments/train.py --config=configs/capsule_pooling.py:max      # or :average

45 epochs, about an hour each on two cores. Needs MNIST, which TFDS downloads once;
`--config.data.dir` names its folder. Results are in RESULTS.md.
"""

from capsjax.config import make_config


def get_config(pooling: str = "capsule"):
    config = make_config(f"capsule_pooling,{pooling}")
    config.name = f"pooling-{pooling}"
    return config.lock()
