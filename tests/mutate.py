"""Break the code in many small ways, and check that the tests notice each of them.

    python tests/mutate.py
    python tests/mutate.py --only="routing" --jobs=2

tests/mutations.json lists the mutations: a piece of text that a file has exactly once, what takes
its place, and the tests that should fail then. Everything happens in copies of the tracked files,
in temporary folders; the checkout itself is only read. The tests of the mutations must pass in an
unmutated copy first. For each mutation a line says

    caught    the tests failed, as they should (a hang counts for an entry with "may_hang": true)
    MISSED    they passed
    broken    the text is not there exactly once, the mutated file is no Python any more, the tests
              could not be run, or they took longer than TIMEOUT

and, for a caught one, which test failed and why. The exit status is 0 if all are caught, else 1.
"""

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parent.parent
MUTATIONS = Path(__file__).resolve().with_name("mutations.json")
# Seconds that the tests of one mutation may take.
TIMEOUT = 300
# What pytest exits with: all passed, some failed. Others mean that the tests could not be run.
PASSED, FAILED = 0, 1

T = TypeVar("T")


class Mutation(NamedTuple):
    """One wrong edit.

    Attributes:
      name: what it breaks, in words.
      file: path of the file, relative to the root of the checkout.
      before: text that the file has exactly once.
      after: what takes its place.
      tests: arguments of pytest that name the tests which catch it.
      may_hang: whether tests that do not end catch it too.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    may_hang: bool = False


class Verdict(NamedTuple):
    """What became of a mutation.

    Attributes:
      word: "caught", "MISSED" or "broken".
      reason: which test failed, or why it is broken.
    """

    word: str
    reason: str = ""


class Tested(NamedTuple):
    """What pytest said.

    Attributes:
      status: its exit status; None if it took too long.
      reason: its first line of a failed test or an error, or else its last line.
    """

    status: int | None
    reason: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", metavar="SUBSTRING", help="only mutations whose name holds that"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="mutations that are tested at once"
    )
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs is at least 1, not {arguments.jobs}")
    mutations = [each for each in read_mutations(MUTATIONS) if arguments.only in each.name]
    if not mutations:
        parser.error(f"no mutation has {arguments.only!r} in its name")
    sys.exit(0 if run(mutations, arguments.jobs) else 1)


def read_mutations(path: Path) -> list[Mutation]:
    """The mutations of a JSON file.

    Raises:
      ValueError: for an entry without the right fields, or two of one name.
    """
    mutations = [_mutation(fields) for fields in json.loads(path.read_text(encoding="utf-8"))]
    names = [each.name for each in mutations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: several mutations have the names {', '.join(twice)}")
    return mutations


def _mutation(fields: dict[str, Any]) -> Mutation:
    try:
        return Mutation(**{**fields, "tests": tuple(fields["tests"])})
    except (KeyError, TypeError) as error:
        name = fields.get("name", fields)
        raise ValueError(f"the mutation {name!r} has not the right fields: {error}") from None


def run(mutations: Sequence[Mutation], jobs: int) -> bool:
    """Test all mutations, some at once and each in a copy of its own, and say what came out.

    Returns:
      Whether all are caught.
    """
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="capsjax-mutations-") as folder,
        ThreadPoolExecutor(jobs) as executor,
    ):
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            copies.put(copy_checkout(Path(folder) / str(number)))

        def in_a_copy(function: Callable[..., T], *arguments: Any) -> T:
            copy = copies.get()
            try:
                return function(copy, *arguments)
            finally:
                copies.put(copy)

        runs = unmutated_runs(mutations, jobs)
        print(f"testing the code as it is, in {len(runs)} runs", flush=True)
        for tested in executor.map(lambda tests: in_a_copy(run_tests, tests, None), runs):
            if tested.status != PASSED:
                print(f"fails without any mutation: {tested.reason}")
                return False
        caught = 0
        verdicts = executor.map(lambda mutation: in_a_copy(judge, mutation), mutations)
        for mutation, verdict in zip(mutations, verdicts, strict=True):
            caught += verdict.word == "caught"
            print(f"{verdict.word:8}{mutation.name}: {verdict.reason}", flush=True)
    print(f"{time.monotonic() - started:.0f} s")
    print(f"{caught} of {len(mutations)} mutations are caught")
    return caught == len(mutations)


def unmutated_runs(mutations: Sequence[Mutation], count: int) -> list[tuple[str, ...]]:
    """The tests of all mutations, each once, in about `count` runs of pytest.

    Tests of one file share what is made once for all of them, so they stay together. Those that
    are named with an option, such as "-k", have a run of their own.
    """
    by_file: dict[str, list[str]] = {}
    runs = []
    for tests in dict.fromkeys(mutation.tests for mutation in mutations):
        if any(argument.startswith("-") for argument in tests):
            runs.append(tests)
        else:
            for test in tests:
                by_file.setdefault(test.partition("::")[0], []).append(test)
    files = sorted(by_file)
    for part in filter(None, (files[number::count] for number in range(count))):
        runs.append(tuple(dict.fromkeys(test for file in part for test in by_file[file])))
    return runs


def copy_checkout(target: Path) -> Path:
    """Copy the tracked files, as they are now, to a new folder, and return it."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        # A file that was deleted is listed until the deletion is staged.
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


def judge(copy: Path, mutation: Mutation) -> Verdict:
    """Apply a mutation to a copy of the checkout, run its tests, and take it back."""
    path = copy / mutation.file
    if not path.is_file():
        return Verdict("broken", f"there is no file {mutation.file}")
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation.before)
    if count != 1:
        return Verdict("broken", f"{mutation.file} has the text {count} times and not once")
    mutated = text.replace(mutation.before, mutation.after)
    if path.suffix == ".py":
        try:
            compile(mutated, mutation.file, "exec")
        except SyntaxError as error:
            return Verdict("broken", f"the mutated {mutation.file} is no Python: {error}")
    path.write_text(mutated, encoding="utf-8")
    try:
        tested = run_tests(copy, mutation.tests, TIMEOUT)
    finally:
        path.write_text(text, encoding="utf-8")
    if tested.status is None:
        return Verdict("caught" if mutation.may_hang else "broken", tested.reason)
    if tested.status == PASSED:
        return Verdict("MISSED", f"passed: {' '.join(mutation.tests)}")
    if tested.status == FAILED:
        return Verdict("caught", tested.reason)
    return Verdict("broken", f"pytest exited with {tested.status}: {tested.reason}")


def run_tests(copy: Path, tests: Sequence[str], timeout: float | None) -> Tested:
    """Run tests of a copy with the packages and scripts of that copy."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "-n", "0", "--tb=no", "-rfE", "-m", ""]
    environment = {
        "PYTHONPATH": str(copy),
        # A compiled file of before a mutation must not be taken for one of after it.
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "240",  # for the lines that say why a test failed
    }
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return Tested(None, f"timeout: not done in {timeout:g} s")
        finally:
            # Also the processes that the tests have started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Tested(process.returncode, _reason(output))


def _reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return (named or lines[-1:] or ["no output"])[0]


if __name__ == "__main__":
    main()
