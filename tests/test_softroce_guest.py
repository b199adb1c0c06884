"""The Soft-RoCE guest itself: its kernel, its limits, what it brings back, and how it fails."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import documentation
from softroce import initramfs, kernel
from softroce.guest import MACHINES, Guest, GuestError

needs_guest = pytest.mark.skipif(
    shutil.which(MACHINES[platform.machine()].program) is None or shutil.which("busybox") is None,
    reason="QEMU and busybox are not installed",
)

TESTS = Path(__file__).resolve().parent


def processes_with(text: str) -> list[int]:
    """List the living processes whose command line has `text` in it."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in file.read_bytes().decode(errors="replace"):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


class TestKernelSelection:
    def test_takes_ordinary_kernels_only(self) -> None:
        names = [
            "linux-image-6.12.9-1-amd64",
            "linux-image-6.12.9-1-rt-amd64",
            "linux-image-6.12.9-1-cloud-amd64",
            "linux-image-6.12.9-1-amd64-unsigned",
            "linux-image-6.12.9-1-amd64-dbg",
            "linux-image-6.12.9-1-arm64",
            "linux-image-6.12-amd64-signed-template",
            "linux-image-amd64",
            "linux-image-5.10.0-1-amd64",
        ]
        assert kernel.select(names, "amd64") == ["linux-image-6.12.9-1-amd64"]

    def test_prefers_the_proven_series_and_there_the_newest(self) -> None:
        versions = [
            "6.1.0-56",
            "6.12.9+deb12",
            "6.12.113+deb12",
            "6.12.48+deb13",
            "6.18.2",
            "7.0.1",
        ]
        names = [f"linux-image-{version}-amd64" for version in versions]
        assert [name.split("-")[2] for name in kernel.select(names, "amd64")] == [
            "6.12.113+deb12",
            "6.12.48+deb13",
            "6.12.9+deb12",
            "7.0.1",
            "6.18.2",
            "6.1.0",
        ]

    def test_takes_a_series_that_is_asked_for_and_no_other(self) -> None:
        versions = ["6.1.0-56", "6.1.0-9", "6.10.1", "6.12.9+deb12"]
        names = [f"linux-image-{version}-amd64" for version in versions]
        assert kernel.select(names, "amd64", (6, 1)) == names[:2]
        assert kernel.select(names, "amd64", (6, 3)) == []


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for apt and dpkg, which know two kernels; the newer is gone from the archive.

    Each call is a line of the file that is returned.
    """
    log = tmp_path / "calls"
    log.touch()
    version = f"6.12.5-{kernel.flavour()}"
    gone = f"6.12.6-{kernel.flavour()}"
    scripts = {
        "apt-cache": f"echo linux-image-{version}; echo linux-image-{gone}",
        "apt-get": f"""
            case "$*" in *{gone}) echo 404 >&2; exit 1 ;; esac
            touch kernel.deb
        """,
        "dpkg-deb": f"""
            mkdir -p "$3/boot" "$3/lib/modules/{version}/kernel/drivers/infiniband/sw/rxe"
            touch "$3/boot/vmlinuz-{version}"
            touch "$3/lib/modules/{version}/kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko.xz"
        """,
        "depmod": 'touch "$2/lib/modules/$3/modules.dep"',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in scripts.items():
        text = f'#!/bin/sh\necho "{name} $*" >> {log}\n{textwrap.dedent(script)}\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv(kernel.CACHE_VARIABLE, str(tmp_path / "cache"))
    return log


class TestKernelCache:
    def test_is_filled_once_and_then_needs_no_apt(self, archive: Path) -> None:
        first = kernel.obtain()
        assert first.usable()
        assert first.version == f"6.12.5-{kernel.flavour()}"
        archive.write_text("")
        assert kernel.obtain() == first
        assert archive.read_text() == ""

    def test_goes_on_to_the_next_kernel_when_one_is_gone(self, archive: Path) -> None:
        kernel.obtain()
        downloads = [line for line in archive.read_text().splitlines() if "download" in line]
        assert [line.split("6.12.")[1][0] for line in downloads] == ["6", "5"]

    def test_a_kernel_of_a_series_is_no_reason_to_do_without_the_best(self, archive: Path) -> None:
        pinning = kernel.cache_folder() / f"6.1.0-56-{kernel.flavour()}"
        modules = pinning / "lib/modules" / pinning.name
        (modules / "kernel/drivers/infiniband/sw/rxe").mkdir(parents=True)
        for file in (
            pinning / "boot" / f"vmlinuz-{pinning.name}",
            modules / "modules.dep",
            modules / "kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko",
        ):
            file.parent.mkdir(exist_ok=True)
            file.touch()
        assert kernel.obtain((6, 1)).version == pinning.name
        assert archive.read_text() == ""
        assert kernel.obtain().version == f"6.12.5-{kernel.flavour()}"
        with pytest.raises(kernel.KernelError, match=r"no kernel package linux-image-6\.3\."):
            kernel.obtain((6, 3))
        assert "update" not in archive.read_text()

    @pytest.mark.usefixtures("archive")
    def test_holds_nothing_but_the_unpacked_kernel(self) -> None:
        kernel.obtain()
        names = {entry.name for entry in kernel.cache_folder().iterdir()}
        assert names == {"lock", f"6.12.5-{kernel.flavour()}"}

    @pytest.mark.usefixtures("archive")
    def test_survives_an_interrupted_run(self) -> None:
        leftover = kernel.cache_folder() / "tmp-dead" / "root" / "boot"
        leftover.mkdir(parents=True)
        incomplete = kernel.cache_folder() / f"6.12.5-{kernel.flavour()}" / "boot"
        incomplete.mkdir(parents=True)
        assert kernel.obtain().usable()
        assert not list(kernel.cache_folder().glob("tmp-*"))

    @pytest.mark.usefixtures("archive")
    def test_says_what_was_tried_when_there_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "bin" / "dpkg-deb").write_text("#!/bin/sh\nexit 0\n")
        with pytest.raises(kernel.KernelError, match=r"404[^$]*depmod[^$]* failed"):
            kernel.obtain()


class TestInitramfs:
    @pytest.fixture
    def modules(self, tmp_path: Path) -> Path:
        (tmp_path / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
        (tmp_path / "modules.dep").write_text(
            "kernel/a-b.ko.xz: kernel/c.ko.xz kernel/d.ko.xz\n"
            "kernel/c.ko.xz: kernel/d.ko.xz\n"
            "kernel/d.ko.xz:\n"
        )
        return tmp_path

    def test_loads_dependencies_first_and_each_once(self, modules: Path) -> None:
        order = initramfs.load_order(modules, ["c", "a_b"])
        assert [file.name for file in order] == ["d.ko.xz", "c.ko.xz", "a-b.ko.xz"]

    def test_leaves_out_what_is_built_in(self, modules: Path) -> None:
        assert initramfs.load_order(modules, ["virtio-pci"]) == []

    def test_names_a_module_that_there_is_not(self, modules: Path) -> None:
        with pytest.raises(kernel.KernelError, match="no module nope"):
            initramfs.load_order(modules, ["nope"])


@needs_guest
class TestGuest:
    def test_brings_back_what_its_command_says_and_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RPMA_GREETING", "it's here")
        work = tmp_path / "with a space"
        work.mkdir()
        script = """
            pwd; echo "$RPMA_GREETING"; ulimit -l; ls /sys/class/infiniband
            echo trouble >&2; touch leaves-no-trace; exit 7
        """
        guest = Guest(["sh", "-c", script], tmp_path / "share", cwd=work)
        with guest:
            assert guest.wait() == 7
        lines = (guest.share / "stdout").read_text().splitlines()
        assert lines == [str(work), "it's here", "unlimited", "rxe0"]
        assert (guest.share / "stderr").read_text() == "trouble\n"
        assert list(work.iterdir()) == []
        facts = guest.facts()
        assert (facts["device"], facts["address"]) == ("rxe0", "10.9.9.1")
        assert facts["kernel"].startswith(tuple("6789"))
        assert not processes_with(str(guest.share))

    def test_that_dies_is_an_error_with_its_log(self, tmp_path: Path) -> None:
        script = "echo c > /proc/sysrq-trigger; sleep 60"
        with (
            Guest(["sh", "-c", script], tmp_path, device=False) as guest,
            pytest.raises(GuestError, match=r"^the guest died\n[^$]*Kernel panic"),
        ):
            guest.wait()

    def test_that_panics_while_it_boots_is_booted_once_more(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ["rdinit=/nothing", "root=/dev/none"]
        with (
            Guest(["true"], tmp_path, device=False, kernel_options=options) as guest,
            pytest.raises(GuestError, match=r"^the guest died\n[^$]*Kernel panic"),
        ):
            guest.wait()
        assert capsys.readouterr().err.count("panicked while it booted: once more") == 1

    @pytest.mark.parametrize(
        ("limit", "complaint"),
        [
            ("boot_limit", "the guest was not ready within 1 s"),
            ("run_limit", "the command in the guest did not end within 1 s"),
        ],
    )
    def test_that_takes_too_long_is_ended(self, tmp_path: Path, limit: str, complaint: str) -> None:
        guest = Guest(["sleep", "60"], tmp_path, **{limit: 1.0})  # type: ignore[arg-type]
        with pytest.raises(GuestError, match=complaint), guest:
            guest.wait()
        assert not processes_with(str(guest.share))

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_does_not_outlive_what_started_it(self, tmp_path: Path, signum: int) -> None:
        folder = f"--share={tmp_path / 'share'}"
        starter = subprocess.Popen(
            [sys.executable, str(TESTS / "softroce"), folder, "--", "sleep", "60"],
            stderr=subprocess.DEVNULL,
            # A shell's background job ignores it, and so would what the job starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while not (tmp_path / "share" / "console").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        starter.send_signal(signum)
        starter.wait(timeout=30)
        while processes_with(f"file:{tmp_path}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@needs_guest
def test_a_test_that_kills_the_guests_pytest_fails_with_the_log(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["fabrics.plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import os, faulthandler, pytest

            @pytest.mark.fabric
            class TestIt:
                def test_skips(self): pytest.skip("for a reason")
                def test_fails(self): print("said before"); assert 1 == 2
                def test_kills(self): faulthandler.dump_traceback(2); os._exit(9)
                def test_follows(self): pass

            def test_needs_no_device(): assert os.uname().nodename != "softroce"
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fabric=softroce", "--junitxml=report.xml", "-rs"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    cases = {
        str(case.get("name")): case
        for case in ElementTree.parse(tmp_path / "report.xml").iter("testcase")
    }
    outcome = {name: (case[0].tag if len(case) else "passed") for name, case in cases.items()}
    assert outcome == {
        "test_needs_no_device": "passed",
        "test_skips": "skipped",
        "test_fails": "failure",
        "test_kills": "failure",
        "test_follows": "failure",
    }
    text = {name: "".join(case.itertext()) for name, case in cases.items()}
    assert "said before" in text["test_fails"]
    assert "ended early, with code 9" in text["test_kills"]
    assert "test session starts" in text["test_kills"]
    assert "not run: pytest in the guest ended early" in text["test_follows"]
    assert "fabric: rxe0 (Soft-RoCE guest, Linux " in done.stdout


@needs_guest
def test_what_the_pages_say_of_a_kernels_device_makes_one() -> None:
    """The guest has a device already, hence the other names; eth0 is any Ethernet interface."""
    script = ["set -e", "ip link add dummy7 type dummy", "ip addr add 10.7.7.1/24 dev dummy7"]
    script.append("ip link set dummy7 up")
    blocks = [block for block in documentation.blocks() if block.place == "kernel"]
    assert len(blocks) >= 2
    for number, block in enumerate(blocks, 7):
        for command in block.commands():
            line = command.text
            for shown, here in {
                "eth0": "dummy7",
                "dummy0": f"dummy{number}",
                "rxe0": f"rxe{number}",
                "10.9.9.1": f"10.{number}.{number}.1",
            }.items():
                line = line.replace(shown, here)
            script.append(line)
        script.append(f"rdma link show rxe{number}/1")
    run = [sys.executable, str(TESTS / "softroce"), "--", "sh", "-c", "\n".join(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(7, 7 + len(blocks)):
        assert f"link rxe{number}/1 state ACTIVE" in done.stdout


@needs_guest
def test_what_the_pages_run_in_the_guest_runs() -> None:
    commands = [
        command
        for block in documentation.blocks()
        if block.place == "guest"
        for command in block.commands()
    ]
    assert commands
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command.text],
            cwd=TESTS.parent,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
