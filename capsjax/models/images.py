"""The check that every model makes of its images."""

from jaxtyping import Array


def check_images(images: Array, image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError for images (n, h, w, c) of another shape than the network's."""
    if images.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"images of shape {images.shape[1:]} for a network of {tuple(image_shape)}"
        )
