"""rpma's own librpma does what the system's does: the same tests over both."""

from __future__ import annotations

import pytest
from suites import of, passes

import rpma
from fabrics.fabric import Fabric
from rpma._library import VARIABLE

pytestmark = pytest.mark.fabric

#: What an emulated processor has the time for: where a kernel's device and the soft RNIC differ.
OF_DEVICE = ("completions", "srq", "transfers", "verbs_client")


@pytest.mark.timeout(1800)
def test_the_fabric_suite_passes_over_rpmas_own_librpma(fabric: Fabric) -> None:
    if rpma.library.is_bundled:
        pytest.skip("this run is over it already")
    printed = passes(*of(fabric, OF_DEVICE), variables={VARIABLE: "bundled"})
    assert "rpma's own librpma" in printed  # what the run says of itself at its end
