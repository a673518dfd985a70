"""Matrix capsules with EM routing, on MNIST or smallNORB.

    python experiments/train.py --config=configs/em_capsules.py          # 32, 32, 32, 32 types
    python experiments/train.py --config=configs/em_capsules.py:small    # 64, 8, 16, 16
    python experiments/train.py --config=configs/em_capsules.py:released # or :small,released
    python experiments/train.py --config=configs/em_capsules.py:smallnorb,small
    python experiments/train.py --config=configs/em_capsules.py \
        --config.model.routing.em.num_iterations=1                       # the control

316,650 and 68,618 parameters for stereo pairs of 32x32 pixels and 5 classes (the paper: 310,000 and
68,000), and 318,420 and 68,308 for MNIST. In the control, couplings stay at their start.

Published errors (Hinton et al. 2018): smallNORB 1.8 %, 1.4 % as the mean of several crops (13 in
the released code: `capsjax evaluate --workdir=RUN --crops=13`), and 2.2 % for the smaller network;
MNIST 0.44 %. The best independent error on smallNORB is 4.6 %, of the smaller network with 2
rounds. No full run of ours has been made yet.

The paper gives no initial values, and no schedules of margin and inverse temperature in numbers.
The initial values, the inverse temperature, the scale of the coordinates and the decay of the
learning rate are those of the code that its authors released; the rate itself, 0.003, is the one
that they named later. The margin rises in 20,000 steps, and there are 30 epochs: MNIST has no
published recipe. Evaluation takes the last margin, so that losses of two steps compare.

`released` has what that code does differently: capsules compete for a child by type and position,
with positions of the layer of stride 2 taken for those of stride 1; means are damped; the
coordinates are those of columns and rows, in the first two entries of a vote; the margin rises
along a sigmoid, for 300,000 steps and more.

With three rounds, the default, the network learns little in the first thousand steps. With two,
`--config.model.routing.em.num_iterations=2`, it learns much faster at first (RESULTS.md).

`smallnorb` has stereo pairs of 48x48 pixels, the means of 2x2 pixels, and all of them are trained
on. As in the paper, each is standardised, a square of 32 pixels is cropped at random, and its
brightness and contrast change; the central square is tested (`model.input`). The paper does not say
by how much they change: 63/255, here standard deviations, and 0.8 are those of the released code.
There the standardisation comes last and undoes both, as it does with `smallnorb,released`, in this
order; 300,000 steps are then `--config.train.epochs=800`. The paper names no number of steps: 150
epochs are 57,000.

The weight decay of 2e-7 is that of all parameters, in the released code that of kernels alone.

Needs MNIST or smallNORB (263 MB), which TFDS downloads once; `--config.data.dir` names its folder.
"""

from capsjax.config import make_config


def get_config(variants: str = ""):
    config = make_config(",".join(filter(None, ["em_capsules", variants])))
    config.name = "-".join(filter(None, ["em-capsules", *variants.split(",")]))
    return config.lock()
