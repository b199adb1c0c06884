"""Forks processes of the rpma command, as `nursery SOCKET rpma ARGUMENT...` asks it to.

In an emulated machine a command takes ten seconds to import what it needs. Here that has been done
once, and nothing else: no device was opened. What a process does from its main function on is what
it does when it is started.
"""

from __future__ import annotations

import array
import atexit
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import traceback
from typing import NoReturn

_NUMBER = struct.Struct("=i")


def _receive(connection: socket.socket) -> tuple[list[bytes], list[int]]:
    """The texts and the three files that were handed over."""
    files = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * files.itemsize))
    for _, _, raw in ancillary:
        files.frombytes(raw)
    (length,) = struct.unpack_from("=I", data)
    while len(data) < 4 + length:
        data += connection.recv(1 << 20)
    return data[4:].split(b"\0")[:-1], list(files)


def _become(texts: list[bytes], files: list[int]) -> NoReturn:
    """In the child: the process that was asked for, to its end."""
    code = 1
    try:
        for fd, file in enumerate(files):
            os.dup2(file, fd)
            os.close(file)
        limit, folder, count, *rest = texts
        if int(limit) >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        os.chdir(folder)
        sys.argv = [os.fsdecode(text) for text in rest[: int(count)]]
        os.environb.clear()
        os.environb.update(text.split(b"=", 1) for text in rest[int(count) :])
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        encoding = os.environ.get("PYTHONIOENCODING")
        sys.stdin = os.fdopen(0, "r", encoding=encoding, closefd=False)
        sys.stdout = os.fdopen(1, "w", buffering=1, encoding=encoding, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding=encoding, closefd=False)
        code = _run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _run() -> int:
    """What the interpreter does around a main function."""
    import rpma_command

    code = 0
    try:
        rpma_command.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def main(address: str) -> None:
    import rpma.cli.app
    import rpma.cli.bench_measure
    import rpma.cli.metrics
    import rpma.cli.pool_facts
    import rpma.cli.transfer
    import rpma.pool.target.target

    del rpma
    children: dict[int, tuple[socket.socket, int]] = {}  # by pidfd
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        selector.register(listening, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj not in selector.get_map():
                    continue  # it went with one before it
                if key.fd == 0:
                    return  # whoever wanted it has gone
                if key.fileobj is listening:
                    connection, _ = listening.accept()
                    texts, files = _receive(connection)
                    pid = os.fork()
                    if pid == 0:
                        selector.close()
                        listening.close()
                        connection.close()
                        for other, _ in children.values():
                            other.close()
                        _become(texts, files)
                    for file in files:
                        os.close(file)
                    connection.sendall(_NUMBER.pack(pid))
                    pidfd = os.pidfd_open(pid)
                    children[pidfd] = connection, pid
                    selector.register(pidfd, selectors.EVENT_READ)
                    selector.register(connection, selectors.EVENT_READ, pid)
                elif key.data is not None:  # the one who stands for it was killed
                    selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    connection, pid = children.pop(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    if connection in selector.get_map():
                        selector.unregister(connection)
                        connection.sendall(_NUMBER.pack(code))
                    connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
