"""Self-routing capsules (SR-CapsNet), on MNIST, CIFAR-10, SVHN or smallNORB.

    python experiments/train.py --config=configs/self_routing.py                # MNIST
    python experiments/train.py --config=configs/self_routing.py:cifar10        # or :svhn
    python experiments/train.py --config=configs/self_routing.py:mnist,small
    python experiments/train.py --config=configs/self_routing.py:mnist,poses    # and its control:
    python experiments/train.py --config=configs/self_routing.py:mnist,poses \
        --config.model.routing.self.uniform=True

931,664 parameters for CIFAR-10 and SVHN: ResNet-20 and 32 capsules of 16 at each of 8x8 positions.
814,960 for smallNORB: six convolutions and 4x4 positions. 849,776 for MNIST, 62,104 for `small`.
No full run of ours has been made yet.

Class capsules have no poses: their activations sum to 1 and are the probabilities of the classes.
With couplings held at their start they are all equal, whatever the image, so that the published
network has no control. In `poses`, class capsules have poses of 16 dimensions with a batch norm,
and a linear function of these is read: 4,864,193 parameters for MNIST, and 4,597,633 for the
control, which learns no couplings.

Recipe of the released code: SGD with a rate of 0.1, divided by 10 after 150 and 250 of 350 epochs
(for SVHN and smallNORB after 100 and 150 of 200), momentum 0.9, weight decay 1e-4 of all
parameters, batches of 64, images padded with 4 pixels and cropped, random flips of CIFAR-10, a
tenth of the training images for validation, parameters of the best validation accuracy. Not built
yet: the normalisation of colours (the first batch norm makes up for all of it but the value of the
padding); for smallNORB random crops (`--config.data.file` names an .npz of images (n, 32, 32, 1)),
and its brightness and contrast are not set (`augment.brightness`, `augment.contrast`). There is no
recipe for MNIST; the one here has 35 epochs, and the parameters of the last step.
Routing matrices begin at 0, and SGD moves them slowly. With `--config.optimizer.name=adam
--config.schedule.learning_rate=0.003` a thousand steps make a good network (RESULTS.md).

The released code divides by sums of activations, which is not finite where all of them are 0; here
poses and activations are then 0. Its setting `depth` is the number of layers in `model.conv_caps`
and one more: 2 with ResNet-20 is --config.model.conv_caps.types="(32,)", .kernel_size="(3,)" and
.stride="(2,)". At stride 2 windows begin at the first row, those of the released code one before.

Needs the data set, which TFDS downloads once; `--config.data.dir` names its folder.
"""

from capsjax.config import make_config

SETS = ("mnist", "cifar10", "svhn", "smallnorb")


def get_config(argument: str = "mnist"):
    name, *variants = argument.split(",")
    if name not in SETS:
        raise ValueError(
            "configs/self_routing.py:SET,VARIANT begins with mnist, cifar10, svhn or smallnorb, "
            f"not {argument!r}"
        )
    of_set = [] if name == "cifar10" else [name]
    config = make_config(",".join(["self_routing", *of_set, *variants]))
    config.name = f"self-routing-{argument.replace(',', '-')}"
    return config.lock()
