"""The same CapsNet in PyTorch, written in the usual way, against which capsjax is timed.

Nothing in it is slow on purpose: votes and weighted sums are batched matrix products, the capsules
are grouped without a loop, and the rounds before the last keep no graph.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

from capsjax.kernels.conv import output_size


class TorchCapsNet(nn.Module):
    """A network: image -> convolution -> primary capsules -> class capsules -> decoder.

    Args:
      model: `config.model` of the preset "paper" (any sizes).
      image_shape: (h, w, c).
      num_classes: number j of class capsules.
    """

    def __init__(self, model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        height, width, channels = image_shape
        conv, primary = model.conv, model.primary_caps
        self.conv = nn.Conv2d(channels, conv.features, conv.kernel_size, conv.stride)
        self.primary = nn.Conv2d(
            conv.features, primary.types * primary.pose_size, primary.kernel_size, primary.stride
        )
        rows, columns = (
            output_size(
                output_size(size, conv.kernel_size, conv.stride),
                primary.kernel_size,
                primary.stride,
            )
            for size in (height, width)
        )
        self.pose_size = primary.pose_size
        self.num_iterations = model.routing.dynamic.num_iterations
        pose_size = model.class_caps.pose_size
        self.W = nn.Parameter(
            torch.empty(rows * columns * primary.types, num_classes, pose_size, primary.pose_size)
        )
        widths = [num_classes * pose_size, *model.decoder.hidden, math.prod(image_shape)]
        self.decoder = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )
        self._initialise()

    def _initialise(self) -> None:
        """Initialize as the preset "paper"; kernels of nn.Conv2d already start at ±1/√fan_in."""
        nn.init.zeros_(self.conv.bias)
        nn.init.zeros_(self.primary.bias)
        nn.init.trunc_normal_(self.W, std=0.1, a=-0.2, b=0.2)
        for layer in self.decoder:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return class lengths (n, j) and reconstructions (n, c·h·w) of images (n, c, h, w).

        Args:
          images: images in [0, 1].
          labels: the classes to reconstruct; None for the longest capsule of each image.
        """
        features = self.primary(F.relu(self.conv(images)))
        # A capsule is `pose_size` neighbouring channels at one position.
        u = squash(features.permute(0, 2, 3, 1).reshape(len(images), -1, self.pose_size))
        v = route(torch.einsum("nip,ijdp->nijd", u, self.W), self.num_iterations)
        lengths = torch.sqrt(v.square().sum(-1) + 1e-7)
        chosen = lengths.argmax(-1) if labels is None else labels
        x = (v * F.one_hot(chosen, lengths.shape[-1])[..., None]).flatten(1)
        for layer in self.decoder[:-1]:
            x = F.relu(layer(x))
        return lengths, torch.sigmoid(self.decoder[-1](x))


def squash(s: Tensor) -> Tensor:
    """Shrink vectors along the last axis to a length below one."""
    squared = s.square().sum(-1, keepdim=True)
    return squared / (1 + squared) / torch.sqrt(squared + 1e-7) * s


def route(votes: Tensor, num_iterations: int) -> Tensor:
    """Route votes (n, i, j, d) dynamically to class poses (n, j, d).

    The gradient flows only through the last round, as in the preset "paper".
    """
    seen = votes.detach()
    b = torch.zeros(votes.shape[:-1], dtype=votes.dtype, device=votes.device)
    for _ in range(num_iterations - 1):
        v = squash(torch.einsum("nij,nijd->njd", b.softmax(-1), seen))
        b = b + torch.einsum("nijd,njd->nij", seen, v)
    return squash(torch.einsum("nij,nijd->njd", b.softmax(-1), votes))


def loss_of(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    reconstruction_weight: float = 0.0005,
) -> Tensor:
    """Compute margin loss plus weighted squared reconstruction error, the mean over the batch."""
    lengths, reconstruction = network(images, labels)
    present = F.one_hot(labels, lengths.shape[-1])
    margin = present * F.relu(0.9 - lengths).square()
    margin = margin + 0.5 * (1 - present) * F.relu(lengths - 0.1).square()
    error = (reconstruction - images.flatten(1)).square()
    return margin.sum(-1).mean() + reconstruction_weight * error.sum(-1).mean()
