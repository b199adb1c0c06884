"""Writers that wait together: what they share of the storage's work, and what they do not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from test_pool_answering import in_a_process

from fabrics.fabric import Fabric

pytestmark = [
    pytest.mark.fabric,
    pytest.mark.soft_only("no device takes part in it: once is enough"),
]

#: Stands before the calls that make files durable: notes them, holds them up, has them fail.
STORAGE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum kind { MSYNC, FDATASYNC, BEGINS, FINISHES };
struct call { long kind, begin, length, began, ended; };
struct call calls[1000];
_Atomic long made, now; /* calls; and a clock that ticks with each of their events */
_Atomic long held = 1000; /* calls from this one on stand still */
_Atomic long fails = -1; /* this call does, with EIO, once */
_Atomic long cuts_off = -1, cut_fd; /* during this call the file loses all its pages */
void *address_of_0;

static long
storage(enum kind kind, long begin, long length, long number, long a, long b, long c, long d)
{
	long index = atomic_fetch_add(&made, 1);
	struct call *call = &calls[index];
	*call = (struct call){kind, begin, length, atomic_fetch_add(&now, 1), -1};
	while (index >= atomic_load(&held))
		usleep(500);
	long ret = syscall(number, a, b, c, d);
	if (index == cuts_off && ftruncate(cut_fd, 0))
		abort();
	call->ended = atomic_fetch_add(&now, 1);
	if (index == fails) {
		errno = EIO;
		ret = -1;
	}
	return ret;
}

int
msync(void *address, size_t length, int flags)
{
	long begin = (char *)address - (char *)address_of_0;
	if (!(flags & MS_SYNC)) /* the debug build asks so whether it is mapped */
		return (int)syscall(SYS_msync, address, length, flags);
	return storage(MSYNC, begin, length, SYS_msync, (long)address, length, flags, 0);
}

int
fdatasync(int fd)
{
	return storage(FDATASYNC, 0, 1L << 40, SYS_fdatasync, fd, 0, 0, 0);
}

int
sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
	if (!flags)
		return 0;
	enum kind kind = flags == SYNC_FILE_RANGE_WRITE ? BEGINS : FINISHES;
	return storage(kind, offset, length, SYS_sync_file_range, fd, offset, length, flags);
}

int
fstatfs(int fd, struct statfs *found)
{
	*found = (struct statfs){.f_type = strtol(getenv("FILE_SYSTEM"), NULL, 16)};
	return fd < 0;
}
"""

EXT4, OTHER, NO_FILE = "ef53", "1021994", "0"

PRELUDE = """
import ctypes
PATH, KIND = sys.argv[3], os.environ["FILE_SYSTEM"]
MSYNC, FDATASYNC, BEGINS, FINISHES = range(4)
class Call(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("kind", "begin", "length", "began", "ended")]
storage = ctypes.CDLL(os.environ["STORAGE"])
number = lambda name: ctypes.c_long.in_dll(storage, name)
made, now, held, fails = map(number, ("made", "now", "held", "fails"))
all_calls = (Call * 1000).in_dll(storage, "calls")
calls = lambda: [call for call in all_calls[: made.value]]
flushes = lambda: [call for call in calls() if call.kind in (MSYNC, FDATASYNC)]

def open_durable(stack, size):
    memory = stack.enter_context(allocation.map_file(PATH, size, create=True))
    ctypes.c_void_p.in_dll(storage, "address_of_0").value = memory.address
    fd = os.open(PATH, os.O_RDWR)
    stack.callback(os.close, fd)
    number("cut_fd").value = fd
    durable = Durable(memory.view, None, Persistency.MSYNC, None if KIND == "0" else fd)
    return stack.enter_context(durable)

class Writer(threading.Thread):
    def __init__(self, durable, offset, length):
        super().__init__()
        self.durable, self.begin, self.length, self.error = durable, offset, length, None
        self.came = self.left = -1
        self.start()
    def run(self):
        self.came = now.value
        try:
            self.durable.flush(self.begin, self.length)
        except StorageError as error:
            self.error = error.errno
        self.left = now.value
    def was_flushed(self):
        "Whether all of its range was written, then flushed, by calls that began after it came."
        for flush in flushes():
            if not self.came <= flush.began < flush.ended < self.left:
                continue
            written = [c for c in calls() if c.kind == FINISHES and c.began >= self.came
                       and c.ended <= flush.began] + [flush]
            pages = range(self.begin // PAGE, (self.begin + self.length - 1) // PAGE + 1)
            ranges = [range(c.begin // PAGE, (c.begin + c.length - 1) // PAGE + 1) for c in written]
            if all(any(page in pages for pages in ranges) for page in pages):
                return True
        return False

def wait(until):
    end = time.monotonic() + SOON
    while not until():
        assert time.monotonic() < end, [(c.kind, c.begin, c.began, c.ended) for c in calls()]
        time.sleep(0.002)

def wait_asleep(writers):
    "Until they wait for each other: on a futex that is on their own stacks."
    def is_asleep(writer):
        try:
            call = Path(f"/proc/self/task/{writer.native_id}/syscall").read_text().split()
        except OSError:
            return False
        return len(call) == 9 and 0 < int(call[1], 16) - int(call[7], 16) < 4096
    for writer in writers:
        wait(lambda: is_asleep(writer))

def joined(writers):
    for writer in writers:
        writer.join(SOON)
        assert not writer.is_alive()
"""

