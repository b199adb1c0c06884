"""The debug build says nothing of programs that do nothing wrong: what librpma's examples do, and
what its multithreaded tests do in threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabrics.fabric import Fabric
from fabrics.validation import Done, compile_program, folder, parsed, run

pytestmark = [
    pytest.mark.fabric,
    pytest.mark.timeout(300),
    pytest.mark.soft_only("on Soft-RoCE one of them, messages, does not end; why is not known yet"),
]


#: tests/validation/examples.c
EXAMPLES = (
    # of librpma's examples: 01 to 07
    *("connection", "read", "read_by_the_server", "write", "flush"),
    *("many_connections", "many_connections_shared_channel", "atomic_write"),
    # 08 to 13
    *("messages", "srq_at_queue", "srq_at_connection", "srq_at_receive_cq"),
    *("general_purpose_flush", "general_purpose_flush_shared_channel"),
    *("send_with_imm", "write_with_imm", "receive_cq", "receive_cq_shared_channel"),
    "srq_of_many",
    # and beyond them
    *("srq_with_a_patient_client", "srq_completions_that_go_with_connections"),
    *(
        "srq_with_written_answers",
        "answered_messages",
        "answer_before_the_event",
        "errors_looked_for_at_the_end",
    ),
)

#: tests/validation/threads.c
THREADS = (
    *("conn_cfg_get", "conn_cfg_set_and_get", "srq_cfg_set_and_get", "peer_cfg_set_and_get"),
    *("own_configurations", "peers", "regions", "shared_receive_queues", "endpoints"),
    *("requests", "accepting", "operations", "peer_cfg_of_many", "told_by_one_connection"),
    "logging",
)

#: How often threads make short calls: at level 4 each has a line in the log, and an emulated
#: machine has one processor.
TIMES = {1: "100000", 4: "300"}
TIMES_EMULATED = "1000"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    target = tmp_path_factory.mktemp("patterns")
    return {name: compile_program(name, target / name) for name in ("examples", "threads")}


def said(fabric: Fabric, level: int, log: Path, *command: str | Path) -> tuple[Done, list[str]]:
    """How the program ended, and what is in the log of what is wrong: level 1 has nothing else."""
    variables = dict(fabric.variables)
    variables["RPMA_TEST_ADDRESS"] = fabric.address
    variables["RPMA_TEST_PORT"] = fabric.next_port()
    file = f"{log}/{level}-"
    done = run(*command, debug=folder(), level=level, file=file, variables=variables)
    logs = [path.read_text() for path in log.glob(f"{level}-*")]
    assert logs
    lines = [line for text in logs for line in parsed(text) if line["level"] == "1"]
    return done, [f"{line['kind']} {line['rest']}" for line in lines]


def levels(fabric: Fabric) -> tuple[int, ...]:
    """Both that look for something of their own; an emulated machine takes too long for one."""
    return (1, 4) if fabric.name == "soft" else (1,)


@pytest.mark.parametrize("program", ["examples", "threads"])
def test_every_pattern_has_a_test(program: str, programs: dict[str, Path]) -> None:
    done = subprocess.run([programs[program]], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(EXAMPLES if program == "examples" else THREADS)


def test_a_program_needs_no_more_than_what_debug_path_prints(
    programs: dict[str, Path], fabric: Fabric
) -> None:
    path = subprocess.run(
        [sys.executable, "-m", "rpma.cli", "debug-path"],
        env=os.environ | {"RPMA_FABRIC": fabric.name if fabric.name == "soft" else "rdma"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    variables = {"LD_LIBRARY_PATH": path, "RPMA_TEST_ADDRESS": fabric.address}
    variables["RPMA_TEST_PORT"] = fabric.next_port()
    done = run(programs["examples"], "read", level=2, variables=variables)
    assert done.code == 0, done.errors
    assert any(line["rest"].startswith("rpma_read(") for line in done.log())


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_is_said_of_what_examples_do(
    name: str, programs: dict[str, Path], fabric: Fabric, tmp_path: Path
) -> None:
    for level in levels(fabric):
        found = said(fabric, level, tmp_path, programs["examples"], name)
        assert found == (Done(0, "", ""), [])


@pytest.mark.parametrize("name", THREADS)
def test_nothing_is_said_of_what_threads_may_do(
    name: str, programs: dict[str, Path], fabric: Fabric, tmp_path: Path
) -> None:
    for level in levels(fabric):
        times = TIMES[level] if fabric.name == "soft" else TIMES_EMULATED
        found = said(fabric, level, tmp_path, programs["threads"], name, times)
        assert found == (Done(0, "", ""), [])
