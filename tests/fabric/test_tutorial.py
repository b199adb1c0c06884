"""The programs of docs/tutorial.md, run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fabric

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r'^```python title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
LIMIT = 120


def _programs(fabric, folder: Path) -> dict[str, Path]:
    """The blocks of each title, one after another, on this machine's device and a free port."""
    sources: dict[str, str] = {}
    for title, source in BLOCK.findall(TUTORIAL.read_text()):
        sources[title] = sources.get(title, "") + source + "\n"
    port, other_port = str(fabric.next_port()), str(fabric.next_port())
    programs = {}
    for title, source in sources.items():
        for shown, real in (("127.0.0.1", fabric.address), ("7204", port), ("7205", other_port)):
            source = source.replace(shown, real)
        programs[title] = folder / title
        programs[title].write_text(source)
    return programs


def test_the_initiator_writes_into_the_target_and_reads_it_back(fabric, tmp_path: Path) -> None:
    programs = _programs(fabric, tmp_path)
    with subprocess.Popen(
        [sys.executable, programs["target.py"]], stdout=subprocess.PIPE, text=True
    ) as target:
        try:
            assert target.stdout is not None
            assert target.stdout.readline() == "listening\n"
            initiator = subprocess.run(
                [sys.executable, programs["initiator.py"]],
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
            assert initiator.returncode == 0, initiator.stderr
            assert target.wait(LIMIT) == 0
            assert "the memory begins with b'hello, remote'" in target.stdout.read()
        finally:
            target.kill()
    # What the tutorial says that the program prints.
    (shown,) = re.findall(r"^```text\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    assert shown in initiator.stdout
    assert "the target offers 1048576 bytes" in initiator.stdout


def test_messages_go_there_and_back(fabric, tmp_path: Path) -> None:
    programs = _programs(fabric, tmp_path)
    done = subprocess.run(
        [sys.executable, programs["messages.py"]], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    assert "received b'ping'" in done.stdout
