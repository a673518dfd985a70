"""Sizes of a convolution without padding."""


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
