"""The debug build of librpma tells programs their mistakes: each row of docs/validation.md."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from pairs import has_native_flush
from suites import SUITE, of, passes

import rpma
from fabrics.fabric import Fabric
from fabrics.validation import Done, compile_program, folder, parsed, run

#: What an emulated processor has the time for: where a kernel's device and the soft RNIC differ.
OF_DEVICE = (
    *("completions", "connecting", "device", "failures"),
    *("srq", "transfers", "verbs_client"),
)

pytestmark = [pytest.mark.fabric, pytest.mark.timeout(300)]

INVALID, PROVIDER, NOT_SUPPORTED = "RPMA_E_INVAL", "RPMA_E_PROVIDER", "RPMA_E_NOSUPP"
CODES = {INVALID: -100004, PROVIDER: -100002, NOT_SUPPORTED: -100001, "0": 0}
CODES |= {"RPMA_E_SHARED_CHANNEL": -100008, "RPMA_E_NOT_SHARED_CHNL": -100009}
CODES |= {"RPMA_E_NO_EVENT": -100006}


class Assertion(NamedTuple):
    """The program ends."""

    text: str
    level: int = 0


class Error(NamedTuple):
    """The call fails as on the normal library, with a better message."""

    code: str
    text: str


class Warned(NamedTuple):
    """The call is carried out, and the log has a warning. codes: what it may return."""

    text: str
    codes: tuple[str, ...] = ("0",)
    level: int = 1


MISTAKES: dict[str, Assertion | Error | Warned] = {
    # handles
    "null_handle": Error(INVALID, "rpma_conn_disconnect: conn is NULL"),
    "null_result": Error(INVALID, "rpma_peer_cfg_new: pcfg_ptr is NULL"),
    "freed_handle": Assertion("mr is mr_local#1, which has been deregistered"),
    "wrong_kind": Assertion("mr is mr_local#1: not a mr_remote"),
    "wild_handle": Assertion("which is no object of librpma's"),
    "no_handle": Assertion("conn is 0x40, which is no object of librpma's"),
    "handle_with_an_offset": Assertion("which is no object of librpma's"),
    "request_used_up": Assertion("req is conn_req#1, which rpma_conn_req_connect() has used up"),
    "other_peer": Assertion("src, mr_local#3, is of peer#2, not of peer#1"),
    "srq_of_other_peer": Assertion("has srq#1, which is of peer#2, not of peer#1"),
    "deleted_srq": Assertion("cfg, conn_cfg#1, has srq#1, which has been deleted"),
    "wild_srq": Assertion("which is no shared receive queue"),
    "deleted_twice": Assertion("conn_ptr is conn#1, which has been deleted"),
    "peer_in_use": Assertion("peer#1 is deleted while mr_local#1 needs it"),
    "srq_in_use": Assertion("srq#1 is deleted while conn#1 needs it"),
    "region_in_use": Warned("mr_local#1 is in use: by 1 request of conn#1 that has not completed"),
    "leak": Warned("mr_local#1: made by rpma_mr_reg() and never deregistered"),
    # memory
    "local_range": Assertion("8 bytes at offset 16380 are not within src, mr_local#1"),
    "local_overflow": Assertion(f"8 bytes at offset {2**64 - 4} are not within dst, mr_local#1"),
    "remote_range": Assertion("1 bytes at offset 16384 are not within dst, mr_remote#1"),
    "flush_range": Assertion("16385 bytes at offset 0 are not within dst, mr_remote#1"),
    "advise_range": Assertion("16385 bytes at offset 0 are not within mr, mr_local#1"),
    "length_over_32_bits": Assertion("bytes are more than a request carries: its length has 32"),
    "write_source_usage": Warned("src, mr_local#3, is not registered for WRITE_SRC, but for"),
    "read_destination_usage": Assertion("dst, mr_local#3, is not registered for READ_DST, but for"),
    "send_usage": Warned("src, mr_local#3, is not registered for SEND, but for RECV; the device"),
    "receive_usage": Assertion("dst, mr_local#3, is not registered for RECV, but for SEND"),
    "receive_other_usage": Warned("mr_local#3, is not registered for RECV, but for READ_DST|SEND;"),
    "read_destination_other_usage": Warned("mr_local#3, is not registered for READ_DST, but for W"),
    "remote_write_usage": Assertion("dst, mr_remote#2, is not registered for WRITE_DST, but for"),
    "remote_read_usage": Assertion("src, mr_remote#2, is not registered for READ_SRC, but for"),
    "atomic_offset": Error(INVALID, "dst_offset is 4: an atomic write goes to a multiple of 8"),
    "atomic_address": Warned("is not aligned to 8 bytes, and may not be atomic"),
    "unmapped": Assertion("src, mr_local#1, has been unmapped"),
    "source_changed": Assertion(
        "the source of rpma_write(), 8 bytes at offset 0 of mr_local#1, op_context=0x7, was "
        "changed while it was in flight",
        level=4,
    ),
    "unanswered_source_changed": Warned(
        "the source of rpma_send(), 8 bytes at offset 0 of mr_local#1, op_context=0x7, was changed "
        "before a message of the peer's told that it had arrived",
        level=4,
    ),
    "destination_read": Assertion(
        "in the destination of rpma_recv(), 16384 bytes at offset 0 of mr_local#2, which is in "
        "flight",
        level=4,
    ),
    # queues
    "send_queue_full": Warned("more than its send queue's sq_size of 4", (PROVIDER,)),
    "receive_queue_full": Warned("more than its receive queue's rq_size of 4", (PROVIDER,)),
    "shared_queue_full": Warned(
        "5 receives of srq#1 have not completed: more than its receive queue's rq_size of 4",
        (PROVIDER,),
    ),
    "cq_overflow": Warned("the CQ of conn#1 can overflow: 3 requests will complete, and its"),
    "rcq_overflow": Warned("the receive CQ of conn#1 can overflow: 2 receives are posted, and"),
    "never_retired": Warned(
        "the send queue of conn#1 is full of 3 requests with RPMA_F_COMPLETION_ON_ERROR: nothing",
        ("0", PROVIDER),
    ),
    "never_known": Warned("1 more was posted: whether they are carried out will never be known"),
    "never_collected": Warned("1 completions of conn#1 were never collected"),
    # state
    "not_established": Warned("conn, conn#1, is not established", (PROVIDER, "0")),
    "disconnecting": Warned("conn, conn#1, is being disconnected", ("0", PROVIDER)),
    "closed": Warned("conn, conn#1, has ended: rpma_conn_next_event() told RPMA_CONN_CLOSED"),
    "private_data_empty": Error(INVALID, "pdata->len is 0: hand over NULL for no private data"),
    "flush_visibility_not_offered": Error(
        NOT_SUPPORTED, "dst, mr_remote#2, is not registered for RPMA_MR_USAGE_FLUSH_TYPE_VISIBILI"
    ),
    "flush_persistent_not_offered": Error(
        NOT_SUPPORTED, "dst, mr_remote#2, is not registered for RPMA_MR_USAGE_FLUSH_TYPE_PERSISTEN"
    ),
    "flush_without_direct_write": Error(
        NOT_SUPPORTED, "conn#1 has no configuration of the remote peer that says that writes go"
    ),
    "flush_type": Assertion("type is 7, neither RPMA_FLUSH_TYPE_PERSISTENT nor"),
    "wait_on_shared_channel": Error(
        "RPMA_E_SHARED_CHANNEL", "the completion channel is shared by the connection's CQs"
    ),
    "wait_without_shared_channel": Error(
        "RPMA_E_NOT_SHARED_CHNL", "the CQs have a completion channel each: wait with rpma_cq_wait"
    ),
    "shared_channel_with_srq": Error(
        INVALID, "which a connection cannot have with a shared receive queue that has a CQ of its"
    ),
    "receive_beside_srq": Error(
        PROVIDER, "conn#1 receives through srq#1: post to it, with rpma_srq_recv()"
    ),
    "no_flags": Error(INVALID, "flags is 0: RPMA_F_COMPLETION_ALWAYS or RPMA_F_COMPLETION_ON_ERR"),
    "unknown_flags": Warned("flags is 0x2, neither RPMA_F_COMPLETION_ALWAYS nor"),
    "half_a_transfer": Error(INVALID, "one of src and dst is NULL, and the other is not"),
    "usage_zero": Error(INVALID, "usage is 0: say what the region is for, RPMA_MR_USAGE_*"),
    "descriptor_too_short": Error(INVALID, "desc_size is 8: the descriptor of a region has 21"),
    "no_entries": Error(INVALID, "num_entries is 0, less than 1"),
    "negative_timeout": Error(INVALID, "timeout_ms is -1, less than 0"),
    # threads
    "connection_in_two_threads": Assertion("conn, conn#1, is used by two threads at once: thread"),
    "endpoint_in_two_threads": Warned(
        "ep, ep#1, is used by two threads at once: thread", (PROVIDER, "RPMA_E_NO_EVENT")
    ),
    "endpoint_shut_down_in_use": Assertion("ep_ptr, ep#1, is used by two threads at once: thread"),
    "configuration_in_two_threads": Warned(
        "cfg, conn_cfg#1, is changed while another thread makes something of it"
    ),
    "configuration_deleted_in_use": Assertion(
        "cfg_ptr, conn_cfg#1, is used by two threads at once: another thread"
    ),
    "deleted_in_use": Assertion("conn_ptr, conn#1, is used by two threads at once: thread"),
    "deleted_with_cq_in_use": Assertion("is deleted while another thread is in a call with its cq"),
}

#: Where the device decides: not on every fabric.
BY_FABRIC = {
    "private_data_too_long": Error(
        PROVIDER, "pdata->len is 255: on InfiniBand and RoCE private data has at most 56 bytes"
    ),
    "persistent_flush_of_dram": Error(
        PROVIDER, "takes RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT for persistent memory alone: register"
    ),
}

#: Their memory is not for devices that pin it.
SOFT_ONLY = {"length_over_32_bits"}


@pytest.fixture(scope="session")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("mistakes", tmp_path_factory.mktemp("mistakes") / "mistakes")


@pytest.fixture
def make(mistakes: Path, fabric: Fabric) -> Callable[..., Done]:
    """Run the program that makes the mistake."""

    def call(name: str, **options: object) -> Done:
        variables = dict(fabric.variables)
        variables["RPMA_TEST_ADDRESS"] = fabric.address
        variables["RPMA_TEST_PORT"] = fabric.next_port()
        return run(mistakes, name, debug=folder(), variables=variables, **options)  # type: ignore[arg-type]

    return call


def expected(name: str, fabric: Fabric) -> Assertion | Error | Warned:
    if name in SOFT_ONLY and fabric.name != "soft":
        pytest.skip("the device would have to pin the memory")
    if name == "private_data_too_long" and fabric.name == "soft":
        pytest.skip("iWARP carries as much")
    if name == "persistent_flush_of_dram":
        with rpma.Peer.for_address(fabric.address) as peer:
            if not has_native_flush(peer):
                pytest.skip("the device, or librpma, flushes by reading: any memory will do")
    return {**MISTAKES, **BY_FABRIC}[name]


def test_every_mistake_of_the_program_has_a_test(mistakes: Path) -> None:
    listed = subprocess.run([mistakes], capture_output=True, text=True).stdout.split()
    assert sorted(listed) == sorted([*MISTAKES, *BY_FABRIC])


@pytest.mark.parametrize("name", [*MISTAKES, *BY_FABRIC])
def test_a_mistake_is_told(name: str, make: Callable[..., Done], fabric: Fabric) -> None:
    wanted = expected(name, fabric)
    if isinstance(wanted, Assertion):
        done = make(name, level=wanted.level)
        assert done.code == -signal.SIGABRT
        said = done.errors.splitlines()
        assert any("assertion" in line and wanted.text in line for line in said), done.errors
        assert "this thread is in:" in done.errors
        return
    done = make(name, level=wanted.level if isinstance(wanted, Warned) else 1)
    assert done.code == 0, done.errors
    code, _, message = done.output.strip().partition(" ")
    if isinstance(wanted, Error):
        assert int(code) == CODES[wanted.code]
        assert wanted.text in message
        errors = [line["rest"] for line in done.log() if line["kind"] == "error"]
        assert any(message.partition(": ")[2] in line for line in errors), errors
    else:
        assert int(code) in [CODES[one] for one in wanted.codes]
        told = [line for line in done.log() if line["kind"] in ("warning", "leak")]
        assert any(wanted.text in line["rest"] for line in told), done.errors


@pytest.mark.parametrize("name", [k for k, v in MISTAKES.items() if isinstance(v, Assertion)])
def test_a_failed_assertion_returns_an_error_if_it_is_not_to_abort(
    name: str, make: Callable[..., Done], fabric: Fabric
) -> None:
    wanted = expected(name, fabric)
    assert isinstance(wanted, Assertion)
    done = make(name, level=max(1, wanted.level), aborts=False)
    assert done.code == 0, done.errors
    code, _, message = done.output.strip().partition(" ")
    said = [line["rest"] for line in done.log() if line["kind"] == "assertion"]
    assert any(wanted.text in line for line in said)
    if wanted.level < 4:  # what level 4 finds is past the call
        assert int(code) == CODES[INVALID]
        assert wanted.text in message
    else:
        assert int(code) == 0


def test_at_level_0_nothing_but_the_returned_error_and_its_message(
    make: Callable[..., Done],
) -> None:
    done = make("local_range", aborts=False)
    assert (done.code, done.errors) == (0, "")
    assert done.output.startswith(f"{CODES[INVALID]} rpma_write: 8 bytes at offset 16380")


# ---- a program without mistakes ----


@pytest.fixture
def sound(tmp_path: Path, fabric: Fabric) -> Callable[..., Done]:
    program = compile_program("sound", tmp_path / "sound")

    def call(**options: object) -> Done:
        variables = dict(fabric.variables)
        variables["RPMA_TEST_ADDRESS"] = fabric.address
        variables["RPMA_TEST_PORT"] = fabric.next_port()
        return run(program, debug=folder(), variables=variables, **options)  # type: ignore[arg-type]

    return call


@pytest.mark.parametrize("level", [0, 1])
def test_nothing_is_said_of_a_sound_program(level: int, sound: Callable[..., Done]) -> None:
    assert sound(level=level) == Done(0, "", "")


def test_2_a_trace_of_basic_operations_is_logged(sound: Callable[..., Done]) -> None:
    done = sound(level=2)
    assert done.code == 0, done.errors
    calls = [re.split(r"[(]", x["rest"])[0] for x in done.log() if x["kind"] == "call"]
    for name in (
        "ep_listen",
        "conn_req_connect",
        "mr_reg",
        "write",
        "flush",
        "read",
        "send_with_i",
    ):
        assert any(call.startswith(f"rpma_{name}") for call in calls), name
    assert not any(call.startswith(("rpma_cq", "rpma_peer_cfg")) for call in calls)
    assert all(line["level"] == "2" for line in done.log())


def test_3_every_function_is_logged_with_arguments_result_and_duration(
    sound: Callable[..., Done],
) -> None:
    calls = [line["rest"] for line in sound(level=3).log() if line["kind"] == "call"]
    pattern = re.compile(r"rpma_\w+\(.*\) = (0|RPMA_E_NO_COMPLETION) <\d+ ns>")
    assert all(pattern.fullmatch(call) for call in calls)
    writes = [call for call in calls if call.startswith("rpma_write(")]
    assert len(writes) == 1 + 16 * 4
    assert writes[0].startswith(
        "rpma_write(conn=conn#1, dst=mr_remote#1, dst_offset=0, src=mr_local#1, src_offset=0, "
        "len=4096, flags=ON_ERROR, op_context=0x1) = 0 <"
    )


def test_4_descriptors_completions_and_the_occupancy_of_queues_are_logged(
    sound: Callable[..., Done], peer: rpma.Peer
) -> None:
    log = sound(level=4).log()
    rest = {kind: [x["rest"] for x in log if x["kind"] == kind] for kind in ("wc", "queue")}
    assert any("status=SUCCESS opcode=RECV byte_len=8 imm=0x7" in line for line in rest["wc"])
    flush = "FLUSH" if has_native_flush(peer) else "RDMA_READ"
    assert any(f"wr_id=0x3 status=SUCCESS opcode={flush} " in line for line in rest["wc"])
    assert "conn#1 sq=3/10 rq=0/10 cq=1/10" in rest["queue"]
    assert any(x["kind"] == "descriptor" and "mr_local#2 " in x["rest"] for x in log)
    assert any(x["kind"] == "enter" and "rpma_conn_next_event(" in x["rest"] for x in log)


def test_librpmas_own_messages_appear_at_the_fitting_level(sound: Callable[..., Done]) -> None:
    for level, words in ((1, set()), (2, {"NOTICE"}), (3, {"NOTICE", "INFO"})):
        log = sound(level=level).log()
        said = {x["rest"].split()[0] for x in log if x["kind"] == "librpma"}
        assert said <= words, level
        assert (level == 1) == (not said)


def test_the_soft_rnic_is_not_kept_from_memory_that_it_is_writing(
    fabric: Fabric, tmp_path: Path
) -> None:
    """A read into the destination of another one, at the moment that this one's data arrives."""
    if fabric.name != "soft":
        pytest.skip("the memory is not for devices that pin it, which go past what is protected")
    program = compile_program("overlap", tmp_path / "overlap")
    variables = {**fabric.variables, "RPMA_TEST_ADDRESS": fabric.address}
    variables["RPMA_TEST_PORT"] = fabric.next_port()
    done = run(program, debug=folder(), level=4, file=tmp_path / "log", variables=variables)
    assert done == Done(0, "", "")


