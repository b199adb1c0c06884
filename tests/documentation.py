"""The blocks of code in the pages of documentation, and where each is to be run.

A block says so behind its language, which is `console`, `python` or, for what is no code, `text`:

    ```console on="client"              where: one of PLACES
    ```python title="target.py"         a part of a program; a page's parts of one title are joined
    ```console untested="it needs ..."  why it cannot be run
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PLACES = {
    # what is run by test_documentation.py
    "shell": "a machine without an RDMA device, on which rpma is installed, and what is developed "
    "with it: the programs my_rdma_program (C) and my_app.py. `>>>` is a Python there",
    "target": "the machine with the memory",
    "client": "another, from which db1.example leads there, with a copy of the token's file",
    "examples": "the source tree; ADDRESS and PORT are free",
    "suite": "the source tree; its tests are selected and not run: ./run check does",
    # what is run by test_softroce_guest.py
    "kernel": "a machine whose kernel takes modules, as root: the Soft-RoCE guest",
    "guest": "the source tree, where the Soft-RoCE guest is to be had",
    # what is run by ./run first-hour
    "debian": "a Debian on which nothing is installed, as root (#) and as a user in the tree ($)",
    # what is run by .ci/run
    "ci": "the source tree, on a machine with root and apt",
}

LANGUAGES = ("console", "python", "text")

FENCE = re.compile(r"^ *```(.*)$")
PROMPT = re.compile(r"^([$#]) (.*)$")
LOOSE = re.compile(r"^(?: {4,}|\t)(?:[$#>]|>>>) ")


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    page: str
    line: int
    language: str
    attributes: dict[str, str]
    text: str

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.page}:{self.line}"

    @property
    def place(self) -> str:
        """Where it runs; nothing, if it does not, or is a part of a program."""
        return self.attributes.get("on", "")

    @property
    def fault(self) -> str:
        """Why nobody can tell where it runs; nothing, if all is well."""
        keys = list(self.attributes)
        if not self.language:
            return "it says no language"
        if self.language not in LANGUAGES:
            return f"its language is {self.language!r}"
        if self.language == "text":
            if keys:
                return "text runs nowhere"
            return "it has commands, and is said to be text" if self.commands() else ""
        if not keys:
            return "it does not say where it runs"
        if len(keys) > 1:
            return "it says where it runs in two ways"
        (key, value) = next(iter(self.attributes.items()))
        if key not in ("on", "title", "untested"):
            return f"{key} is no attribute"
        if not value:
            return f"{key} has no value"
        if key == "on" and value not in PLACES:
            return f"there is no place {value!r}"
        if self.language == "console":
            if key == "title":
                return "a console is no program"
            if not self.commands():
                return "no line of it begins with $ or #"
        return ""

    def commands(self) -> list[Command]:
        """The commands of a console, with what they are said to print."""
        found: list[Command] = []
        for line in self.text.splitlines():
            if match := PROMPT.match(line):
                found.append(Command(self.where, *match.groups(), output=[]))
            elif line and found:
                found[-1].output.append(line)
        return found


@dataclass(frozen=True)
class Command:
    """A line that is typed."""

    where: str
    prompt: str
    text: str
    output: list[str]


def pages() -> list[Path]:
    """Every page of the project."""
    folders = ["", "docs", "examples", "benchmarks", "native", "packaging", "src", "tests"]
    found = {
        page
        for folder in folders
        for page in (ROOT / folder).glob("*.md" if not folder else "**/*.md")
    }
    return sorted(found)


def blocks(page: Path | None = None) -> list[Block]:
    """The blocks of a page, or of all, in their order."""
    return [block for each in ([page] if page else pages()) for block in _blocks(each)]


def loose_commands(page: Path) -> list[str]:
    """Commands that stand in a page without a fence, where nothing would run them."""
    name, inside, found = _name(page), False, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside and LOOSE.match(line):
            found.append(f"{name}:{number}: {line.strip()}")
    return found


def _blocks(page: Path) -> Iterator[Block]:
    info, start, lines = "", 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        match = FENCE.match(line)
        if match and not start:
            info, start, lines = match[1], number, []
        elif match:
            language, *words = shlex.split(info) or [""]
            attributes = dict(word.partition("=")[::2] for word in words)
            text = "\n".join(lines) + "\n"
            yield Block(_name(page), start, language, attributes, text)
            start = 0
        elif start:
            lines.append(line)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def wait_for_port(port: str) -> None:
    """Wait until somebody listens on a TCP port, without a connection that he would notice."""
    deadline = time.monotonic() + 60
    while f":{int(port):04X}" not in _listening():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.05)


def _listening() -> set[str]:
    """The ports of sockets that listen, as the kernel writes them."""
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    lines = [
        line.split()
        for table in tables
        if table.exists()
        for line in table.read_text().splitlines()[1:]
    ]
    return {line[1][line[1].index(":") :] for line in lines if line[3] == "0A"}


if __name__ == "__main__":
    wait_for_port(sys.argv[1])
