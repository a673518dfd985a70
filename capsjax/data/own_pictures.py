"""Sources of pictures, with settings: folders of classes, a table of paths, sets of the Hub."""

import dataclasses

from capsjax.data.arrays import Arrays


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pictures in folders named after their classes: DIR/CLASS/, or DIR/train/CLASS/ and DIR/test/.

    Without a test part a sixth is set aside for testing by a fixed seed, of every class. Classes
    have the order of their names.

    Attributes:
      image_size: rows and columns that pictures are resized to; empty for their own, which is then
        the same for all of them.
      colour: "grey", "colour", or "auto" for grey if every picture is.
    """

    image_size: tuple[int, ...] = ()
    colour: str = "auto"

    def load(self, part: str, file: str, split: str = "auto") -> Arrays:
        """Load the part "train" or "test".

        Args:
          part: "train" or "test".
          file: the folder.
          split: how a test part is set aside, see `capsjax.data.splits.divide`.

        Raises:
          ValueError: for pictures that are not there or cannot be read, or that do not make classes
            of images of one size; the message names the first.
        """
        from capsjax.data.examples import find_in_folders, load_examples

        return load_examples(find_in_folders(file), part, file, self.image_size, self.colour, split)


@dataclasses.dataclass(frozen=True)
class Table:
    """Pictures listed in a table of comma-separated values: path, label, and part if it is given.

    Otherwise as `Folder`.

    Attributes:
      image_size, colour: as in `Folder`.
    """

    image_size: tuple[int, ...] = ()
    colour: str = "auto"

    def load(self, part: str, file: str, split: str = "auto") -> Arrays:
        """Load the part "train" or "test".

        Args:
          part: "train" or "test".
          file: the table.
          split: as in `Folder.load`.

        Raises:
          ValueError: as `Folder.load`.
        """
        from capsjax.data.examples import find_in_table, load_examples

        return load_examples(find_in_table(file), part, file, self.image_size, self.colour, split)


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """A set of the Hub. Without a test part a sixth of its training part is set aside.

    Attributes:
      image_size: rows and columns that pictures are resized to; empty for their own, which is then
        the same for all of them.
      colour: "grey", "colour", or "auto" for grey if every picture is.
      subset: the configuration of a set that has several.
      revision: the version of the set, a commit or a tag; empty for the newest.
      image_column, label_column: columns of the set; empty for the only one of its kind.
    """

    image_size: tuple[int, ...] = ()
    colour: str = "auto"
    subset: str = ""
    revision: str = ""
    image_column: str = ""
    label_column: str = ""

    def load(self, name: str, part: str, dir: str, file: str, split: str = "auto") -> Arrays:
        """Load the part "train" or "test".

        Args:
          name: "hf:" and the name of the set in the Hub.
          part: "train" or "test".
          dir: where downloads are kept; empty for the default of `datasets`.
          file: a local copy, which is read in place of the Hub; empty for none.
          split: as in `Folder.load`.

        Raises:
          DataError: for a set that is not there, or has no images of classes; the message names the
            remedy.
        """
        from capsjax.data.hugging_face import load_set

        return load_set(self, name, part, dir, file, split)