# ---- Python ----


def python(fabric: Fabric, code: str, **options: object) -> Done:
    """Run Python on the debug build, with a connected pair: made."""
    setup = f"""
import sys
sys.path[:0] = [{str(SUITE)!r}, {str(SUITE.parent)!r}]
import rpma
from rpma.allocation import anonymous
from pairs import pair
from fabrics import {"soft" if fabric.name == "soft" else "native"} as where
fabric = where.find()
peer = rpma.Peer.for_address(fabric.address)
ALWAYS = rpma.CompletionFlags.ALWAYS
"""
    return run(sys.executable, "-c", setup + code, debug=folder(), **options)  # type: ignore[arg-type]


def test_python_knows_the_debug_build(fabric: Fabric) -> None:
    done = python(
        fabric,
        """
assert rpma.library.is_debug, rpma.library
assert rpma.library.api_version == (1, 3)
assert rpma.library.features == {"check_version", "errormsg"}
rpma.check_version(1, 3)
try:
    rpma.check_version(2, 0)
except rpma.VersionError as error:
    print(error)
try:
    rpma.RemoteMemoryRegion(bytes(21))
except rpma.InvalidArgumentError as error:
    print(error)
print(rpma.errormsg())
""",
    )
    assert done.errors == ""
    version, error, message = done.output.splitlines()
    assert version == "librpma major version mismatch: this library has API version 1.3"
    assert message in error


