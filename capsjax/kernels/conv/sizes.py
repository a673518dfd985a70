"""Sizes of a convolution without padding, and whether an image and a kernel fit."""


def output_size(size: int, kernel: int, stride: int) -> int:
    """Return the rows or columns that a convolution without padding leaves."""
    return (size - kernel) // stride + 1


def check_fits(image: tuple[int, int], kernel: tuple[int, int], what: str) -> None:
    """Raise ValueError if an image is too small for a kernel."""
    if image[0] < kernel[0] or image[1] < kernel[1]:
        raise ValueError(
            f"{what} needs at least {kernel[0]}x{kernel[1]} pixels for its "
            f"{kernel[0]}x{kernel[1]} kernel and gets {image[0]}x{image[1]}: use larger images "
            "or a smaller kernel_size"
        )


def check_channels(images: tuple, kernel: tuple[int, ...], what: str) -> None:
    """Raise ValueError if a kernel (kh, kw, c, ...) is not for the channels of images (n, h, w, c).

    Some forms would broadcast, or multiply by the wrong rows of the kernel. In a program for any
    number of images n is a symbol.
    """
    if images[-1] != kernel[2]:
        raise ValueError(
            f"{what} gets images (n, h, w, c) = {images} and a kernel (kh, kw, c, ...) = {kernel}: "
            f"make the kernel for {images[-1]} channels"
        )
