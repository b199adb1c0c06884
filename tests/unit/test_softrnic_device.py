"""The soft RNIC's device, in C programs over verbs and rdma_cm, under the sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from softrnic_programs import SOURCES, TESTS, run

pytestmark = pytest.mark.timeout(300)

PROGRAMS = [
    "device_test",
    "device_errors_test",
    "device_lifetime_test",
    "device_processes_test",
    "device_counters_test",
    "device_ending_test",
    "device_crc_test",
    "device_refusals_test",
    "device_cancel_test",
    "device_verbs_test",
    "device_touches_test",
]


@pytest.mark.parametrize(
    ("program", "variables"),
    [
        *((program, {}) for program in PROGRAMS),
        *((program, {"SOFTRNIC_CRC": "1"}) for program in [*PROGRAMS[:2], "device_touches_test"]),
        # All counters wrap on the way.
        *((program, {"DEVICE_TEST_POSITIONS": "-30"}) for program in PROGRAMS[:1]),
    ],
)
def test_the_device_does_as_verbs_say_and_meets_no_error_of_memory_or_threads(
    program: str,
    variables: dict[str, str],
    instrumented: tuple[list[str], list[Path]],
    tmp_path: Path,
) -> None:
    options, device = instrumented
    test = tmp_path / program
    run("gcc", *options, f"-I{SOURCES}", TESTS / f"{program}.c", *device, "-o", test)
    run(test, **variables)


def test_a_host_that_falls_silent_is_noticed(
    instrumented: tuple[list[str], list[Path]], tmp_path: Path
) -> None:
    options, device = instrumented
    test = tmp_path / "device_silence_test"
    run("gcc", *options, TESTS / "device_silence_test.c", *device, "-o", test)
    said = run(test, SOFTRNIC_SILENCE_MS="2000")
    if said.startswith("no network"):
        pytest.skip(said.strip())