def test_python_is_told_of_leaks_and_of_completions_that_nobody_collects(
    fabric: Fabric, tmp_path: Path
) -> None:
    done = python(
        fabric,
        """
with pair(peer, fabric) as made:
    made.initiator.write(made.remote, 0, made.local, 0, 8, flags=ALWAYS)
    made.initiator.write(made.remote, 0, made.local, 0, 8)
    made.initiator.close()
import os
rpma.RemoteMemoryRegion.__del__ = lambda self: None
left = peer.register(bytearray(64), rpma.Usage.SEND)
sys.stdout.flush()
import ctypes
ctypes.CDLL(None).exit(0)  # without Python's own end, which closes what is left
""",
        level=1,
        file=tmp_path / "log",
    )
    assert done.code == 0, done.errors
    said = [(x["kind"], x["rest"]) for x in parsed((tmp_path / "log").read_text())]
    assert any(kind == "warning" and "1 completions of conn#" in rest for kind, rest in said)
    assert any(kind == "warning" and "1 more was posted" in rest for kind, rest in said)
    assert any(kind == "leak" and "made by rpma_mr_reg()" in rest for kind, rest in said)


def test_python_is_told_that_a_queue_can_overflow(fabric: Fabric, tmp_path: Path) -> None:
    done = python(
        fabric,
        """
with rpma.ConnectionConfig(sq_size=8, cq_size=2) as config:
    with pair(peer, fabric, initiator=config) as made:
        for _ in range(3):
            made.initiator.write(made.remote, 0, made.local, 0, 8, flags=ALWAYS)
        for _ in range(3):
            made.initiator.cq.next_wc(10)
""",
        level=1,
        file=tmp_path / "log",
    )
    assert done.code == 0, done.errors
    assert "the CQ of conn#1 can overflow: 3 requests" in (tmp_path / "log").read_text()


