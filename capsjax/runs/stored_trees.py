"""The form in which trees are stored: named tuples as dicts, as Orbax has them, no empty fields.

So a checkpoint that was written before a field was added can be read by programs that do not use
that field. (Orbax treats an empty dict in only one of two trees as a difference.)
"""

from collections.abc import Mapping
from typing import Any

import jax


def to_stored(tree: Any) -> Any:
    """Return a tree as it is stored."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if not isinstance(tree, Mapping):
        return tree
    return {name: to_stored(each) for name, each in tree.items() if jax.tree.leaves(each)}


def from_stored(like: Any, stored: Any) -> Any:
    """Undo `to_stored` for a tree like the first."""
    if hasattr(like, "_asdict"):
        return type(like)(**from_stored(like._asdict(), stored))
    if not isinstance(like, Mapping):
        return stored
    return {
        name: from_stored(each, stored[name]) if name in stored else each
        for name, each in like.items()
    }
