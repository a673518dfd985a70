"""A trained network, and all that the page shows of what it makes of an image."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from capsjax.analysis.inspection import kind_of_scores
from capsjax.explore.encoding import to_bytes
from capsjax.explore.places import CLASS_LAYER, Grid, find_grid, size_of_grid, support
from capsjax.explore.samples import Samples, are_ink_on_black, box_of, choose, find_samples
from capsjax.layers import ConvCaps
from capsjax.models import look_inside
from capsjax.runs.predictor import Predictor

NO_CAPSULES = "This network has no capsules: there are no poses, votes or reconstructions to show."
NO_POSES = "Its class capsules are activations without poses, so that there is nothing to move."
NO_DECODER = "It has no decoder, so that its poses cannot be decoded."
DECODER_OFF = "It has no decoder (model.use_decoder=False), so that its poses cannot be decoded."
NO_GRID = (
    "The capsules that vote for its classes have no place each in the image, so that their votes "
    "are not drawn."
)
MAPS = "It labels pixels: the bars are each class's share of the image, and there is no one pose."
# Samples whose poses tell how far poses reach.
SAMPLES_OF_REACH = 5
# Poses move at least as far: an empty image can have poses of zeros.
LEAST_REACH = 0.1


class Look(NamedTuple):
    """What a network makes of an image.

    Attributes:
      label: the class of the highest score.
      found: the classes that the network reads: that one, or those of a multilabel task; for a map
        of labels none.
      scores: one of each class, (k,); for a map of labels, the share of the pixels.
      poses: class capsules, (k, d), or None.
      reconstruction: from the capsules of the classes found, uint8 (h, w, c), or None.
      support: what the capsules at each position give to each class, (y, x, k), or None.
      labels: the class of each pixel, (h, w), or None where the network labels images.
    """

    label: int
    found: tuple[int, ...]
    scores: Float[np.ndarray, "k"]
    poses: Float[np.ndarray, "k d"] | None = None
    reconstruction: UInt8[np.ndarray, "h w c"] | None = None
    support: Float[np.ndarray, "y x k"] | None = None
    labels: np.ndarray | None = None


class Network:
    """A trained network behind the page. Making one compiles all that the page will wait for.

    Attributes:
      name: for the page.
      predictor: the network.
      image_shape: (h, w, c).
      class_names: one of each class.
      samples: images to choose from.
      box: the longer side of centred ink, as a share of the image (see `capsjax.explore.inputs`).
      is_of_ink: whether its images are light ink on black.
      grid: where the capsules look that vote for the classes, or None.
      title_of_scores: what the scores are.
      reach: poses move over [-reach, reach] or more.
      notes: sentences about what the network lacks.
    """

    def __init__(self, name: str, predictor: Predictor, samples: Samples | None = None):
        model = predictor.model
        self.name, self.predictor, self.image_shape = name, predictor, tuple(model.image_shape)
        self.class_names = predictor.class_names or tuple(map(str, range(model.num_classes)))
        self.samples = find_samples(predictor) if samples is None else samples
        self.box, self.is_of_ink = box_of(self.samples), are_ink_on_black(self.samples)
        self.grid = _find_grid(predictor)
        self._has_logits = kind_of_scores(model) == "logit"
        some = self.samples.images[choose(self.samples, SAMPLES_OF_REACH, seed=0)]
        blank = np.zeros((1, *self.image_shape), np.uint8)
        looks = [self.look(image) for image in (some if len(some) else blank)]
        self.title_of_scores = _title_of_scores(looks[0], self._has_logits)
        self.notes = _notes(looks[0], "use_decoder" in predictor.config.model)
        self.reach = max(LEAST_REACH, *map(_reach, looks))
        if self.can_decode:
            self.decode(looks[0].poses[0], 0)

    @property
    def can_decode(self) -> bool:
        """Whether a pose makes an image."""
        return not {NO_CAPSULES, NO_POSES, NO_DECODER, DECODER_OFF, MAPS} & set(self.notes)

    def look(self, image: UInt8[np.ndarray, "h w c"]) -> Look:
        """Return what the network makes of an image."""
        if self.grid is None:
            output, values = self.predictor.forward(image[None]), {}
        else:
            output, layers = self.predictor.look_inside(image[None])
            values = layers[CLASS_LAYER]
        reconstruction = output.reconstruction
        if reconstruction is not None:
            reconstruction = to_bytes(np.asarray(reconstruction)[0])
        labels = np.asarray(self.predictor.objective.task.predictions(output.scores))[0]
        if output.scores.ndim == 4:
            shares = np.bincount(labels.ravel(), minlength=len(self.class_names)) / labels.size
            return Look(int(shares.argmax()), (), shares, None, reconstruction, None, labels)
        found = (labels,) if labels.ndim == 0 else np.flatnonzero(labels)
        scores = np.asarray(jax.nn.softmax(output.scores) if self._has_logits else output.scores)[0]
        poses = None if output.poses is None else np.asarray(output.poses)[0]
        return Look(
            int(scores.argmax()),
            tuple(map(int, found)),
            scores,
            poses,
            reconstruction,
            self._support(values, poses),
        )

    def decode(self, pose: Float[np.ndarray, "d"], label: int) -> UInt8[np.ndarray, "h w c"]:
        """Decode the pose of one class."""
        poses = np.zeros((1, len(self.class_names), len(pose)), np.float32)
        poses[0, label] = pose
        return to_bytes(self.predictor.decode(poses, np.array([label]))[0])

    def _support(self, values, poses: np.ndarray | None) -> np.ndarray | None:
        if self.grid is None:
            return None
        votes = np.asarray(values["votes"])[0] if "votes" in values else None
        size = len(self.grid.rows), len(self.grid.columns)
        return support(votes, np.asarray(values["couplings"])[0], poses, size)


def _find_grid(predictor: Predictor) -> Grid | None:
    """Find the grid of the capsules that vote for the classes; None if there is none."""
    model, shape = predictor.model, tuple(predictor.model.image_shape)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    convolutions = [
        ConvCaps(routing=model.routing, parent=None, **settings)
        for settings in getattr(model, "conv_caps", ())
    ]
    # Shapes alone: without a grid nothing has to be compiled.
    inside = functools.partial(look_inside, model, predictor.variables)
    size = size_of_grid(jax.eval_shape(inside, image)[1], convolutions)
    if size is None:
        return None
    looking = _without_standardizing(predictor)
    return find_grid(lambda image: looking.look_inside(image)[1], shape, size)


def _without_standardizing(predictor: Predictor) -> Predictor:
    """Return the network without what makes each of its numbers depend on all pixels."""
    settings = getattr(predictor.model, "image_input", None)
    if settings is None or settings["standardize"] == "none":
        return predictor
    model = predictor.model.clone(image_input={**settings, "standardize": "none"})
    return Predictor(
        predictor.config, predictor.step, model, predictor.variables, predictor.objective
    )


def _title_of_scores(look: Look, are_logits: bool) -> str:
    if look.labels is not None:
        return "Share of the pixels"
    if are_logits:
        return "Probabilities of the classes"
    if look.poses is not None and np.allclose(
        look.scores, np.linalg.norm(look.poses, axis=-1), atol=1e-3
    ):
        return "Lengths of the class capsules"
    return "Activations of the class capsules"


def _notes(look: Look, may_decode: bool) -> tuple[str, ...]:
    if look.labels is not None:
        return (MAPS,)
    if look.poses is None and look.support is None:
        return (NO_CAPSULES,)
    notes = []
    if look.poses is None or not look.poses.shape[-1]:
        notes.append(NO_POSES)
    elif look.reconstruction is None:
        notes.append(DECODER_OFF if may_decode else NO_DECODER)
    if look.support is None:
        notes.append(NO_GRID)
    return tuple(notes)


def _reach(look: Look) -> float:
    """Return how far poses move: half as far again as the largest number of this one, in tenths."""
    if look.poses is None or not look.poses.shape[-1]:
        return 0.0
    return math.ceil(15 * float(np.abs(look.poses[look.label]).max())) / 10