UNMAPPED = """
import ctypes, mmap
memory = mmap.mmap(-1, 8192)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
with pair(peer, fabric) as made, peer.register(memory, rpma.Usage.WRITE_SRC) as local:
    libc = ctypes.CDLL(None)
    assert libc.munmap(ctypes.c_void_p(at), 8192) == 0
    try:
        made.initiator.write_wait(made.remote, 0, local, 0, 8, timeout=10)
    except rpma.InvalidArgumentError as error:
        print(error)
    # so that closing finds what it unmaps
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap(ctypes.c_void_p(at), 8192, 3, 0x32, -1, 0)
"""


def test_python_is_told_of_memory_that_was_unmapped(fabric: Fabric) -> None:
    done = python(fabric, UNMAPPED)
    assert done.code == -signal.SIGABRT
    assert "src, mr_local#3, has been unmapped: 8 bytes at" in done.errors
    done = python(fabric, UNMAPPED, aborts=False)
    assert done.code == 0, done.errors
    assert "src, mr_local#3, has been unmapped: 8 bytes at" in done.output


def test_python_is_told_of_a_source_that_changes_in_flight(fabric: Fabric) -> None:
    code = """
with pair(peer, fabric) as made:
    made.initiator.write(made.remote, 0, made.local, 0, 8, flags=ALWAYS)
    made.own[3] ^= 1
    made.initiator.cq.next_wc(10)
"""
    assert python(fabric, code, level=3).code == 0
    done = python(fabric, code, level=4)
    assert done.code == -signal.SIGABRT
    assert "the source of rpma_write(), 8 bytes at offset 0" in done.errors


