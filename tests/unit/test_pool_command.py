"""The commands about pools, as far as they need no target: what they take, refuse and say."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import typer

import rpma
from rpma.cli import output, systemd, tokens, transfer
from rpma.cli.bench import sizes_of
from rpma.cli.bench_measure import histogram, percentile
from rpma.cli.serve import OneLine, ports_of
from rpma.pool import AuthenticationError, TargetAddress

COMMAND = Path(sysconfig.get_path("scripts")) / "rpma"

#: Nothing listens on it: it is the kernel's to refuse.
NOWHERE = "127.0.0.1:1"

EACH = {
    "create": [f"{NOWHERE}/pool", "4096"],
    "list": [NOWHERE],
    "info": [f"{NOWHERE}/pool"],
    "put": [__file__, f"{NOWHERE}/pool"],
    "get": [f"{NOWHERE}/pool", "-"],
    "resize": [f"{NOWHERE}/pool", "4096"],
    "remove": [f"{NOWHERE}/pool"],
    "bench": [NOWHERE],
}


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "RPMA_TOKEN_FILE"}
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        env=inherited | {"COLUMNS": "200"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def secret(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


# ---- token files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "token", "users"),
    [
        ("secret\n", b"secret", {}),
        ("secret", b"secret", {}),
        ("\n  # words\n\n  secret  \r\n\n", b"secret", {}),
        ("alice:a\nbob: b\n", None, {"alice": b"a", "bob": b"b"}),
        ("alice:a:b:c\n", None, {"alice": b"a:b:c"}),
        (":with:colons\n", b"with:colons", {}),
        ("common\nalice:a\n", b"common", {"alice": b"a"}),
        ("geheim-\N{LATIN SMALL LETTER U WITH DIAERESIS}", "geheim-ü".encode(), {}),
    ],
)
def test_token_file(text: str, token: bytes | None, users: dict[str, bytes]) -> None:
    found = tokens.parse(text, "FILE")
    assert (found.token, found.users) == (token, users)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "token file FILE has no token in it"),
        ("# only words\n\n", "token file FILE has no token in it"),
        ("alice:\n", "line 1: no token follows 'alice:'"),
        (":\n", "line 1: no token follows ':'"),
        ("one\n# words\ntwo\n", "line 3: a second token without a user; write user:token"),
        ("alice:a\nalice:b\n", "line 2: a second token of user 'alice'"),
        ("a" * 65 + ":b\n", "line 1: no user has a name of 65 characters"),
    ],
)
def test_token_file_that_is_none(text: str, words: str) -> None:
    with pytest.raises(AuthenticationError, match=re.escape(words)):
        tokens.parse(text, "FILE")


OWNER, ROOT = 1000, 0


@pytest.mark.parametrize(
    ("owner", "mode", "bits"),
    [
        (OWNER, 0o400, []),
        (OWNER, 0o700, []),
        (ROOT, 0o440, []),  # as Kubernetes mounts secrets
        (ROOT, 0o640, []),
        (OWNER, 0o640, ["g+r"]),
        (OWNER, 0o644, ["g+r", "o+r"]),
        (ROOT, 0o644, ["o+r"]),
        (ROOT, 0o444, ["o+r"]),
        (ROOT, 0o604, ["o+r"]),
        (ROOT, 0o660, ["g+w"]),
        (ROOT, 0o610, ["g+x"]),
        (ROOT, 0o601, ["o+x"]),
        (ROOT, 0o622, ["g+w", "o+w"]),
    ],
)
def test_who_may_open_a_token_file(owner: int, mode: int, bits: list[str]) -> None:
    status = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 2000, 6, 0, 0, 0))
    if not bits:
        tokens.check_mode(Path("FILE"), status)
        return
    with pytest.raises(AuthenticationError) as caught:
        tokens.check_mode(Path("FILE"), status)
    words = str(caught.value)
    assert words.startswith(f"token file FILE has mode {mode:04o}: ")
    assert re.findall(r"\((.\+.)\)", words) == bits
    assert f"chmod {','.join(bits).replace('+', '-')} FILE" in words


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to root")
def test_a_secret_as_kubernetes_mounts_it_is_read(tmp_path: Path) -> None:
    file = secret(tmp_path / "token", "secret", 0o440)
    os.chown(file, 0, 2000)
    assert tokens.read(file).token == b"secret"


def test_a_token_is_made(tmp_path: Path) -> None:
    printed = [command("token").stdout for _ in range(2)]
    assert printed[0] != printed[1]
    for line in printed:
        found = tokens.parse(line, "FILE").token
        assert found is not None
        assert len(found) >= 43
    assert set(tokens.parse(command("token", "--user", "alice").stdout, "FILE").users) == {"alice"}
    file = tmp_path / "token"
    done = command("token", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = tokens.read(file)
    done = command("token", file)
    assert done.returncode == 1
    assert done.stderr == f"rpma token: {file}: File exists\n"
    assert tokens.read(file) == before


@pytest.mark.parametrize("user", ["", " alice", "a:b", "#alice", "a\nb", "x" * 65])
def test_a_token_for_what_is_no_user(user: str) -> None:
    with pytest.raises(AuthenticationError):
        tokens.new(user)


@pytest.mark.parametrize("token", ["ab", b"ab", "x" * 15])
def test_a_target_warns_of_a_short_token(
    token: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    rpma.Target(dram="1MiB", listen="127.0.0.1:0", token=token)
    rpma.Target(dram="1MiB", listen="127.0.0.1:0", tokens={"alice": token, "bob": "y" * 16})
    assert [record.getMessage() for record in caplog.records] == [
        f"the token{whose} has {len(token)} bytes only, and can be found by trying: use 16 at "
        "least; 'rpma token' makes one"
        for whose in ("", " of 'alice'")
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_target_may_have_as_many_descriptors_as_there_are() -> None:
    code = (
        "import resource as r; from rpma.cli.serve import have_all_descriptors\n"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (100, hard))\n"
        "have_all_descriptors(); assert r.getrlimit(r.RLIMIT_NOFILE) == (hard, hard)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_token_file_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="not text in UTF-8"):
        tokens.read(secret(tmp_path / "token", b"\xff\xfe"))
    with pytest.raises(AuthenticationError, match="too long"):
        tokens.read(secret(tmp_path / "token", b"x" * (tokens.MOST_BYTES + 1)))


def test_whose_token_is_shown() -> None:
    both = tokens.parse("common\nalice:a\n", "FILE")
    assert both.of(TargetAddress.parse("host")) == b"common"
    assert both.of(TargetAddress.parse("alice@host")) == b"a"
    assert both.of(TargetAddress.parse("bob@host")) == b"common"
    users = tokens.parse("alice:a\nbob:b\n", "FILE")
    with pytest.raises(AuthenticationError, match="users: alice, bob; say whose with USER@host"):
        users.of(TargetAddress.parse("host"))
    with pytest.raises(AuthenticationError, match="no token of 'carol', only of: alice, bob"):
        users.of(TargetAddress.parse("carol@host"))


# ---- systemd -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name if kind == "path" else f"\0{name}")
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name if kind == "path" else f"@{name}")
        assert systemd.notify("READY=1", "STATUS=two\nlines")
        assert manager.recv(4096) == b"READY=1\nSTATUS=two lines"


@pytest.mark.parametrize("where", [None, "", "relative", "/nowhere/at/all", "@nobody-is-here"])
def test_notify_without_a_manager(monkeypatch: pytest.MonkeyPatch, where: str | None) -> None:
    if where is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", where)
    assert not systemd.notify("READY=1")


def test_unit_file_serves_as_the_command_does() -> None:
    file = Path(__file__).parents[2] / "packaging" / "rpma.service"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    unit = dict(line.split("=", 1) for line in lines if "=" in line)
    assert (unit["Type"], unit["LimitMEMLOCK"]) == ("notify", "infinity")
    assert unit.get("PrivateDevices", "no") == "no"
    program, subcommand, *arguments = unit["ExecStart"].split()
    assert (program, subcommand) == ("rpma", "serve")
    described = command("serve", "--help").stdout
    for option in (word for word in arguments if word.startswith("--")):
        assert option in described


# ---- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("7300", (7300,)),
        ("7300-7303", (7300, 7301, 7302, 7303)),
        ("7300, 7302-7303,7300", (7300, 7302, 7303)),
        ("1-1", (1,)),
        ("65535", (65535,)),
    ],
)
def test_ports(text: str, ports: tuple[int, ...]) -> None:
    assert ports_of(text) == ports


@pytest.mark.parametrize("text", ["", "0", "7303-7300", "65536", "a", "1-", "-1", "1,,2", "1-2-3"])
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        ports_of(text)


def test_sizes_to_measure() -> None:
    assert sizes_of("8,64,4KiB,64KiB,1MiB") == [8, 64, 4096, 65536, 1 << 20]
    assert sizes_of("1MiB, 8,8") == [8, 1 << 20]
    for text in ("", "0", "8,,9", "2GiB", "eight"):
        with pytest.raises(typer.BadParameter):
            sizes_of(text)


# ---- figures -----------------------------------------------------------------------------------


def test_percentiles() -> None:
    thousand = range(1, 1001)
    assert [percentile(thousand, p) for p in (0, 50, 99, 99.9, 100)] == [1, 500, 990, 999, 1000]
    assert [percentile([7], p) for p in (50, 99.9)] == [7, 7]


@pytest.mark.parametrize(
    "times",
    [[1], [0], [1024], [1000, 1000, 1000], list(range(1, 5000, 7)), [2**n for n in range(40)]],
)
def test_histogram_has_all(times: list[int]) -> None:
    found = histogram(times)
    edges, counts = found["edges_us"], found["counts"]
    assert sum(counts) == len(times)
    assert len(edges) == len(counts) + 1
    assert edges == sorted(edges)
    if times[0]:
        assert edges[0] <= times[0] / 1e3 + 1e-4
        assert edges[-1] + 1e-4 >= times[-1] / 1e3


# ---- the log -----------------------------------------------------------------------------------


def test_an_event_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord(
        "rpma", logging.WARNING, "", 0, "of %r\n\x1b[31m%s", ("a\nb", "red"), error
    )
    line = OneLine().format(record)
    assert line.isprintable()
    assert re.match(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning  of 'a\\nb' | \\x1b\[31mred", line
    )
    assert "ValueError: two | lines" in line


# ---- files -------------------------------------------------------------------------------------


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"before")
    link.symlink_to(file)
    with transfer.sink_of(link) as sink:
        sink.write(b"after")
        assert file.read_bytes() == b"before"
    assert file.read_bytes() == b"after"
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_a_file_stays_if_anything_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")

    def interrupted() -> None:
        with transfer.sink_of(file) as sink:
            sink.write(b"after")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_durable_before_it_is_in_place_and_its_place_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, steps = tmp_path / "file", []
    file.write_bytes(b"old")
    real = os.fsync

    def fsync(fd: int) -> None:
        what = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        steps.append((what, file.read_bytes()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with transfer.sink_of(file) as sink:
        sink.write(b"new")
    assert steps == [("file", b"old"), ("folder", b"new")]


def test_a_device_stays_a_device() -> None:
    with transfer.sink_of(Path(os.devnull)) as sink:
        sink.write(b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o4755])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(mode)
    with transfer.sink_of(file) as sink:
        (beside,) = tmp_path.glob(".rpma-*.part")
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600  # not even for a moment to others
        sink.write(b"new")
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == mode & 0o777


def test_a_new_file_has_the_mode_of_others(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with transfer.sink_of(tmp_path / "file"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_that_is_replaced_keeps_its_attributes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    try:
        os.setxattr(file, "user.rpma", b"1")
    except OSError:
        pytest.skip("the file system has no extended attributes")
    with transfer.sink_of(file):
        pass
    assert os.getxattr(file, "user.rpma") == b"1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    try:
        os.chown(file, 1234, 5678)
    except OSError:
        pytest.skip("there is no such user in this namespace")
    file.chmod(0o640)
    with transfer.sink_of(file):
        pass
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 5678, 0o640)


def test_a_group_that_cannot_be_kept_gets_no_more_than_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _uid: int, _gid: int) -> None:
        raise PermissionError

    file = tmp_path / "file"
    file.touch()
    file.chmod(0o664)
    monkeypatch.setattr(os, "fchown", refuse)
    with transfer.sink_of(file):
        pass
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_file_that_may_not_be_written_is_not_replaced() -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from rpma.cli import transfer\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"  # root may write it all the same
        "with transfer.sink_of(Path(sys.argv[1])): pass\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        file = Path(folder) / "file"
        file.write_text("old")
        file.chmod(0o444)
        done = subprocess.run(
            [sys.executable, "-c", code, file], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert f"PermissionError: [Errno 13] Permission denied: '{file}'" in done.stderr
        assert list(Path(folder).iterdir()) == [file]


def test_other_names_of_a_file_that_is_replaced_keep_what_they_had(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("old")
    other.hardlink_to(file)
    with transfer.sink_of(file) as sink:
        sink.write(b"new")
    assert (file.read_text(), other.read_text()) == ("new", "old")


def test_a_link_to_nothing_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("file")
    with transfer.sink_of(link) as sink:
        sink.write(b"new")
    assert (link.is_symlink(), (tmp_path / "file").read_text()) == (True, "new")


def test_a_name_may_be_as_long_as_names_are(tmp_path: Path) -> None:
    file = tmp_path / ("ü" * 127)
    with transfer.sink_of(file):
        pass
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, transfer.sink_of(tmp_path / "no" / "file"):
        pass
    assert raised.value.filename == str(tmp_path / "no")


def test_names_of_descriptors() -> None:
    descriptor_of = output.descriptor_of
    for name, fd in (
        ("-", 7),
        ("/dev/stdout", 1),
        ("/dev/stdin", 0),
        ("/dev/fd/63", 63),
        ("/proc/self/fd/3", 3),
        (f"/proc/{os.getpid()}/fd/3", 3),
        ("/proc/1/fd/3", None),
        ("/dev/null", None),
        ("3", None),
        ("/nowhere/at/all", None),
    ):
        assert descriptor_of(Path(name), 7) == fd, name


def test_a_redirected_output_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before\n")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rpma.cli import transfer\n"
        "with transfer.sink_of(Path(sys.argv[1])) as sink: sink.write(b'after')\n"
    )
    for name in ("/dev/stdout", "/dev/fd/1", "-"):
        with open(file, "ab") as appended:
            subprocess.run([sys.executable, "-c", code, name], stdout=appended, check=True)
    assert file.read_text() == "before\nafterafterafter"


@pytest.mark.parametrize("file", ["/proc/cpuinfo", "/proc/self/maps", "/proc/sys/kernel/ostype"])
def test_a_size_of_nothing_is_not_believed(file: str) -> None:
    with transfer.source_of(Path(file)) as source:
        data = source.stream.read()
        assert data
        assert source.size == len(data)


def test_a_size_of_a_page_is_not_believed() -> None:
    with transfer.source_of(Path("/sys/class/net/lo/mtu")) as source:
        assert source.size == len(source.stream.read()) < 4096


def test_a_long_file_of_unknown_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of /proc, and longer than what is read to know its size."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * (transfer.SHORT + 2))
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        found = real(fd)
        return os.stat_result((*found[:6], 0, *found[7:])) if stat.S_ISREG(found[0]) else found

    monkeypatch.setattr(os, "fstat", fstat)
    with transfer.source_of(file) as source:
        assert source.size is None
        assert source.stream.read(100) == b"x" * 100


@pytest.mark.parametrize("size", [100, transfer.SHORT + 100])
def test_a_file_that_is_written_to_is_noticed(tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(size))
    with transfer.source_of(file) as source:
        source.check_unchanged()
        os.truncate(file, size + 1)
        if size > transfer.SHORT:
            with pytest.raises(OSError, match="was written to while it was read"):
                source.check_unchanged()
        else:  # it has been read
            source.check_unchanged()
            assert len(source.stream.read()) == source.size == size


def test_what_is_put(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    with transfer.source_of(file) as source:
        assert (source.stream.read(), source.size) == (b"12345", 5)
    with transfer.source_of(Path("/dev/zero")) as source:
        assert source.size is None
    with pytest.raises(IsADirectoryError), transfer.source_of(tmp_path):
        pass


# ---- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["serve", *EACH])
def test_help(name: str) -> None:
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: rpma" in done.stdout
    assert "--token-file" in done.stdout


@pytest.mark.parametrize("name", EACH)
def test_without_a_target_it_fails_with_one_line(name: str) -> None:
    done = command(name, *EACH[name])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"rpma {name}: cannot connect to {NOWHERE}: Connection refused\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "no-pool", "4096"],
        ["create", f"{NOWHERE}/pool", "twelve"],
        ["list", "host:0"],
        ["list", "host/pool"],
        ["info", "no-pool"],
        ["put", __file__, "no-pool"],
        ["put", __file__, f"{NOWHERE}/pool", "--size", "1"],
        ["put", "/dev/zero", f"{NOWHERE}/pool"],
        ["get", f"{NOWHERE}/pool"],
        ["get", f"{NOWHERE}/pool", "/"],
        ["get", f"{NOWHERE}/pool", "-", "--json"],
        ["remove"],
        ["bench", NOWHERE, "--sizes", "0"],
        ["serve", "/nowhere/at/all"],
        ["serve"],
        ["serve", "/", "--listen", "0.0.0.0:7204"],
        ["serve", "/", "--listen", "nonsense"],
        ["serve", "/", "--dram", "much"],
        ["serve", "/", "--shadow-memory", "much"],
        ["serve", "/", "--data-ports", "few"],
        ["serve", "/", "--metrics", "9090"],
        ["serve", "/", "--log-level", "loud"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: rpma" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "..a"], "'..a': '..a' cannot be a host's name"),
        (["list", f"{'a' * 64}.example"], "cannot be a host's name"),
        (["list", "h:" + "9" * 5000], "is no target: HOST:PORT"),
        (["list", "host/pool"], "names a pool, 'pool': give its target alone, 'host:7204'"),
        (["list", "host:0"], "port 0 must be from 1 to 65535"),
        (["create", "no-pool", "4096"], "'no-pool' should be TARGET/POOL"),
        (["put", f"{NOWHERE}/pool", __file__], "is a file of this machine: TARGET/POOL is a pool"),
        (["create", f"{NOWHERE}/pool", "12q"], "'12q' is not a size"),
        (["bench", NOWHERE, "--sizes", "0"], "0 bytes cannot be measured: from 1 to 1GiB"),
        (["serve", "/", "--listen", "host.invalid:1"], "--listen 'host.invalid': no such host"),
        (["serve"], "a target needs a directory, or --dram for pools in DRAM"),
        (["serve", "/", "--listen", "127.0.0.1:" + "9" * 5000], "with a port from 0 to 65535"),
    ],
)
def test_what_is_wrong_with_an_argument(arguments: list[str], words: str) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    said = " ".join(done.stderr.replace("\u2502", " ").split())
    assert words in said
    assert "target=" not in said


def test_a_port_that_is_in_use_is_told_with_the_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        done = command("serve", tmp_path, "--listen", place)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"rpma serve: cannot listen on {place}: the port is in use, by another target or "
            "another program; --listen HOST:PORT takes another port\n"
        )
        done = command("serve", tmp_path, "--listen", "127.0.0.1:0", "--metrics", place)
        assert done.returncode == 1
        assert "for metrics: the port is in use" in done.stderr
        assert "--metrics names another" in done.stderr


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    file = secret(tmp_path / "token", "a long token, long enough", 0o600)
    done = command("serve", tmp_path, "--listen", "203.0.113.1:7204", "--token-file", file)
    assert done.returncode == 1
    assert "cannot listen on 203.0.113.1:7204: this machine has no such address" in done.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = command("put", tmp_path / "file", f"{NOWHERE}/pool")
    assert done.returncode == 1
    assert done.stderr == f"rpma put: {tmp_path}/file: No such file or directory\n"


def test_beyond_loopback_a_token_is_needed(tmp_path: Path) -> None:
    done = command("serve", tmp_path, "--listen", "0.0.0.0:0")
    assert done.returncode == 2
    assert "without a token a target listens on loopback only" in done.stderr
    assert "--token-file" in done.stderr


@pytest.mark.parametrize(("text", "mode"), [("secret", 0o644), ("# nothing\n", 0o600)])
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_bad_token_file(tmp_path: Path, text: str, mode: int, by_variable: bool) -> None:
    file = secret(tmp_path / "token", text, mode)
    option = [] if by_variable else ["--token-file", str(file)]
    variable = {"RPMA_TOKEN_FILE": str(file)} if by_variable else {}
    for arguments in (["serve", tmp_path], ["list", NOWHERE]):
        done = command(*arguments, *option, **variable)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"rpma {arguments[0]}: token file {file} ")
        assert done.stderr.count("\n") == 1
        assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("msgspec", ["list", NOWHERE], "pool"),
        ("prometheus_client", ["serve", "/tmp", "--metrics", "127.0.0.1:0"], "metrics"),
        ("matplotlib", ["bench", NOWHERE, "--png", "file.png"], "benchmark"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, package: str, arguments: list[str], extra: str
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('gone', name={package!r})\n")
    done = command(*arguments, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rpma {arguments[0]}: ")
    assert f"pip install 'rpma[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["info", "doctor", "version"])
def test_other_commands_start_without_pools(name: str) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('MODULES', *sys.modules))\n"
        f"sys.argv = ['rpma', {name!r}]\n"
        "from rpma_command import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MODULES" in done.stdout, done.stderr
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert "rpma.cli.pools" in loaded
    assert not loaded & {"msgspec", "asyncio", "rpma.pool", "numpy", "matplotlib"}


# ---- shell completion --------------------------------------------------------------------------


def completions(line: str) -> list[str]:
    words = line.split(" ")
    done = command(_RPMA_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    return done.stdout.split()


def test_shell_completion() -> None:
    assert completions("rpma ser") == ["serve"]
    assert "--token-file" in completions("rpma put --t")
    # Nothing of its own: then the shell completes the names of files.
    for line in ("rpma list --token-file /et", "rpma serve /mn", "rpma put /et"):
        assert completions(line) == []


def test_shell_completion_is_shown() -> None:
    done = command(_RPMA_COMPLETE="source_bash")
    assert done.returncode == 0
    assert "complete -o default -F" in done.stdout


# ---- metrics -----------------------------------------------------------------------------------


def test_metrics_as_prometheus_has_them() -> None:
    client = pytest.importorskip("prometheus_client")
    from rpma.cli.metrics import Exporter, families
    from rpma.pool.target.answering import Counts
    from rpma.pool.target.metrics import Metrics, total

    flushes = total(Counts(1, 2, 3, 4, 5), Counts(10, 10, 10, 10, 10))
    found = Metrics(
        clients=2,
        sessions=7,
        refused_logins=3,
        refused_connections=1,
        displaced_strangers=6,
        pools={"file": 4, "dram": 1},
        bytes={"file": 4096, "dram": 100},
        open_pools=1,
        shadow_bytes=8192,
        shadow_limit=1 << 20,
        requests={"create": 5, "set content": 2},
        refused_requests={"create": 1},
        flushes=flushes,
    )
    registry = client.CollectorRegistry()
    registry.register(type("Once", (), {"collect": lambda _: families(found)})())
    lines = client.generate_latest(registry).decode().splitlines()
    assert {
        f'rpma_target_info{{fabric="{rpma.fabric.name}",version="{rpma.__version__}"}} 1.0',
        "rpma_clients 2.0",
        "rpma_refused_logins_total 3.0",
        "rpma_displaced_strangers_total 6.0",
        'rpma_pools{kind="file"} 4.0',
        'rpma_pool_bytes{kind="dram"} 100.0',
        "rpma_shadow_bytes 8192.0",
        "rpma_shadow_limit_bytes 1.048576e+06",
        'rpma_requests_total{kind="set_content"} 2.0',
        "rpma_flush_requests_total 11.0",
        "rpma_flush_bytes_total 13.0",
        "rpma_flush_failures_total 14.0",
    } <= set(lines)
    idle = client.CollectorRegistry()
    idle.register(Exporter(rpma.Target(dram="1MiB")))
    assert "rpma_target_up 0.0" in client.generate_latest(idle).decode().splitlines()


ENDS = """
import os, signal, threading
from rpma.cli import serve

class Stuck:
    \"\"\"A target whose storage does not answer.\"\"\"
    def close(self, drain=0.0):
        threading.Event().wait()

serve.STORAGE_GRACE = 0.2
serve.start_log("info")
with serve.Signals() as signals:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    names = signals.wait(10)
    serve._end(Stuck(), 0.0 if len(names) > 1 else 3600.0, signals)
"""


def test_after_a_second_signal_storage_that_does_not_answer_is_not_waited_for() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "storage has not ended in 0.2 s: ending without it" in done.stderr