#: One flushes, and while it does eight others come.
TOGETHER = """
def together(durable, failing=None):
    held.value = made.value
    first = Writer(durable, 0, 8)
    wait(lambda: made.value)
    others = [Writer(durable, 2 * i * PAGE + 100, 200) for i in range(1, 9)]
    wait_asleep(others)
    assert made.value == 1 and first.left == -1
    if failing is not None:
        fails.value = failing
    held.value = 1000
    joined([first, *others])
    return first, others
"""


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    (folder / "storage.c").write_text(STORAGE)
    library = folder / "storage.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "storage.c"], check=True)
    return library


def run(code: str, fabric: Fabric, path: Path, storage: Path, kind: str) -> None:
    preload = f"{os.environ.get('LD_PRELOAD', '')} {storage}"
    variables = {"LD_PRELOAD": preload, "STORAGE": str(storage), "FILE_SYSTEM": kind}
    code = PRELUDE + TOGETHER + code + "\nprint('good')\n"
    assert in_a_process(code, fabric, str(path), **variables) == "good\n"


KINDS = pytest.mark.parametrize("kind", [EXT4, OTHER, NO_FILE], ids=["ext4", "other", "no file"])


@KINDS
def test_those_who_wait_are_served_by_one_flush_that_begins_after_they_came(
    fabric: Fabric, tmp_path: Path, storage: Path, kind: str
) -> None:
    code = """
with ExitStack() as stack:
    durable = open_durable(stack, 40 * PAGE)
    first, others = together(durable)
    assert len(flushes()) == (9 if KIND == "0" else 2), len(flushes())
    assert all(writer.error is None and writer.was_flushed() for writer in [first, *others])
    assert not others[0].came < flushes()[0].began
    lone = Writer(durable, 5, 10)
    joined([lone])
    assert lone.was_flushed() and calls()[-1].kind == MSYNC and calls()[-1].began == lone.came
"""
    run(code, fabric, tmp_path / "pool", storage, kind)


@KINDS
@pytest.mark.parametrize("failing", ["first", "last"])
def test_an_error_is_for_everyone_whom_the_flush_was_to_serve_and_stays(
    fabric: Fabric, tmp_path: Path, storage: Path, kind: str, failing: str
) -> None:
    call = 1 if failing == "first" else {EXT4: 17, OTHER: 1, NO_FILE: 8}[kind]
    code = f"""
with ExitStack() as stack:
    durable = open_durable(stack, 40 * PAGE)
    first, others = together(durable, {call})
    assert first.error or first.was_flushed()  # it may have looked when the others' had failed
    assert [writer.error for writer in others] == [errno.EIO] * 8
    assert durable.failed == errno.EIO
    before = made.value
    late = Writer(durable, 0, 8)
    joined([late])
    assert late.error == errno.EIO and made.value == before
"""
    run(code, fabric, tmp_path / "pool", storage, kind)


