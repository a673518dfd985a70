"""What a person gives to the page, and what a panel then shows: functions of values alone."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from capsjax.explore import views
from capsjax.explore.encoding import MOST_BYTES, TOO_LARGE, from_data_uri, to_picture
from capsjax.explore.inputs import STILL, Move, fit_sample, is_dark_on_light, moved, prepare
from capsjax.explore.network import Network

# Numbers of no meaning but that each differs from all before.
VERSIONS = itertools.count()


@dataclasses.dataclass(frozen=True)
class Input:
    """What a person gives to the networks.

    Attributes:
      picture: in grey or colour.
      image: of a sample, uint8 (h, w, c), which may be more than a picture holds; None for a
        drawing or a file.
    """

    picture: Image.Image
    image: np.ndarray | None = None


@dataclasses.dataclass
class Session:
    """What one browser has given, and chosen; it changes as the page is used.

    Attributes:
      given: what the networks are given.
      chosen: the class that each panel shows; None for that of the highest score.
    """

    given: Input
    chosen: list[int | None]

    def give(self, given: Input) -> None:
        """Take another input, of which each panel shows the winner."""
        self.given, self.chosen = given, [None] * len(self.chosen)

    def choose(self, number: int, label: int) -> None:
        """Choose a class in a panel; the same one again gives the winner."""
        self.chosen[number] = None if self.chosen[number] == label else label


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What is done to an input before a network sees it.

    Attributes:
      centre: whether the ink of drawings and files is put into the middle, for networks of ink on
        black.
      invert: whether dark is turned into light; dark ink on light paper is inverted for networks of
        ink on black, unless this is given.
      move: rotation and shift, at the end.
    """

    centre: bool = True
    invert: bool = False
    move: Move = STILL


class Panel(NamedTuple):
    """The parts of the panel of a network, as HTML."""

    top: str
    bars: str
    sliders: str
    decoded: str


def image_for(network: Network, given: Input, treatment: Treatment) -> np.ndarray:
    """Return the image that a network sees, before it is moved; a sample is left as it is."""
    if given.image is not None:
        return fit_sample(given.image, network.image_shape)
    is_dark = network.is_of_ink and is_dark_on_light(given.picture)
    box = network.box if treatment.centre and network.is_of_ink else None
    invert = treatment.invert != is_dark
    return prepare(given.picture, network.image_shape, box=box, invert=invert)


def show(network: Network, given: Input, treatment: Treatment, chosen: int | None) -> Panel:
    """Return the panel of a network.

    Args:
      network: the network.
      given: what it is given.
      treatment: what is done to that before.
      chosen: the class whose capsule is shown; None for that of the highest score.
    """
    still = image_for(network, given, treatment)
    image = moved(still, treatment.move)
    look = network.look(image)
    before = look if image is still else network.look(still)
    label = look.label if chosen is None else chosen
    made = network.decode(look.poses[label], label) if network.can_decode else None
    return Panel(
        views.heading(network, look) + views.pictures(network, image, look, label),
        views.bars(network, look, label),
        views.sliders(network, look, before, label, next(VERSIONS)),
        views.decoded(network, made, label),
    )


def decode(network: Network, label: int, pose: Sequence[float]) -> str:
    """Return the picture of a pose that sliders have made, as HTML."""
    return views.decoded(network, network.decode(np.array(pose, np.float32), label), label)


def take_drawing(picture: str) -> Input:
    """Take what was drawn on the pad.

    Raises:
      ValueError: for anything else than a picture.
    """
    return Input(from_data_uri(picture))


def take_file(network: Network, picture: str, size: int) -> Input:
    """Take a picture from a file of a number of bytes, onto the pad of a network.

    Dark ink on light paper is inverted for a network of ink on black, so that the pen of the pad,
    which is white then, goes on with it.

    Raises:
      ValueError: for a file that is no picture, or one that is too large.
    """
    if size > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    opened = from_data_uri(picture)
    is_dark = network.is_of_ink and is_dark_on_light(opened)
    return Input(ImageOps.invert(opened) if is_dark else opened)


def take_sample(network: Network, place: int) -> Input:
    """Take one of a network's samples.

    Raises:
      ValueError: for a number that none has.
    """
    if not 0 <= place < len(network.samples.images):
        raise ValueError(f"there is no sample {place}")
    image = network.samples.images[place]
    return Input(to_picture(image), image)
