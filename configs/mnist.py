"""CapsNet on MNIST, in the five published variants, and a network without capsules.

    python experiments/train.py --config=configs/mnist.py              # the paper's
    python experiments/train.py --config=configs/mnist.py:authors      # keras, notebook, pytorch
    python experiments/train.py --config=configs/mnist.py:cnn          # the paper's baseline
    python experiments/train.py --config=configs/mnist.py:paper,small  # small ones; or cnn,small

Needs MNIST, which TFDS downloads once; `--config.data.dir` names its folder.
Expected results and times are in RESULTS.md.
"""

from capsjax.config import make_config


def get_config(preset: str = "paper"):
    config = make_config(preset)
    if config.data.name != "mnist":
        name = preset.partition(",")[0]
        raise ValueError(
            f"the preset {name!r} trains on {config.data.name}, not on MNIST: take the config of "
            f"its own, --config={name}, and a variant behind a colon"
        )
    config.name = f"mnist-{preset.replace(',', '-')}"
    return config.lock()