def test_python_is_told_of_a_destination_that_is_read_in_flight(fabric: Fabric) -> None:
    code = """
memory = anonymous(16384)
with pair(peer, fabric) as made, peer.register(memory, rpma.Usage.RECV) as local:
    made.initiator.recv(local, 0, 16384)
    print(memory.view[5000])
    made.initiator.disconnect()
"""
    assert python(fabric, code, level=3).code == 0
    done = python(fabric, code, level=4)
    assert done.code == -signal.SIGABRT
    assert "in the destination of rpma_recv(), 16384 bytes at offset 0" in done.errors


def test_threads_of_python_may_share_a_connection_and_its_configuration(fabric: Fabric) -> None:
    """The binding keeps to librpma's rule that one thread uses it at a time."""
    done = python(
        fabric,
        """
import threading
with rpma.ConnectionConfig(sq_size=64, cq_size=128) as config:
    with pair(peer, fabric, initiator=config) as made:
        stop = threading.Event()
        room = threading.Semaphore(60)
        errors = []

        def post(number):
            try:
                while not stop.is_set():
                    if room.acquire(timeout=0.1):
                        made.initiator.write(made.remote, 0, made.local, 0, 8, flags=ALWAYS)
            except BaseException as error:
                errors.append(error)

        def collect():
            try:
                while not stop.is_set():
                    if made.initiator.cq.get_wc():
                        room.release()
            except BaseException as error:
                errors.append(error)

        def configure():
            while not stop.is_set():
                config.sq_size = 64
                config.sq_size

        threads = [threading.Thread(target=post, args=(n,)) for n in range(3)]
        threads += [threading.Thread(target=collect)]
        threads += [threading.Thread(target=configure) for _ in range(2)]
        for thread in threads:
            thread.start()
        stop.wait(2)
        stop.set()
        for thread in threads:
            thread.join()
        assert not errors, errors
""",
    )
    assert (done.code, done.errors) == (0, "")


