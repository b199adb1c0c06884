"""`./run first-hour [--check] [RELEASE...]`: README on a Debian on which nothing is installed.

A root of each release is made by debootstrap (minbase: no Python, no compiler, no sudo), kept in
.run/first-hour, and copied for each of these, in which a new user follows the page to the letter:

    install   the commands of "Install it"
    lacking   pip, before anything that a build needs is there: it names what is to be installed
    run       the commands of "See it work": ./run demo, and with --check ./run check

It needs root and a mirror of Debian. What this process has in its environment for apt and pip to
reach the network by (proxies, an index, a bundle of certificates) is handed on.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from documentation import ROOT, Block, blocks

RELEASES = ("bookworm", "trixie")
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
FOLDER = ROOT / ".run" / "first-hour"
USER = "somebody"

#: How long a command may take, in seconds: ./run check is the longest, in a guest without KVM.
LIMIT = 2 * 60 * 60

NETWORK = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

#: In namespaces of its own, so that nothing is left mounted or running.
ENTER = """
mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" && mount --rbind /dev "$1/dev" || exit
root=$1 user=$2 home=$3
shift 3
exec chroot --userspec="$user:$user" "$root" env -i HOME="$home" "$@" bash
"""


class FirstHourError(Exception):
    """Something did not go as the page says."""


class Shell:
    """A shell of somebody in a root, which remembers what was typed."""

    def __init__(self, root: Path, user: str, folder: str) -> None:
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "DEBIAN_FRONTEND": "noninteractive",
        } | {name: os.environ[name] for name in NETWORK if name in os.environ}
        if (root / "opt/certificates.crt").exists():
            environment |= dict.fromkeys(CERTIFICATES, "/opt/certificates.crt")
        self._prompt = "#" if user == "root" else "$"
        self._process = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation"),
                *("private", "sh", "-c", ENTER, "sh", root, user, home),
                *(f"{name}={value}" for name, value in environment.items()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.type(f"cd {folder}")

    def type(self, command: str, code: int | None = 0) -> str:
        """Type a command; what it printed.

        Raises:
            FirstHourError: it did not end with this code; None: with any but 0.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(f"    {self._prompt} {command}", flush=True)
        began = time.monotonic()
        overdue = threading.Timer(LIMIT, self._process.kill)
        overdue.start()
        try:
            self._process.stdin.write(f"{{ {command}\n}} < /dev/null\nprintf '\\n@@@ %s\\n' $?\n")
            self._process.stdin.flush()
            lines = []
            for line in self._process.stdout:
                if line.startswith("@@@ "):
                    break
                lines.append(line)
            else:
                raise FirstHourError(f"the shell ended:\n{''.join(lines)}")
        finally:
            overdue.cancel()
        ended, output = int(line.split()[1]), "".join(lines)
        if (ended == 0) if code is None else (ended != code):
            raise FirstHourError(f"{command}\nended with {ended}:\n{output}")
        if (took := time.monotonic() - began) > 5:
            print(f"      ({took:.0f} s)", flush=True)
        return output

    def close(self) -> None:
        """Leave."""
        self._process.kill()
        self._process.communicate()


# ---- roots ---------------------------------------------------------------------------------------


def base(release: str) -> Path:
    """A root with what is essential to Debian, and nothing else."""
    root = FOLDER / release
    if not root.exists():
        print(f"making {root}", flush=True)
        new = FOLDER / f"{release}.new"
        shutil.rmtree(new, ignore_errors=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", release, new, MIRROR]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise FirstHourError(done.stdout)
        new.rename(root)
    return root


@contextmanager
def machine(release: str, name: str) -> Iterator[Path]:
    """A copy of it, with a user who has the source tree, and a way to the network."""
    root = FOLDER / f"{release}-{name}"
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", base(release), root], check=True)
    try:
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        for variable in CERTIFICATES:
            if os.environ.get(variable):
                shutil.copy(os.environ[variable], root / "opt/certificates.crt")
        # A user says yes.
        (root / "etc/apt/apt.conf.d/90yes").write_text('APT::Get::Assume-Yes "true";\n')
        subprocess.run(["chroot", root, "useradd", "-m", USER], check=True)
        tree = root / "home" / USER / "tree"
        for file in _sources():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, tree / file)
        subprocess.run(["chroot", root, "chown", "-R", f"{USER}:", f"/home/{USER}"], check=True)
        yield root
    finally:
        shutil.rmtree(root)


