"""Sources of a user's own pictures, with settings: folders of classes, and a table of paths."""

import dataclasses

from capsjax.data.arrays import Arrays


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pictures in folders named after their classes: DIR/CLASS/, or DIR/train/CLASS/ and DIR/test/.

    Without a test part a sixth is set aside for testing by a fixed seed. Classes have the order of
    their names.

    Attributes:
      image_size: rows and columns that pictures are resized to; empty for their own, which is then
        the same for all of them.
      colour: "grey", "colour", or "auto" for grey if every picture is.
    """

    image_size: tuple[int, ...] = ()
    colour: str = "auto"

    def load(self, part: str, file: str) -> Arrays:
        """Load the part "train" or "test".

        Args:
          part: "train" or "test".
          file: the folder.

        Raises:
          ValueError: for pictures that are not there or cannot be read, or that do not make classes
            of images of one size; the message names the first.
        """
        from capsjax.data.examples import find_in_folders, load_examples

        return load_examples(find_in_folders(file), part, file, self.image_size, self.colour)


@dataclasses.dataclass(frozen=True)
class Table:
    """Pictures listed in a table of comma-separated values: path, label, and part if it is given.

    Otherwise as `Folder`.

    Attributes:
      image_size, colour: as in `Folder`.
    """

    image_size: tuple[int, ...] = ()
    colour: str = "auto"

    def load(self, part: str, file: str) -> Arrays:
        """Load the part "train" or "test".

        Args:
          part: "train" or "test".
          file: the table.

        Raises:
          ValueError: as `Folder.load`.
        """
        from capsjax.data.examples import find_in_table, load_examples

        return load_examples(find_in_table(file), part, file, self.image_size, self.colour)
