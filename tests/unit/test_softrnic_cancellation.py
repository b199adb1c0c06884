"""Where in the soft RNIC a thread can be cancelled: only while it waits, with nothing in hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

from softrnic_programs import OPTIONS, compile_device

#: Of pthreads(7)'s list, and of glibc's, what a device or a connection manager might call.
POINTS = """
    accept accept4 clock_nanosleep close connect creat epoll_pwait epoll_pwait2 epoll_wait
    eventfd_read eventfd_write fclose fdatasync fgets fopen fprintf fputs fread fsync fwrite
    getaddrinfo getifaddrs getrandom nanosleep open open64 openat pause poll ppoll pread preadv
    preadv2 printf pselect pthread_cond_clockwait pthread_cond_timedwait pthread_cond_wait
    pthread_join pwrite pwritev pwritev2 read readv recv recvfrom recvmmsg recvmsg select sem_wait
    send sendmmsg sendmsg sendto sleep syslog system usleep vfprintf wait waitpid write
    writev
"""
#: The waits, and a name server's; without a lock. Of engine.c's roles a cleanup handler takes care.
WAITS = {
    "softrnic-engine": {"epoll_wait", "poll"},
    "softrnic-async": {"read"},
    "cm-events": {"read"},
    "cm-rsocket": {"poll", "select"},
    "cm-address": {"getaddrinfo"},
}


def test_only_waits_are_cancellation_points(tmp_path: Path) -> None:
    points = set(POINTS.split())
    found = {}
    for file in compile_device([*OPTIONS, "-O0"], tmp_path):
        shown = subprocess.run(
            ["nm", "-u", "--format=posix", file], capture_output=True, text=True, check=True
        ).stdout
        names = {line.split()[0].split("@")[0] for line in shown.splitlines()}
        if names & points:
            found[file.stem] = names & points
    # Whose calls they are, with cancellation switched off.
    assert len(found.pop("softrnic-uncancelled")) > 5
    assert found == WAITS