@KINDS
def test_those_who_come_to_a_flush_that_fails_are_not_served_by_a_later_one(
    fabric: Fabric, tmp_path: Path, storage: Path, kind: str
) -> None:
    code = """
with ExitStack() as stack:
    durable = open_durable(stack, 40 * PAGE)
    first, others = together(durable, 0)
    assert [writer.error for writer in [first, *others]] == [errno.EIO] * 9
    assert made.value == 1
"""
    run(code, fabric, tmp_path / "pool", storage, kind)


@KINDS
@pytest.mark.parametrize("writers", [1, 9])
def test_a_failure_that_shows_itself_during_the_flush(
    fabric: Fabric, tmp_path: Path, storage: Path, kind: str, writers: int
) -> None:
    """The flush itself says that all is well."""
    code = f"""
with ExitStack() as stack:
    durable = open_durable(stack, 40 * PAGE)
    number("cuts_off").value = 0 if {writers} == 1 else 1
    if {writers} == 1:
        all_ = [Writer(durable, 0, 8)]
        joined(all_)
    else:
        _, all_ = together(durable)
    assert [writer.error for writer in all_] == [errno.EIO] * len(all_)
    assert durable.failed == errno.EIO
"""
    run(code, fabric, tmp_path / "pool", storage, kind)


def test_a_large_range_does_not_hold_up_small_ones(
    fabric: Fabric, tmp_path: Path, storage: Path
) -> None:
    code = """
with ExitStack() as stack:
    durable = open_durable(stack, 64 << 20)
    held.value = 0
    large = Writer(durable, 3, (64 << 20) - 5)
    wait(lambda: made.value)
    small = Writer(durable, 63 << 20, 8)
    wait_asleep([small])
    held.value = 1000
    joined([small, large])
    assert small.was_flushed() and large.was_flushed()
    served, last = flushes()
    before = [call for call in calls() if call.kind == FINISHES and call.ended < served.began]
    assert sum(call.length for call in before) < 32 << 20
    written = [call for call in calls() if call.kind == FINISHES and call.length > 8]
    assert sum(call.length for call in written) + (last.length if last.length > 8 else 0) \\
        >= (64 << 20) - 5
    assert last.began > max(call.ended for call in written)
"""
    run(code, fabric, tmp_path / "pool", storage, EXT4)


@pytest.mark.parametrize(("kind", "flushes"), [(EXT4, 1), (OTHER, 1), (NO_FILE, 8)])
def test_requests_of_a_client_that_come_together_share_a_flush(
    fabric: Fabric, tmp_path: Path, storage: Path, kind: str, flushes: int
) -> None:
    code = f"""
from test_pool_answering import *
from test_pool_answering import connected
with rpma.Peer.for_address(fabric.address) as peer, ExitStack() as stack:
    shadow = bytearray(SIZE)
    memory = stack.enter_context(allocation.map_file(PATH, SIZE, create=True))
    fd = None if KIND == "0" else stack.enter_context(open(PATH, "rb")).fileno()
    durable = stack.enter_context(Durable(shadow, memory.view, Persistency.MSYNC, fd))
    region = stack.enter_context(peer.register(shadow, EVERYTHING))
    remote = stack.enter_context(rpma.RemoteMemoryRegion(region.descriptor))
    target, client = stack.enter_context(connected(peer, fabric, start=False))
    target.answering.set_pool(1, durable)
    client.write(remote, 0, pattern(SIZE))
    for request in range(8):
        client.ask(request, 2 * request * PAGE, PAGE)
    client.settle(remote)
    target.answering.start()
    assert client.answers(8) == [(request, OK) for request in range(8)]
    assert target.answering.counts == Counts(8, 8, 8 * PAGE, 0, 0)
    made_durable = [call for call in calls() if call.kind in (MSYNC, FDATASYNC)]
    assert len(made_durable) == {flushes}, len(made_durable)
    stored = Path(PATH).read_bytes()
    for page in range(16):
        part = slice(page * PAGE, (page + 1) * PAGE)
        assert stored[part] == (pattern(SIZE)[part] if page % 2 == 0 else bytes(PAGE))
"""
    run(code, fabric, tmp_path / "pool", storage, kind)
