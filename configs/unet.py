"""A plain U-Net for maps of labels, beside which configs/segcaps.py is to be seen.

    python experiments/train.py --config=configs/unet.py:small       # or no variant, or :paper

Four levels of two 3x3 convolutions with ReLU, max pooling, transposed convolutions back up, no norm
(Ronneberger et al. 2015, with padding). The channels make about as many parameters as SegCaps has;
data, losses and training are those of the variant of that name in configs/segcaps.py, but there is
no decoder. The U-Net that SegCaps was published with has 31.0 million parameters.
"""

from capsjax.config import make_config


def get_config(variants: str = ""):
    config = make_config(",".join(filter(None, ["unet", variants])))
    config.name = "-".join(filter(None, ["unet", *variants.split(",")]))
    return config.lock()
