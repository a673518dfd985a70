"""Efficient-CapsNet: 161,824 parameters, depthwise primary capsules and self-attention routing.

    python experiments/train.py --config=configs/efficient_capsnet.py
    python experiments/train.py --config=configs/efficient_capsnet.py:small       # half as wide
    python experiments/train.py --config=configs/efficient_capsnet.py:multimnist  # or smallnorb

Needs MNIST, which TFDS downloads once; `--config.data.dir` names its folder. The other data are
.npz files of your own, `--config.data.file`: for `multimnist` two digits in 36x36 pixels with
labels (n, 10) of 0 and 1, for `smallnorb` stereo pairs (n, 48, 48, 2). Those published are crops of
64x64 pixels; `--config.data.name=smallnorb` has whole pairs, reduced to 48x48.

Published errors (Mazzia et al. 2021): MNIST 0.26 %, mean of several networks; smallNORB 2.54 %;
MultiMNIST 5.1 %. An independent run of their setting on MNIST, the best of its last ten epochs on
the test set: 0.42 %. No full run of ours has been made yet.

The recipe is that of the released code: Adam, 5e-4 times 0.97 at each epoch and not below 5e-5,
150 epochs of batches of 16, margin loss + 0.392 MSE. Not set here: rotations of MNIST by up to 30
degrees (`--config.augment.rotation=30`), and for smallNORB brightness and contrast
(`augment.brightness`, `augment.contrast`). Not built yet, for MNIST: shifts as far as the margins
allow (here 2 pixels), narrower digits, erased squares; for MultiMNIST: one reconstruction for each
digit (here both capsules reconstruct the image); for smallNORB: standardised channels, random
crops. Their checkpoints were selected on the test set; here the last epoch counts.

The control, with couplings held at 1/j and the same squash, is
`--config.model.routing.name=uniform`.
"""

from capsjax.config import make_config


def get_config(variants: str = "mnist"):
    config = make_config(f"efficient_capsnet,{variants}")
    config.name = f"efficient-capsnet-{variants.replace(',', '-')}"
    return config.lock()