def _sources() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@contextmanager
def shells(root: Path) -> Iterator[dict[str, Shell]]:
    """Those of root and of the user, by their prompts."""
    tree = f"/home/{USER}/tree"
    found = {"#": Shell(root, "root", tree), "$": Shell(root, USER, tree)}
    try:
        for program in ("python3", "pip", "gcc", "sudo"):
            found["$"].type(f"command -v {program}", None)
        yield found
    finally:
        for shell in found.values():
            shell.close()


def on(place: str) -> list[Block]:
    """The blocks of all pages for a place."""
    found = [block for block in blocks() if block.place == place]
    if not found:
        raise FirstHourError(f"no page has a block that says on={place!r}")
    return found


# ---- what a new user does ------------------------------------------------------------------------


def install(root: Path, _check: bool) -> None:
    """Follow "Install it"."""
    with shells(root) as by:
        for block in on("debian"):
            for command in block.commands():
                by[command.prompt].type(command.text)


def lacking(root: Path, _check: bool) -> None:
    """Let pip build without what it needs, install what it names, and build again."""
    with shells(root) as by:
        by["#"].type("apt-get update")
        by["#"].type("apt-get install python3-venv")
        by["$"].type("python3 -m venv ~/rpma")
        said = by["$"].type("~/rpma/bin/pip install .", None)
        lacks = "pkg-config, libibverbs, librdmacm, a C compiler"
        if f"this machine lacks: {lacks}. As root," not in said:
            raise FirstHourError(f"pip should have named {lacks}:\n{said}")
        (command,) = re.findall(r"on Debian and Ubuntu:\s*(apt-get install .*)", said)
        without, _, headers = command.partition(" python3-dev")
        by["#"].type(without + headers)
        said = by["$"].type("~/rpma/bin/pip install .", None)
        if "this machine lacks: Python.h. As root," not in said:
            raise FirstHourError(f"pip should have named Python.h:\n{said}")
        by["#"].type(command)
        by["$"].type("~/rpma/bin/pip install .")
        by["$"].type("~/rpma/bin/python -c 'import rpma; print(rpma.library)'")


def run(root: Path, check: bool) -> None:
    """Follow "See it work", as root, for whom it installs what is missing."""
    with shells(root) as by:
        said = by["$"].type("./run demo", None)
        if "to be installed first, as root: apt-get install" not in said:
            raise FirstHourError(f"./run should have said what root is to do:\n{said}")
        for block in on("ci"):
            for command in block.commands():
                if check or "./run check" not in command.text:
                    by["#"].type(command.text)


SCENES: dict[str, Callable[[Path, bool], None]] = {
    "install": install,
    "lacking": lacking,
    "run": run,
}


def main() -> int:
    """Do it all; 0, if all went as the page says."""
    parser = argparse.ArgumentParser(prog="./run first-hour", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="./run check as well: an hour, each")
    parser.add_argument("--only", choices=SCENES, help="one of them")
    parser.add_argument("releases", nargs="*", default=RELEASES, help="bookworm, trixie")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it needs root, to make a root of its own")
    failures = 0
    scenes = [arguments.only] if arguments.only else list(SCENES)
    for release in arguments.releases:
        for name in scenes:
            print(f"{release}: {name}", flush=True)
            try:
                with machine(release, name) as root:
                    SCENES[name](root, arguments.check)
            except FirstHourError as failed:
                failures += 1
                print(f"FAILED: {failed}", flush=True)
    print(f"{len(scenes) * len(arguments.releases) - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