# ---- the whole suite, over the debug build ----


@pytest.mark.timeout(1800)
def test_the_fabric_suite_passes_over_the_debug_build_with_no_assertion(
    fabric: Fabric, tmp_path: Path
) -> None:
    level = 4 if fabric.name == "soft" else 0  # all, but not where that takes too long
    passes(*of(fabric, OF_DEVICE), debug=folder(), level=level, file=tmp_path / "log-")
    assert (level == 0) == (not any(log.stat().st_size for log in tmp_path.glob("log-*")))


def test_a_crash_of_the_suite_is_told_with_its_test_and_where_the_threads_were(
    tmp_path: Path,
) -> None:
    crashing = tmp_path / "test_crashing.py"
    crashing.write_text(
        "import os, signal, pytest\n"
        "def test_before():\n    pass\n"
        "@pytest.mark.parametrize('name', ['a name'])\n"
        "def test_crashing(name):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def test_after():\n    pass\n"
    )
    with pytest.raises(AssertionError) as raised:
        passes(crashing, debug=folder(), level=0)
    message = str(raised.value)
    assert message.startswith("exit code -11; the last test to begin: "), message
    assert "test_crashing.py::test_crashing[a name]\n" in message.partition("...")[0]
    assert "Fatal Python error: Segmentation fault" in message
    assert "in test_crashing" in message
