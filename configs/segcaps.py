"""SegCaps: 1,425,649 parameters, capsules for maps of labels, on shapes that are generated.

    python experiments/train.py --config=configs/segcaps.py:small        # 70,249 parameters, 32x32
    python experiments/train.py --config=configs/segcaps.py              # published width, 64x64
    python experiments/train.py --config=configs/segcaps.py:paper        # 512x512, batch of one
    python experiments/train.py --config=configs/segcaps.py:small,r1     # fewer rounds

The control is `--config.model.routing.name=uniform`: couplings stay at 1/j, in the same network. A
U-Net of about as many parameters with the same data and losses is configs/unet.py. Maps of your own
come from a .npz file with `images` (n, h, w[, c]) and `masks` (n, h, w): `--config.data.name=npz
--config.data.file=my.npz`. Class 0 is the background.

Published Dice coefficients (LaLonde and Bagci 2018, LUNA16, lungs in slices of 512x512, mean of 4
folds, from their README): 98.479 % with routing in all layers, 98.419 % with `r1`, 98.449 % for
their U-Net of 31.0 million parameters. Users of the released code report that Dice stays at 4 %
on their data (its issue 16), and ask for a confirmation (issue 31). LUNA16 is not loaded here; no
full run of ours has been made yet. One seed of `small` for 5 epochs (450 steps, a minute or two on
two cores): test Dice 0.600, in the control 0.579, both still rising; the U-Net's was 0.838.

The published recipe: Adam, 1e-4 with beta_1 0.99, batch of one, weighted binary cross-entropy of
the lengths, and 131.072 times the MSE between the decoder and the image without its background;
`--config.loss_weights.soft_dice=1` or `margin=0.5`, with `binary_cross_entropy=0`, are its other
losses. The rate is divided by 1 + 1e-6 a step, and multiplied by 0.05 where the validation Dice has
not grown for 5 epochs (10 in their last version); after 25 training ends. The parameters are those
of the best validation Dice. `paper` takes all this.
Their epochs have 10,000 steps (in the last version 2,000), so raise `schedule.plateau.patience` and
`train.patience` where yours have fewer: the shapes of `paper` make 90. Without `paper` the rate is
1e-3 or 3e-3, the batch 10, and the weight of the MSE in proportion to the number of pixels,
of which it is 0.0005. Theirs weighs present pixels by the ratio of both in the data, here
`binary_cross_entropy_loss.positive_weight`.

Their images are mirrored in each direction with a probability of 0.1, and one in five is deformed,
here each (`augment.elastic`). Not set, because theirs change one image in ten and the fields here
change each: rotation (45 degrees, `augment.rotation`), shifts, size, and noise, of which theirs is
some 20 white and black pixels and `augment.noise` Gaussian. Not built yet: shear, the affine map
within their deformation, a threshold chosen for each volume (here a pixel is of a class where its
length is above one half).

What differs: squash(0) is 0, theirs 0/0. In testing the decoder gets the capsules of predicted
pixels, theirs all. For several classes the last layer has a type of capsule for each, and they
compete; the code has one. Votes are computed in bands of rows and again for the gradient
(`model.compute.votes`); `capsjax summary --config=segcaps:paper` shows the memory, docs/speed.md a
table.
"""

from capsjax.config import make_config


def get_config(variants: str = ""):
    config = make_config(",".join(filter(None, ["segcaps", variants])))
    config.name = "-".join(filter(None, ["segcaps", *variants.split(",")]))
    return config.lock()
