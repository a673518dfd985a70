"""Networks without capsules, for comparison: convolutions, pooling, dense layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from capsjax.initializers import make_initializer
from capsjax.layers import Conv, Dropout, Pool
from capsjax.models.images import check_images
from capsjax.models.output import Output
from capsjax.windows import make_grid


class Rates(NamedTuple):
    """Dropout rates of a `ConvNet`.

    Attributes:
      pool: rate after each pooling.
      dense: rate after each dense layer.
    """

    pool: float
    dense: Sequence[float]


class ConvNet(nn.Module):
    """A network of convolutions, with poolings between them, and dense layers.

    Image -> Conv, ReLU, and after some of them batch norm, Pool, dropout -> flatten -> dense
    layers, each with ReLU and dropout -> scores.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number k of scores.
      conv: settings of the convolutions: `features`, the channels of each; `padded`, whether each
        is padded; the others, shared by all, as in `Conv`.
      pool: `after`, the numbers of the convolutions (1 is the first) that a pooling follows; the
        others as in `Pool`.
      batch_norm: `momentum` of its running means and variances, and `epsilon`.
      dense: `features`, the width of each dense layer; `kernel_init` and `bias_init`, for
        the scores too.
      dropout: settings of `Rates`.
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.

    Raises:
      ValueError: at the first call, for settings that do not fit together, or an image that is
        too small for the kernels.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    conv: Mapping[str, Any]
    pool: Mapping[str, Any]
    batch_norm: Mapping[str, Any]
    dense: Mapping[str, Any]
    dropout: Mapping[str, Any]
    batch_axis: str | None = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n *label"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> Output:
        """Classify.

        Args:
          images: in [0, 1].
          labels: not used; there is no decoder.
          keys: dropout keys, one for each image, as in training, where batch norm takes the mean
            and variance of the batch. None, as in testing, drops nothing and takes the running
            mean and variance.
        """
        check_images(images, self.image_shape)
        rates = Rates(**self.dropout)
        self._check_settings(rates)
        x = images
        for index, convolution in enumerate(self._convolutions()):
            x = nn.relu(Conv(**convolution, name=f"conv_{index}")(x))
            if self._is_pooled(index):
                x = self._normalise(x, training=keys is not None, name=f"norm_{index}")
                x = Dropout(rates.pool, index)(Pool(**self._pooling())(x), keys)
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.dense["features"]):
            x = nn.relu(_dense(x, width, name=f"dense_{index}", **self.dense))
            number = len(self.conv["features"]) + index
            x = Dropout(rates.dense[index], number)(x, keys)
        return Output(_dense(x, self.num_classes, name="scores", **self.dense))

    def decode(self, poses: Array, mask: Array) -> Array:
        """Raise an error: there is no decoder.

        Raises:
          ValueError: always.
        """
        raise ValueError("this is a network without capsules and a decoder")

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: form of each convolution, and dtype."""
        forms, (h, w, c) = {}, self.image_shape
        for index, convolution in enumerate(self._convolutions()):
            kernel, features = convolution["kernel_size"], convolution["features"]
            border = kernel - 1 if convolution["padded"] else 0
            image = (batch_size, h + border, w + border, c)
            forms[f"conv_{index}"] = convolution["compute"].form_of(
                image, (kernel, kernel, c, features), 1
            )
            h, w, c = image[1] - kernel + 1, image[2] - kernel + 1, features
            if self._is_pooled(index):
                grid = make_grid((h, w), self._pooling()["window"], None, self.pool["padding"])
                h, w = grid.rows.count, grid.columns.count
        return {**forms, "dtype": self.conv["compute"].chosen_dtype}

    def _check_settings(self, rates: Rates) -> None:
        if len(self.conv["padded"]) != len(self.conv["features"]):
            raise ValueError(
                f"model.conv.padded has a value for each of the {len(self.conv['features'])} "
                f"convolutions of model.conv.features, not {len(self.conv['padded'])}"
            )
        if len(rates.dense) != len(self.dense["features"]):
            raise ValueError(
                f"model.dropout.dense has a rate for each of the {len(self.dense['features'])} "
                f"dense layers of model.dense.features, not {len(rates.dense)}"
            )
        allowed = set(range(1, len(self.conv["features"]) + 1))
        if not allowed >= set(self.pool["after"]):
            raise ValueError(
                f"model.pool.after has numbers of convolutions, 1 to {max(allowed, default=0)}, "
                f"not {tuple(self.pool['after'])}"
            )

    def _convolutions(self) -> Iterator[dict[str, Any]]:
        """Yield the settings of each convolution, as `Conv` takes them."""
        shapes = zip(self.conv["features"], self.conv["padded"], strict=True)
        for index, (features, padded) in enumerate(shapes):
            compute = self.conv["compute"].of_layer(f"conv_{index}")
            shape = {"features": features, "padded": bool(padded)}
            yield {**self.conv, **shape, "compute": compute}

    def _is_pooled(self, index: int) -> bool:
        return index + 1 in self.pool["after"]

    def _pooling(self) -> dict[str, Any]:
        return {name: value for name, value in self.pool.items() if name != "after"}

    def _normalise(self, x: Array, training: bool, name: str) -> Array:
        return nn.BatchNorm(
            use_running_average=not training,
            axis_name=self.batch_axis if training else None,
            name=name,
            **self.batch_norm,
        )(x)


def _dense(
    x: Array, width: int, *, name: str, kernel_init: str, bias_init: str, features: Sequence[int]
) -> Array:
    del features  # the widths of all layers, this one included
    return nn.Dense(
        width,
        kernel_init=make_initializer(kernel_init),
        bias_init=make_initializer(bias_init, fan_in=x.shape[-1]),
        name=name,
    )(x)
