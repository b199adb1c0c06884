"""The list of faults that `./run mutate` seeds: each still fits the sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("the list is read with tomllib, of Python 3.11", allow_module_level=True)

from mutation.faults import ROOT, Fault, FaultError, load

#: What has to have faults: the checks that trust rests on.
SOURCES = {
    "native/pool/durable.c",
    "native/pool/responder.c",
    "native/softrnic/memory.c",
    "native/softrnic/receiver.c",
    "native/softrnic/wire.c",
    "native/validation/connection.c",
    "native/validation/memory.c",
    "native/validation/operation.c",
    "native/validation/requests.c",
    "native/validation/wrapper.h",
    "src/rpma/pool/target/header.py",
    "src/rpma/pool/protocol/messages.py",
    "src/rpma/pool/target/session.py",
    "src/rpma/pool/target/store.py",
}


def test_every_fault_changes_one_place_of_its_source() -> None:
    faults = load()
    for fault in faults:
        text = (ROOT / fault.source).read_text()
        assert fault.seeded(text) != text, fault.name
    assert {fault.source for fault in faults} >= SOURCES
    assert sum(fault.is_native for fault in faults) >= 60


def test_the_tests_of_every_fault_exist() -> None:
    for fault in load():
        files = [word.partition("::")[0] for word in fault.tests if word.startswith("tests/")]
        assert files, fault.name
        for file in files:
            assert (ROOT / file).exists(), f"{fault.name}: {file}"


def test_a_fault_that_no_longer_fits_is_told() -> None:
    fault = Fault("wire.c:gone", "native/softrnic/wire.c", "gone", "", ("tests",), "")
    with pytest.raises(FaultError, match=r"0 times in native/softrnic/wire.c"):
        fault.seeded("nothing of the kind")
    with pytest.raises(FaultError, match="2 times"):
        fault.seeded("gone and gone")


def test_the_command_lists_the_faults(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests/mutation", "--list", "wire.c:*"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "wire.c:any-ddp-version (native/softrnic/wire.c)" in done.stdout.splitlines()
