"""constraints.txt: one version of all that development installs, for each Python."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.[0-9]+)"', PYPROJECT)


def pinned(python: str) -> dict[str, str]:
    """What is installed for a Python: one version of each."""
    here = {"python_version": python, "python_full_version": f"{python}.4"}
    versions: dict[str, str] = {}
    for pin in PINS:
        if pin.marker is not None and not pin.marker.evaluate(here):
            continue
        (exactly,) = pin.specifier
        assert exactly.operator == "=="
        assert "*" not in exactly.version
        assert versions.setdefault(canonicalize_name(pin.name), exactly.version) == exactly.version
    return versions


def needs(
    name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]
) -> Iterator[str]:
    """What is installed because of a package, itself included."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            wanted = frozenset(requirement.extras)
            yield from needs(canonicalize_name(requirement.name), wanted, seen)


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_has_pins_for_what_rpma_names(python: str) -> None:
    named = {canonicalize_name(Requirement(text).name) for text in _named()}
    assert len(named) > 15
    assert named - {"rpma"} <= set(pinned(python)), "./run pins"


def test_what_those_need_is_pinned_too() -> None:
    versions = pinned(".".join(map(str, sys.version_info[:2])))
    found = set(needs("rpma", frozenset({"dev"}), set())) - {"rpma"}
    assert len(found) > 30
    assert found <= set(versions), "./run pins"


def _named() -> list[str]:
    """The requirements in pyproject.toml: all, of building and of every extra."""
    build = re.findall(r"^requires = \[(.*)\]$", PYPROJECT, re.MULTILINE)
    extras = importlib.metadata.requires("rpma") or []
    return [*re.findall(r'"([^"]+)"', build[0]), *extras]
