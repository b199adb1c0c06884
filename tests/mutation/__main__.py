"""`python tests/mutation [PATTERN...]`: seed faults, one at a time, and print which survive.

Each fault of `faults/*.toml` takes a check out of the sources, or makes it a wrong one. The tests
that belong to it run on a copy of the tree with the fault in it, and one of them has to fail. The
exit code is 1 where a fault survives without a reason given, or is noticed in spite of one.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "mutation"

from mutation.faults import Fault, FaultError, load
from mutation.tree import NO_TESTS, Outcome, Tree, TreeError

#: Tests that take so much longer than without a fault hang, which is a way to notice it.
PATIENCE = 4.0
#: And at least so long, in seconds.
LEAST_LIMIT = 60.0


@dataclass(frozen=True)
class Verdict:
    """What became of a fault: `is_right` where that is what the list says of it."""

    fault: Fault
    words: str
    is_right: bool
    output: str = ""


class Trees:
    """Copies of the tree, one for each fault that is looked at at a time."""

    def __init__(self, folder: Path, count: int) -> None:
        self._free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        self._limits: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()
        with ThreadPoolExecutor(count) as pool:
            for tree in pool.map(Tree, [folder / str(number) for number in range(count)]):
                self._free.put(tree)

    @contextmanager
    def take(self) -> Iterator[Tree]:
        """One that nobody uses, for a while."""
        tree = self._free.get()
        try:
            yield tree
        finally:
            self._free.put(tree)

    def limit(self, tree: Tree, tests: tuple[str, ...]) -> float:
        """How long the tests may take, as found by running them without a fault.

        Raises:
            TreeError: they do not pass.
        """
        with self._lock:  # once, not at the same time in every copy
            if tests not in self._limits:
                outcome = tree.test(tests, 1800)
                if outcome.code != 0:
                    raise TreeError(f"without a fault, {_what(tests)} fails:\n{outcome.output}")
                self._limits[tests] = max(LEAST_LIMIT, PATIENCE * outcome.seconds)
            return self._limits[tests]


def try_fault(trees: Trees, fault: Fault) -> Verdict:
    """Seed one fault, and say what the tests say."""
    with trees.take() as tree:
        try:
            limit = trees.limit(tree, fault.tests)
            with tree.seeded(fault):
                outcome = tree.test(fault.tests, limit)
        except (FaultError, TreeError) as error:
            return Verdict(fault, "cannot be tried", False, str(error))
    return _judge(fault, outcome)


def _judge(fault: Fault, outcome: Outcome) -> Verdict:
    if outcome.code == 0:
        if fault.survives:
            return Verdict(fault, f"survives: {fault.survives}", True)
        return Verdict(fault, f"SURVIVES {_what(fault.tests)}", False)
    if outcome.code in (2, 3, 4, NO_TESTS):
        return Verdict(fault, "cannot be tried: pytest did not run", False, outcome.output)
    how = "a test hangs" if outcome.code is None else outcome.failed or "pytest fails"
    if fault.survives:
        return Verdict(fault, f"NOTICED, and should survive: {how}", False, outcome.output)
    return Verdict(fault, f"noticed by {how}, in {outcome.seconds:.0f} s", True)


def _what(tests: tuple[str, ...]) -> str:
    return " ".join(tests)


def main() -> int:
    """Parse the command line, try the faults, return the exit code."""
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="such as 'memory.c:*'")
    parser.add_argument("--list", action="store_true", help="only say which faults there are")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="how many faults are tried at a time (default: %(default)s)",
    )
    arguments = parser.parse_args()
    faults = [
        fault
        for fault in load()
        if not arguments.patterns
        or any(fnmatch.fnmatch(fault.name, pattern) for pattern in arguments.patterns)
    ]
    if not faults:
        parser.error("no fault is called so; --list has them all")
    if arguments.list:
        for fault in faults:
            print(fault.name, f"({fault.source})")
        return 0
    wrong = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        trees = Trees(Path(folder), max(1, min(arguments.jobs, len(faults))))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for verdict in pool.map(lambda fault: try_fault(trees, fault), faults):
                print(f"{verdict.fault.name:44} {verdict.words}", flush=True)
                if not verdict.is_right:
                    wrong.append(verdict)
    for verdict in wrong:
        if verdict.output:
            print(f"\n---- {verdict.fault.name}: {verdict.words}\n{verdict.output}")
    excused = sum(bool(fault.survives) for fault in faults)
    print(
        f"\n{len(faults)} faults, {excused} with a reason to survive; "
        f"{len(wrong)} not as they should be{': ' if wrong else ''}"
        f"{', '.join(verdict.fault.name for verdict in wrong)}"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
