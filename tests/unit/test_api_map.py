"""All of librpma is reached: by the extension, by a Python name, and by docs/api-map.md."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from elf_symbols import dynamic_symbols

import rpma
from rpma import _librpma
from rpma._native import lib

MAP = Path(__file__).parents[2] / "docs" / "api-map.md"

#: Only a debug build of librpma exports these (librpma(7)).
OF_DEBUG_BUILDS = {"rpma_check_version", "rpma_errormsg"}


def rows() -> dict[str, list[str]]:
    """The Python names by C name."""
    found: dict[str, list[str]] = {}
    for line in MAP.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            assert cells[0].strip("`") not in found, f"{cells[0]} has two rows"
            found[cells[0].strip("`")] = re.findall(r"`([^`]+)`", cells[1])
    return found


def resolve(name: str) -> object:
    first, *rest = name.split(".")
    assert first == "rpma", name
    thing: object = rpma
    for part in rest:
        if inspect.isclass(thing):
            inspect.getattr_static(thing, part)
        thing = getattr(thing, part)
    return thing


def exported() -> set[str]:
    defined, _ = dynamic_symbols(Path(rpma.library.path))
    return {name for name in defined if name.startswith("rpma_")}


#: The headers that programs may be compiled with: the system's, and that of rpma's own librpma.
HEADERS = {"system": "<librpma.h>", "own": f'"{MAP.parents[1] / "native/librpma/librpma.h"}"'}
OF_OWN_HEADER = {"RPMA_MAJOR_VERSION", "RPMA_MINOR_VERSION"} | OF_DEBUG_BUILDS


@pytest.fixture(scope="module", params=HEADERS.values(), ids=HEADERS)
def header(request: pytest.FixtureRequest) -> str:
    """What a header itself says, macros included, without comments."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to read <librpma.h> with")
    done = subprocess.run(
        [compiler, "-E", "-dD", "-x", "c", "-"],
        input=f"#include {request.param}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{request.param} is not installed, or what it includes: {done.stderr}")
    lines, is_its_own = [], False
    for line in done.stdout.splitlines():
        if marker := re.match(r'# \d+ "([^"]*)"', line):
            is_its_own = Path(marker[1]).name == "librpma.h"
        elif is_its_own:
            lines.append(line)
    return "\n".join(lines)


def test_the_map_lists_all_of_the_header(header: str) -> None:
    listed = set(rows())
    constants = set(re.findall(r"\bRPMA_\w+", header))
    assert {"RPMA_E_INVAL", "RPMA_CONN_CLOSED", "RPMA_W_WAIT_FOR_COMPLETION"} <= constants
    functions = set(re.findall(r"\b(rpma_\w+)\s*\(", header)) - {"rpma_log_function"}
    assert len(functions) >= 76
    types = set(re.findall(r"\b(?:struct|enum) rpma_\w+", header))
    assert {"struct rpma_peer", "enum rpma_conn_event"} <= types
    assert not (constants | functions | types) - listed


def test_the_map_lists_nothing_that_the_header_does_not_have(header: str) -> None:
    names = {name for name in rows() if re.search(r"rpma_|RPMA_", name)}
    assert {name for name in names if name not in header} <= OF_OWN_HEADER


def test_every_exported_symbol_has_a_python_name() -> None:
    symbols = exported()
    assert len(symbols) >= 76
    table = rows()
    assert not symbols - set(table), "librpma.so.0 exports what docs/api-map.md does not list"
    assert all(table[name] for name in symbols)


def test_the_map_lists_no_function_that_librpma_does_not_have() -> None:
    listed = {name for name in rows() if re.fullmatch(r"rpma_\w+", name)}
    assert listed - exported() - OF_DEBUG_BUILDS == {"rpma_log_function"}  # a type


def test_the_extension_calls_every_exported_symbol() -> None:
    _, undefined = dynamic_symbols(Path(_librpma.__file__))
    assert exported() | OF_DEBUG_BUILDS <= undefined


@pytest.mark.parametrize("name", sorted({name for names in rows().values() for name in names}))
def test_the_python_name_exists(name: str) -> None:
    assert resolve(name) is not None


@pytest.mark.parametrize("name", sorted(name for name in rows() if name.startswith("RPMA_")))
def test_a_constant_has_the_value_of_its_python_name(name: str) -> None:
    if name in OF_OWN_HEADER:
        assert rpma.library.api_version[0] == 1  # of the header, not of what is loaded
        return
    if not hasattr(lib, name):
        assert name == "RPMA_LOG_USE_DEFAULT_FUNCTION"  # a pointer: None in Python
        return
    if name == "RPMA_W_WAIT_FOR_COMPLETION":
        assert not rows()[name]  # librpma has no use for it either
        return
    (python,) = rows()[name]
    thing = resolve(python)
    if isinstance(thing, int):
        assert thing == getattr(lib, name)
    elif name == "RPMA_LOG_THRESHOLD_MAX":
        assert len(rpma.log.Threshold) == lib.RPMA_LOG_THRESHOLD_MAX
    else:
        assert thing is rpma.Device  # the side of an address: an argument in Python


def test_every_constant_of_librpma_is_listed() -> None:
    constants = {name for name in dir(lib) if name.startswith("RPMA_")}
    assert constants <= set(rows())


def test_all_public_names_exist() -> None:
    assert len(set(rpma.__all__)) == len(rpma.__all__)
    for name in rpma.__all__:
        assert hasattr(rpma, name), name
