"""Matrix capsules with variational Bayes routing, on MNIST or smallNORB.

    python experiments/train.py --config=configs/vb_capsules.py
    python experiments/train.py --config=configs/vb_capsules.py:smallnorb
    python experiments/train.py --config=configs/vb_capsules.py \
        --config.model.routing.vb.num_iterations=1                       # the control

68,714 parameters for stereo pairs of 32x32 pixels and 5 classes. In the control, couplings stay at
their start.

Published errors on smallNORB: 1.3 % for three layers of capsules, in the released code of De Sousa
Ribeiro et al. 2020; 4.3 % in an independent run of it. No full run of ours has been made yet.

The recipe is that of the released code: Adam with a constant rate of 0.001, batches of 128, 300
epochs (for MNIST 30, as it has no published recipe). `smallnorb` has stereo pairs of 48x48 pixels,
the means of 2x2 pixels, and all of them are trained on: a square of 32 pixels is cropped at random,
in testing the central one, and each of its channels is standardised (`model.input`).

The cross-entropy takes activations, which are between 0 and 1, for logits: with ten classes it
cannot fall below ln(1 + 9/e) = 1.46, with five below 0.90, and as the batch norm gives the logits
of a class mean 0 and variance 1, 1.84 is the least for ten classes of one size. The offsets β are
learned, but the batch norm removes them. Evaluation needs running variances that have forgotten
their start at 1: its accuracy is that of chance for about the first 100 steps.

An upper capsule of few votes has an entropy above 0, and is then less active the more of them it
wins.

Needs MNIST or smallNORB (263 MB), which TFDS downloads once; `--config.data.dir` names its folder.
"""

from capsjax.config import make_config


def get_config(variants: str = ""):
    config = make_config(",".join(filter(None, ["vb_capsules", variants])))
    config.name = "-".join(filter(None, ["vb-capsules", *variants.split(",")]))
    return config.lock()
