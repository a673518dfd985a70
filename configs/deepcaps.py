"""DeepCaps: capsule convolutions in cells with skip connections, one of them routed over a volume.

    python experiments/train.py --config=configs/deepcaps.py          # MNIST
    python experiments/train.py --config=configs/deepcaps.py:small    # a sixteenth of the work
    python experiments/train.py --config=configs/deepcaps.py:large    # 64x64 pixels
    python experiments/train.py --config=configs/deepcaps.py \
        --config.model.routing.agreement_3d.num_iterations=1          # the control

The encoder has 8,442,176 numbers for MNIST and 13,359,680 for 64x64x3 and ten classes, of which 256
are running means and variances; the decoder has 58,449 and 67,603, of which 32. (The paper's 7.22
million are those of neither network.) In the control, the couplings of the routed skip and of the
class capsules stay at their start.

`large` needs an .npz file of your own, `--config.data.file`: CIFAR-10 or SVHN, enlarged to 64x64.

Published errors (released code): CIFAR-10 7.26 %, SVHN 2.44 %, MNIST 0.28 %, Fashion-MNIST 5.27 %.
The first seems to be that of an ensemble: the code has one of seven networks, whose weights are set
by hand. No full run of ours has been made yet.

The recipe is that of the released code: Adam, 0.001 halved every 10 epochs, 100 epochs of batches
of 256, margin loss + 0.4 MSE, with shifts and zooms by 10 %, flips (of MNIST too) and rotations by
0.1 degrees. For another 100 epochs it goes on from the weights that were best on the test set, with
a harder margin. Here the last epoch counts, and the second hundred is a run of its own, which
starts from the first:

    python experiments/train.py --config=configs/deepcaps.py --workdir=runs/deepcaps
    python experiments/train.py --config=configs/deepcaps.py:hard --config.init_from=runs/deepcaps

Shifts and zooms leave zeros behind, not the pixels of the border. A zoom scales rows and columns
alike, in the code each by a factor of its own.

What differs from the code, and why. Poses become the maps of the routed skip type by type; in the
code a reshape without a transposition mixes types and positions. A capsule is squashed by its own
length; in the routed skip of the code by that of one type at all positions together, and before
November 2019 by the numbers of each row of the image. Couplings of a child type sum to 1 over
positions and types, as in the paper and in the code since August 2019; the published errors are
older, and `--config.model.routed_caps.over=types` with `--config.model.routing.name=dynamic
--config.model.routing.dynamic.use_bias=True --config.model.routing.dynamic.gradient=full` has the
couplings of that time. Initial values are those of the code, where the bound of the convolutions of
capsules (`glorot_size`) is about 1.7 times what their fans would make it. Depth needs it: on MNIST
the mean length after the first convolution of the last cell starts at 0.12, with `glorot_uniform`
below 0.0001.

Needs MNIST, which TFDS downloads once; `--config.data.dir` names its folder.
"""

from capsjax.config import make_config


def get_config(variants: str = ""):
    config = make_config(",".join(filter(None, ["deepcaps", variants])))
    config.name = "-".join(filter(None, ["deepcaps", *variants.split(",")]))
    return config.lock()
