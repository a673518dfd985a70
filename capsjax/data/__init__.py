"""Data: where images come from. The test part is loaded by a call of its own, at the end."""

from capsjax.data.arrays import Arrays, DataError, split_validation

__all__ = ["Arrays", "DataError", "load_part", "load_training", "split_validation"]


def load_part(name: str, part: str, *, dir: str = "", file: str = "") -> Arrays:
    """The whole training or test part of a data set.

    Args:
      name: "digits", "npz", or an image-classification set of TFDS.
      part: "train" or "test".
      dir: TFDS's directory; empty for $TFDS_DATA_DIR, else TFDS's default.
      file: the .npz file of "npz".

    Raises:
      DataError: if it cannot be had; the message says what to do.
    """
    if part not in ("train", "test"):
        raise ValueError(f"a part is 'train' or 'test', not {part!r}")
    if name == "digits":
        from capsjax.data.digits import load_digits

        return load_digits(part)
    if name == "npz":
        from capsjax.data.npz import load_npz

        return load_npz(file, part)
    from capsjax.data.tfds import load_tfds

    return load_tfds(name, dir, part)


def load_training(
    name: str,
    *,
    dir: str = "",
    file: str = "",
    train_size: int = 0,
    validation_size: int = 0,
    split_seed: int = 0,
) -> tuple[Arrays, Arrays | None]:
    """What a training run may see: the training and validation examples, never the test part.

    Args:
      name, dir, file: as in `load_part`.
      train_size: use only that many training examples, after the split; 0 for all.
      validation_size: examples held out for validation; 0 for none.
      split_seed: of the shuffle that chooses both.

    Returns:
      Training and validation examples; None for an empty validation part.

    Raises:
      DataError: if the set cannot be had or is too small for the sizes.
    """
    train, validation = split_validation(
        load_part(name, "train", dir=dir, file=file),
        validation_size,
        split_seed,
        stratify=name == "digits",
    )
    if train_size > len(train):
        raise DataError(f"data.train_size is {train_size} and only {len(train)} examples are left")
    if 0 < train_size < len(train):
        _, train = split_validation(train, train_size, split_seed)
    return train, validation
