"""rpma's own librpma does what the system's does: the same tests over both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rpma
from fabrics.fabric import Fabric
from rpma._library import VARIABLE

pytestmark = pytest.mark.fabric

SUITE = Path(__file__).parent
#: What an emulated processor has the time for: where a kernel's device and the soft RNIC differ.
OBJECTS = [
    SUITE / f"test_{name}.py" for name in ("completions", "srq", "transfers", "verbs_client")
]
#: Programs that know nothing of rpma, and what chooses a librpma itself.
WITHOUT = [
    f"--ignore={SUITE / f'test_{name}.py'}"
    for name in ("programs", "validation", "validation_patterns")
]


@pytest.mark.timeout(1800)
def test_the_fabric_suite_passes_over_rpmas_own_librpma(fabric: Fabric) -> None:
    if rpma.library.is_bundled:
        pytest.skip("this run is over it already")
    is_soft = fabric.name == "soft"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"),
            f"--fabric={'soft' if is_soft else 'native'}",
            *([SUITE, *WITHOUT, f"--ignore={__file__}"] if is_soft else OBJECTS),
        ],
        env=os.environ | {VARIABLE: "bundled"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1700,
    )
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-6000:]
    assert "rpma's own librpma" in done.stdout  # what the run says of itself at its end
