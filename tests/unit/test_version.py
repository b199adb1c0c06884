"""check_version() as librpma(7) has it, and what rpma.library says."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from elf_symbols import dynamic_symbols

import rpma


def test_the_version_asked_for_by_programs_is_supported() -> None:
    rpma.check_version(1, 3)
    assert rpma.version_mismatch(1, 3) is None


@pytest.mark.parametrize("minor", range(4))
def test_an_older_minor_version_is_supported(minor: int) -> None:
    rpma.check_version(1, minor)


@pytest.mark.parametrize("major", [0, 2, 4, (1 << 32) - 1])
@pytest.mark.parametrize("minor", [0, 3, 9])
def test_any_other_major_version_is_a_mismatch(major: int, minor: int) -> None:
    with pytest.raises(rpma.VersionError) as caught:
        rpma.check_version(major, minor)
    assert caught.value.reason == str(caught.value) == rpma.version_mismatch(major, minor)
    assert "major version mismatch" in caught.value.reason
    assert str(major) in caught.value.reason


def test_a_newer_minor_version_is_a_mismatch() -> None:
    major, minor = rpma.library.api_version
    assert rpma.version_mismatch(major, minor) is None
    with pytest.raises(RuntimeError, match="minor version mismatch"):
        rpma.check_version(major, minor + 1)


@pytest.mark.parametrize("bad", ["1", 1.0, None, b"1"])
def test_versions_are_ints(bad: object) -> None:
    with pytest.raises(TypeError, match="major must be an int"):
        rpma.check_version(bad, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="minor must be an int"):
        rpma.version_mismatch(1, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1, 1 << 32, 1 << 70])
def test_versions_are_unsigned_ints_of_c(bad: int) -> None:
    with pytest.raises(rpma.InvalidArgumentError, match=f"major={bad} must be from 0"):
        rpma.check_version(bad, 3)
    with pytest.raises(ValueError, match=f"minor={bad} must be from 0"):
        rpma.check_version(1, bad)


def test_a_version_error_keeps_its_reason_when_pickled() -> None:
    with pytest.raises(rpma.VersionError) as caught:
        rpma.check_version(2, 0)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_the_library_is_the_file_that_is_loaded() -> None:
    mapped = {
        line.split(maxsplit=5)[5]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/" in line
    }
    library = rpma.library
    assert {library.path, library.ibverbs_path, library.rdmacm_path} <= mapped


def test_the_library_is_a_debug_build_if_it_exports_what_librpma_7_describes() -> None:
    defined, _ = dynamic_symbols(Path(rpma.library.path))
    extra = {name for name in ("check_version", "errormsg") if f"rpma_{name}" in defined}
    assert rpma.library.features == extra
    assert rpma.library.is_debug == (len(extra) == 2)
    assert rpma.library.api_version >= (1, 3)
