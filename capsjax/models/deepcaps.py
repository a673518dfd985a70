"""DeepCaps: cells of capsule convolutions with skip connections, and routing over a volume."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.layers import Conv, DenseCaps, PoseDecoder, PrimaryCaps, SharedConvCaps
from capsjax.layers.feature_norm import FeatureNorm
from capsjax.layers.readout import make_readout
from capsjax.models.decoding import check_decoder
from capsjax.models.images import check_images
from capsjax.models.output import Output
from capsjax.models.sections import settings_of_layers
from capsjax.notation import Capsules
from capsjax.ops import mask_poses, safe_norm
from capsjax.registry import settings_in
from capsjax.routing import ROUTING, Routing, make_routing, settings_of
from capsjax.tasks import Classification, Task
from capsjax.windows import make_grid

ONE_CLASS = Classification()
# The convolutions of a cell.
PARTS = ("down", "first", "second", "skip")
SETTINGS_OF_CELLS = ("types", "pose_size", "kernel_size", "stride", "routed", "kernel_init")


class DeepCaps(nn.Module):
    """The network of Rajasegaran et al., for images of any size.

    Image -> Conv, ReLU, batch norm -> cells -> the capsules of the last two cells, without their
    grids -> DenseCaps (one capsule for each class) -> PoseDecoder, of one class capsule.

    A cell has four convolutions of capsules, padded and squashed: `down`, whose stride makes the
    grid smaller; then `first` and `second` one after the other, and `skip` beside them. The poses
    of `second` and `skip` are added and not squashed again, so that lengths reach 2. The skip of a
    routed cell is a `SharedConvCaps`; all else is not routed.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number j of class capsules.
      routing, class_routing: routing algorithms (see `capsjax.routing`) of the routed skips and of
        the class capsules.
      stem: settings of the first `Conv`.
      norm: settings of `FeatureNorm`.
      cells: settings of each cell, in order: `routed`, and those of its convolutions, `stride`
        being that of `down`.
      routed_caps: settings of `SharedConvCaps` that are not those of its cell.
      class_caps: settings of `DenseCaps`.
      decoder: settings of `PoseDecoder`, or None for a network without one.
      readout: what makes the class scores, see `capsjax.layers.readout.make_readout`.
      task: what labels mean (see `capsjax.tasks`). The poses of several classes are added
        before they are decoded.
      compute: how the network is computed.
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.

    Raises:
      ValueError: at the first call, for settings that do not fit together.

    Source: Rajasegaran et al. 2019, section 3, figure 2, and their released code.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    routing: Routing
    class_routing: Routing
    stem: Mapping[str, Any]
    norm: Mapping[str, Any]
    cells: Sequence[Mapping[str, Any]]
    routed_caps: Mapping[str, Any]
    class_caps: Mapping[str, Any]
    decoder: Mapping[str, Any] | None
    readout: str = "auto"
    task: Task = Classification()
    compute: Compute = Compute()
    batch_axis: str | None = None

    def setup(self):
        self._check_cells()
        self.stem_layer = Conv(**self.stem, padded=True, compute=self.compute.of_layer("stem"))
        self.norm_layer = FeatureNorm(**self.norm, batch_axis=self.batch_axis)
        self.cell_layers = [
            {part: self._convolution(index, part) for part in PARTS}
            for index in range(len(self.cells))
        ]
        self.class_layer = DenseCaps(
            self.num_classes, routing=self.class_routing, compute=self.compute, **self.class_caps
        )
        self.readout_layer = make_readout(self.readout, self.routing)
        if self.decoder is not None:
            self.decoder_layer = self._make_decoder(batch_axis=self.batch_axis)

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n *label"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> Output:
        """Classify and reconstruct.

        Args:
          images: in [0, 1].
          labels: what to reconstruct, as in training; None reconstructs each image from the capsule
            of the highest score, as in testing.
          keys: given in training, where batch norm takes the mean and variance of the batch; None,
            as in testing, takes the running ones. Nothing here is random.
        """
        check_images(images, self.image_shape)
        training = keys is not None
        features = self.norm_layer(nn.relu(self.stem_layer(images)), training)
        of_cells = []
        for cell in range(len(self.cells)):
            of_cells.append(self._through(cell, features))
            features = _read_as_channels(of_cells[-1])
        # The last cell, and then the one before it.
        classes, _ = self.class_layer(_join(of_cells[:-3:-1]))
        scores = self.readout_layer(classes)
        if self.decoder is None:
            return Output(scores, classes.poses)
        pose = _choose(classes.poses, self.task.mask(scores, labels))
        return Output(scores, classes.poses, self.decoder_layer(pose, training))

    def decode(
        self, poses: Float[Array, "n j d"], mask: Float[Array, "n j"]
    ) -> Float[Array, "n h w c"]:
        """Decode the class poses that the mask selects, whatever the others are.

        Raises:
          ValueError: if the network has no decoder.
        """
        check_decoder(self.decoder)
        return self.decoder_layer(_choose(poses, mask), training=False)

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: forms of convolutions and votes, and dtype."""
        forms = {
            name: self.compute.of_layer(name).form_of((batch_size * maps, *image), kernel, stride)
            for name, maps, image, kernel, stride in self._convolutions()
        }
        votes = self.compute.form_of_votes(self.class_routing)
        return {**forms, "votes": votes, "dtype": self.compute.chosen_dtype}

    def _make_decoder(self, **settings: Any) -> PoseDecoder:
        return PoseDecoder(self.image_shape, **self.decoder, compute=self.compute, **settings)

    def _check_cells(self) -> None:
        sizes = [settings["pose_size"] for settings in self.cells]
        if not sizes or len(set(sizes[-2:])) > 1:
            raise ValueError(
                "class capsules see the poses of the last two cells, which have one size: "
                f"model.cells.pose_size is {tuple(sizes)}"
            )

    def _convolution(self, cell: int, part: str) -> nn.Module:
        """Make a convolution of a cell."""
        name, settings = f"cell_{cell}_{part}", self.cells[cell]
        shared = {
            **{key: settings[key] for key in ("types", "pose_size", "kernel_size")},
            "stride": settings["stride"] if part == "down" else 1,
            "padding": "SAME",
            "compute": self.compute.of_layer(name),
            "name": name,
        }
        if part == "skip" and settings["routed"]:
            return SharedConvCaps(routing=self.routing, **self.routed_caps, **shared)
        return PrimaryCaps(use_bias=False, kernel_init=settings["kernel_init"], **shared)

    def _through(self, cell: int, features: Float[Array, "n h w c"]) -> Capsules:
        """Return the capsules of a cell."""
        layers = self.cell_layers[cell]
        below = layers["down"](features)
        channels = _read_as_channels(below)
        if self.cells[cell]["routed"]:
            skipped, _ = layers["skip"](below)
        else:
            skipped = layers["skip"](channels)
        deep = layers["second"](_read_as_channels(layers["first"](channels)))
        poses = deep.poses + skipped.poses
        return Capsules(poses, safe_norm(poses))

    def _convolutions(self) -> Iterator[tuple[str, int, tuple, tuple, int]]:
        """Yield name, maps of an image, padded map (h, w, c), kernel and stride of each."""
        h, w, c = self.image_shape
        size, features = self.stem["kernel_size"], self.stem["features"]
        yield "stem", 1, (h + size - 1, w + size - 1, c), (size, size, c, features), 1
        c = features
        for cell, settings in enumerate(self.cells):
            types, p, size = settings["types"], settings["pose_size"], settings["kernel_size"]
            for part in PARTS:
                stride = settings["stride"] if part == "down" else 1
                grid = make_grid((h, w), (size, size), (stride, stride), "SAME")
                padded = [axis.size + axis.before + axis.after for axis in grid]
                alone = part == "skip" and settings["routed"]
                maps, channels = (types, p) if alone else (1, c)
                name = f"cell_{cell}_{part}"
                yield name, maps, (*padded, channels), (size, size, channels, types * p), stride
                h, w, c = grid.rows.count, grid.columns.count, types * p
        if self.decoder is not None:
            for name, image, kernel in self._make_decoder(parent=None).convolutions():
                yield name, 1, image, kernel, 1


def _read_as_channels(capsules: Capsules) -> Float[Array, "n y x c"]:
    """Read the poses of all types at a position as its channels."""
    return capsules.poses.reshape(*capsules.poses.shape[:3], -1)


def _join(of_cells: Sequence[Capsules]) -> Capsules:
    """Put the capsules of several grids into one row, each in the order (row, column, type)."""
    n, p = of_cells[0].poses.shape[0], of_cells[0].poses.shape[-1]
    poses = [capsules.poses.reshape(n, -1, p) for capsules in of_cells]
    activations = [capsules.activations.reshape(n, -1) for capsules in of_cells]
    return Capsules(jnp.concatenate(poses, axis=1), jnp.concatenate(activations, axis=1))


def _choose(poses: Float[Array, "n j d"], mask: Float[Array, "n j"]) -> Float[Array, "n d"]:
    """Return the pose of the class that the mask selects."""
    return jnp.sum(mask_poses(poses, mask), axis=1)


def make_deepcaps(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    stem: Mapping[str, Any],
    norm: Mapping[str, Any],
    cells: Mapping[str, Any],
    routed_caps: Mapping[str, Any],
    class_caps: Mapping[str, Any],
    routing: Mapping[str, Any],
    readout: str,
    decoder: Mapping[str, Any],
    use_decoder: bool,
    compute: Mapping[str, Any],
    task: Task = ONE_CLASS,
) -> DeepCaps:
    """Make a `DeepCaps` from the sub-dicts of a config.

    `class_caps.bias_init` is that of the bias which the routing algorithm learns for the class
    capsules, if it learns one.
    """
    name, settings = routing["name"], settings_in(routing, ROUTING)
    class_caps = dict(class_caps)
    of_classes = {"bias_init": class_caps.pop("bias_init")}
    known = settings_of(name)
    of_classes = {key: value for key, value in of_classes.items() if key in known}
    return DeepCaps(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        routing=make_routing(name, **settings),
        class_routing=make_routing(name, **{**settings, **of_classes}),
        stem=dict(stem),
        norm=dict(norm),
        cells=tuple(settings_of_layers(cells, SETTINGS_OF_CELLS, "model.cells")),
        routed_caps=dict(routed_caps),
        class_caps=class_caps,
        decoder=dict(decoder) if use_decoder else None,
        readout=readout,
        task=task,
        compute=Compute(**compute),
    )
