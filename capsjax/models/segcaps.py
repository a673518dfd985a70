"""SegCaps: convolutional and deconvolutional capsules for maps of labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import border_of_transposed
from capsjax.layers import Conv, LocalConvCaps, LocalDeconvCaps, PixelDecoder
from capsjax.layers.readout import make_readout, name_of_readout
from capsjax.models.decoding import check_decoder
from capsjax.models.images import check_images
from capsjax.models.maps import check_map_task, with_background
from capsjax.models.output import Output
from capsjax.models.sections import settings_of_layers
from capsjax.notation import Capsules
from capsjax.ops import mask_poses
from capsjax.registry import look_up, settings_in
from capsjax.routing import ROUTING, Routing, make_routing, with_settings
from capsjax.tasks import Segmentation, Task
from capsjax.windows import make_grid

ROUTED = ("all", "resized")


class SegCaps(nn.Module):
    """The network of LaLonde and Bagci, for images of any size.

    Image -> Conv, ReLU, read as one capsule at each pixel -> LocalConvCaps, each of a stride above
    1 with fewer pixels -> LocalDeconvCaps, each back to the size before such a layer, whose
    capsules are added as further types, and LocalConvCaps over both, in turn -> one capsule of each
    class but the background at each pixel. A decoder makes the foreground of the image from the
    capsules of the labelled pixels.

    Scores are the lengths of the capsules, and that of the background 1 - the largest.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number of classes with the background, which is 0.
      routing: a routing algorithm (see `capsjax.routing`).
      routed: which layers take all its rounds, the others one: "all" but the first, or those that
        are "resized".
      conv: settings of `Conv`.
      down_caps, up_caps, merge_caps: settings of each layer on the way down, of each that goes up,
        and of each after it but the last, in order.
      class_caps: settings of the layer of the classes.
      decoder: settings of `PixelDecoder`, or None for a network without one.
      readout: what makes the scores, see `capsjax.layers.readout.make_readout`.
      task: what labels mean.
      batch_axis: device axis that a batch is divided over, a field of every model; not used, as
        nothing here depends on the batch.

    Raises:
      ValueError: at the first call, for layers that do not fit together.

    Source: LaLonde and Bagci 2018, figure 2, and their released code.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    routing: Routing
    routed: str
    conv: Mapping[str, Any]
    down_caps: Sequence[Mapping[str, Any]]
    up_caps: Sequence[Mapping[str, Any]]
    merge_caps: Sequence[Mapping[str, Any]]
    class_caps: Mapping[str, Any]
    decoder: Mapping[str, Any] | None
    readout: str = "auto"
    task: Task = Segmentation()
    batch_axis: str | None = None

    def setup(self):
        self._check_layers()
        once, resized = _one_round(self.routing), self.routing
        same = self.routing if self.routed == "all" else once
        self.conv_layer = Conv(**self.conv)
        self.down_layers = [
            LocalConvCaps(
                routing=once if index == 0 else resized if settings["stride"] > 1 else same,
                **settings,
                name=f"down_{index}",
            )
            for index, settings in enumerate(self.down_caps)
        ]
        self.up_layers = [
            LocalDeconvCaps(routing=resized, **settings, name=f"up_{index}")
            for index, settings in enumerate(self.up_caps)
        ]
        self.merge_layers = [
            LocalConvCaps(routing=same, **settings, name=f"merge_{index}")
            for index, settings in enumerate(self.merge_caps)
        ]
        self.class_layer = LocalConvCaps(self.num_classes - 1, routing=same, **self.class_caps)
        self.readout_layer = make_readout(self.readout, self.routing)
        if self.decoder is not None:
            self.decoder_layer = PixelDecoder(self.image_shape[-1], **self.decoder)

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n h w"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> Output:
        """Score each pixel, and reconstruct the foreground.

        Args:
          images: in [0, 1].
          labels: the pixels of which classes to reconstruct, as in training; None reconstructs
            those that are predicted.
          keys: not used; nothing here is random.
        """
        check_images(images, self.image_shape)
        features = nn.relu(self.conv_layer(images))
        capsules = Capsules(features[..., None, :], jnp.ones((*features.shape[:-1], 1)))
        larger = []
        for layer in self.down_layers:
            if layer.stride > 1:
                larger.append(capsules)
            capsules, _ = layer(capsules)
        for up, merge in zip(self.up_layers, [*self.merge_layers, self.class_layer], strict=True):
            above, _ = up(capsules)
            capsules, _ = merge(_join_types(above, larger.pop()))
        scores = with_background(self.readout_layer(capsules))
        if self.decoder is None:
            return Output(scores, capsules.poses)
        shown = self.task.predictions(scores) if labels is None else labels
        mask = self.task.targets(shown, self.num_classes)
        return Output(scores, capsules.poses, self.decode(capsules.poses, mask))

    def decode(
        self, poses: Float[Array, "n h w j d"], mask: Float[Array, "n h w k"]
    ) -> Float[Array, "n h w c"]:
        """Decode class poses, all but those that the mask selects set to zero.

        Args:
          poses: of all classes but the background.
          mask: 1 for the class of a pixel; that of the background selects nothing.

        Raises:
          ValueError: if the network has no decoder.
        """
        check_decoder(self.decoder)
        masked = mask_poses(poses, mask[..., 1:])
        return self.decoder_layer(masked.reshape(*masked.shape[:3], -1))

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: form of each convolution, votes and dtype."""
        forms = {
            name: settings["compute"].form_of(image, kernel, stride)
            for name, settings, image, kernel, stride in self._convolutions(batch_size)
        }
        compute = self.class_caps["compute"]
        votes = "held" if compute.votes == "held" else "recomputed"
        return {**forms, "votes": votes, "dtype": compute.chosen_dtype}

    def _check_layers(self) -> None:
        check_map_task(self.task, self.num_classes, "segcaps")
        look_up(dict.fromkeys(ROUTED), self.routed, "choice of routed layers (model.routed)")
        self._check_readout()
        strides = [layer["stride"] for layer in self.down_caps if layer["stride"] > 1]
        back = [layer["stride"] for layer in reversed(self.up_caps)]
        if strides != back or len(self.merge_caps) != len(back) - 1:
            raise ValueError(
                "model.up_caps goes back what model.down_caps goes down, with a layer of "
                f"model.merge_caps after each but the last: the strides are {strides} and, "
                f"backwards, {back}, with {len(self.merge_caps)} layers between"
            )
        sizes = [self.conv["features"], *(layer["pose_size"] for layer in self.down_caps)]
        larger = [sizes[k] for k, layer in enumerate(self.down_caps) if layer["stride"] > 1]
        for pose_size, layer in zip(reversed(larger), self.up_caps, strict=True):
            if layer["pose_size"] != pose_size:
                raise ValueError(
                    f"capsules of {layer['pose_size']} dimensions (model.up_caps.pose_size) join "
                    f"those of {pose_size} of the same size on the way down: they are equal"
                )

    def _check_readout(self) -> None:
        """Check that scores are from 0 to 1, so that the background has the rest."""
        if getattr(self.routing, "readout", "") == "linear":
            raise ValueError(
                f"{type(self.routing).__name__} makes poses of one length and no activations, and "
                "the scores of segcaps are one of the two: use another algorithm "
                "(model.routing.name)"
            )
        name = name_of_readout(self.readout, self.routing)
        if name not in ("activation", "length"):
            raise ValueError(
                "the scores of segcaps are from 0 to 1: model.readout is 'length', 'activation' or "
                f"'auto', not {self.readout!r}"
            )

    def _convolutions(self, batch_size: int) -> Iterator[tuple[str, Mapping, tuple, tuple, int]]:
        """Yield name, settings, padded images, kernel and stride of each convolution, in order."""
        (h, w, c), larger = self.image_shape, []
        conv, size = self.conv, self.conv["kernel_size"]
        image, kernel = (batch_size, h + size - 1, w + size - 1, c), (size, size, c)
        yield "conv", conv, image, (*kernel, conv["features"]), 1
        types, pose_size = 1, conv["features"]
        down = [(f"down_{index}", layer) for index, layer in enumerate(self.down_caps)]
        classes = {**self.class_caps, "types": self.num_classes - 1}
        merge = [(f"merge_{index}", layer) for index, layer in enumerate(self.merge_caps)]
        up = [(f"up_{index}", layer) for index, layer in enumerate(self.up_caps)]
        pairs = zip(up, [*merge, ("class_caps", classes)], strict=True)
        for name, layer in [*down, *(each for pair in pairs for each in pair)]:
            size, stride = layer["kernel_size"], layer.get("stride", 1)
            features = layer["types"] * layer["pose_size"]
            if name.startswith("up_"):
                before, after = border_of_transposed(size, stride)
                image = (batch_size * types, h + before + after, w + before + after, pose_size)
                kernel = (before + 1, before + 1, pose_size, stride**2 * features)
                yield name, layer, image, kernel, 1
                h, w, more = larger.pop()
            else:
                if stride > 1:
                    larger.append((h, w, types))
                grid = make_grid((h, w), (size, size), (stride, stride), "SAME")
                rows, columns = (axis.size + axis.before + max(axis.after, 0) for axis in grid)
                image = (batch_size * types, rows, columns, pose_size)
                yield name, layer, image, (size, size, pose_size, features), stride
                h, w, more = grid.rows.count, grid.columns.count, 0
            types, pose_size = layer["types"] + more, layer["pose_size"]


def _join_types(grown: Capsules, skipped: Capsules) -> Capsules:
    """Join the types of two layers; where a size was odd, one row or column less is left."""
    h, w = skipped.poses.shape[1:3]
    cut = Capsules(*(x[:, :h, :w] for x in grown))
    return Capsules(
        jnp.concatenate([cut.poses, skipped.poses], axis=3),
        jnp.concatenate([cut.activations, skipped.activations], axis=3),
    )


def _one_round(routing: Routing) -> Routing:
    """Return the algorithm with one round; as it is, if it has no rounds."""
    if not hasattr(routing, "num_iterations"):
        return routing
    return with_settings(routing, num_iterations=1)


def make_segcaps(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    conv: Mapping[str, Any],
    capsules: Mapping[str, Any],
    down_caps: Mapping[str, Any],
    up_caps: Mapping[str, Any],
    merge_caps: Mapping[str, Any],
    class_caps: Mapping[str, Any],
    routing: Mapping[str, Any],
    routed: str,
    readout: str,
    decoder: Mapping[str, Any],
    use_decoder: bool,
    compute: Mapping[str, Any],
    task: Task,
) -> SegCaps:
    """Make a `SegCaps` from the sub-dicts of a config.

    The settings `capsules` are those of all capsule layers.
    """
    how = Compute(**compute)

    def layers(section: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:
        known = LocalConvCaps.__dataclass_fields__
        settings = settings_of_layers(section, known, f"model.{name}_caps")
        return tuple(
            {**each, **capsules, "compute": how.of_layer(f"{name}_{index}")}
            for index, each in enumerate(settings)
        )

    return SegCaps(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        routing=make_routing(routing["name"], **settings_in(routing, ROUTING)),
        routed=routed,
        conv={**conv, "padded": True, "compute": how.of_layer("conv")},
        down_caps=layers(down_caps, "down"),
        up_caps=layers(up_caps, "up"),
        merge_caps=layers(merge_caps, "merge"),
        class_caps={**class_caps, **capsules, "compute": how.of_layer("class_caps")},
        decoder=dict(decoder) if use_decoder else None,
        readout=readout,
        task=task,
    )
