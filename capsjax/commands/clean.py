"""Delete what was kept to make later starts faster: compiled programs and decoded data sets.

    capsjax clean --dry_run
    capsjax clean
    capsjax clean --shared

All of it is made again when it is needed. --shared also deletes what other programs may use: the
data sets that TFDS has prepared, which are downloaded again, and the programs in
$JAX_COMPILATION_CACHE_DIR. Folders of runs are left alone.
"""

from absl import flags

from capsjax.reports.tables import number
from capsjax.runs.caches import Cache, find_caches

FLAGS = flags.FLAGS

MOST_NAMED = 10


def define_flags() -> None:
    flags.DEFINE_bool("dry_run", False, "List what would be deleted, and its size.")
    flags.DEFINE_bool("shared", False, "Also delete what other programs than capsjax may use.")
    flags.DEFINE_string("data_dir", "", "TFDS's directory, if neither its default nor a variable.")


def main() -> None:
    caches = find_caches(FLAGS.data_dir)
    if not caches:
        print("nothing is kept")
    for cache in caches:
        print(clean(cache, FLAGS.shared, FLAGS.dry_run), flush=True)


def clean(cache: Cache, shared: bool, dry_run: bool) -> str:
    """Delete a cache, unless it is only listed or is shared, and return a line about it."""
    line = f"{number(cache.size() / 1e6, ' MB')} of {cache.content} in {cache.folder}"
    if cache.is_shared and not shared:
        return f"kept: {line} (other programs may use them; --shared deletes them)"
    if dry_run:
        return f"would delete: {line}{_named(cache) if cache.is_shared else ''}"
    cache.remove()
    return f"deleted: {line}"


def _named(cache: Cache) -> str:
    """Name what of a shared folder belongs to the cache, the first MOST_NAMED of it."""
    names = [str(path.relative_to(cache.folder)) for path in cache.paths]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f": {', '.join(names[:MOST_NAMED])}{more}"
