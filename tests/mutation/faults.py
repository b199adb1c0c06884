"""The list of faults: what each changes in which file, and the tests that are to notice it.

It is kept in `faults/*.toml`, a file for each source:

    source = "native/softrnic/wire.c"
    tests = ["tests/unit/test_softrnic_wire.py"]  # pytest's arguments

    [[fault]]
    name = "crc-is-not-compared"
    find = '''...'''  # once in the source
    replace = '''...'''
    tests = [...]  # instead of those above
    survives = "..."  # why no test can notice it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tomllib

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = Path(__file__).resolve().parent / "faults"


class FaultError(ValueError):
    """A fault that cannot be seeded: its text is not once in its source, say."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: unique, "memory.c:bounds" for instance.
        source: the file that is changed, relative to the tree.
        find: what is there.
        replace: what it is changed to.
        tests: pytest's arguments.
        survives: why it is not noticed; "": it has to be.
    """

    name: str
    source: str
    find: str
    replace: str
    tests: tuple[str, ...]
    survives: str

    @property
    def is_native(self) -> bool:
        """Whether it is in C, and has to be compiled."""
        return self.source.startswith("native/")

    def seeded(self, text: str) -> str:
        """The text of its source, with the fault in it.

        Raises:
            FaultError: what it changes is not there, or more than once.
        """
        count = text.count(self.find)
        if count != 1:
            raise FaultError(
                f"{self.name}: what it changes is {count} times in {self.source}, and should be "
                "there once: the source has changed, and the fault has to follow it"
            )
        if self.replace == self.find:
            raise FaultError(f"{self.name}: it changes nothing")
        return text.replace(self.find, self.replace)


def load(folder: Path = FOLDER) -> list[Fault]:
    """All faults, in the order of the files' names."""
    faults: list[Fault] = []
    for file in sorted(folder.glob("*.toml")):
        content = tomllib.loads(file.read_text())
        for entry in content["fault"]:
            faults.append(
                Fault(
                    name=f"{file.stem}:{entry['name']}",
                    source=content["source"],
                    find=entry["find"],
                    replace=entry["replace"],
                    tests=tuple(entry.get("tests", content["tests"])),
                    survives=entry.get("survives", ""),
                )
            )
    names = [fault.name for fault in faults]
    for name in names:
        if names.count(name) > 1:
            raise FaultError(f"two faults are called {name}")
    return faults
