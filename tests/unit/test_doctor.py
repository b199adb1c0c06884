"""What `rpma doctor` says of machines of all kinds, and `Machine`, which it looks through."""

from __future__ import annotations

from pathlib import Path

import pytest
from machines import KERNEL, Made

from rpma._fabric import Fabric
from rpma.cli.doctor import Finding, Level, Patient, examine, exit_code, verdict
from rpma.cli.machine import Machine

RDMA = Fabric("rdma", "this machine has an RDMA device: rxe0", "/usr/lib/libibverbs.so.1")
SOFT = Fabric("soft", "this machine has no RDMA device", "/x/softrnic/libibverbs.so.1")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def findings(made: Made, fabric: Fabric | None = SOFT, failure: str = "") -> list[Finding]:
    return examine(Patient(made.machine, fabric, failure, str(made.soft)))


def judged(made: Made, fabric: Fabric | None = SOFT, failure: str = "") -> str:
    patient = Patient(made.machine, fabric, failure, str(made.soft))
    return verdict(patient, examine(patient))


def about(subject: str, found: list[Finding]) -> Finding:
    (finding,) = [finding for finding in found if finding.subject == subject]
    return finding


def problems(found: list[Finding]) -> list[str]:
    return [finding.subject for finding in found if finding.level is Level.PROBLEM]


def warnings(found: list[Finding]) -> list[str]:
    return [finding.subject for finding in found if finding.level is Level.WARNING]


# ---- whole machines ----------------------------------------------------------------------------


def test_a_machine_with_a_device_that_works_is_healthy(made: Made) -> None:
    made.device()
    made.limit("unlimited")
    found = findings(made, RDMA)
    assert (problems(found), warnings(found), exit_code(found)) == ([], [], 0)
    assert about("device rxe0", found).text == "RoCE, active 10.9.9.1"


def test_a_machine_without_a_device_is_healthy_on_the_soft_rnic(made: Made) -> None:
    found = findings(made)
    assert (problems(found), warnings(found), exit_code(found)) == ([], [], 0)
    assert about("device", found).level is Level.NOTE
    assert about("rpma", found).text == "takes the soft RNIC: this machine has no RDMA device"


def test_the_verdict_of_a_machine_without_a_device(made: Made) -> None:
    made.write(".dockerenv")
    made.write("proc/sys/kernel/osrelease", "another\n")
    assert warnings(findings(made)) == []
    assert judged(made) == "ready for: soft RNIC yes; RDMA device no, because this machine has none"
    made.soft.joinpath("libibverbs.so.1").unlink()
    assert judged(made) == (
        "ready for: soft RNIC no, because it is not installed; "
        "RDMA device no, because this machine has none"
    )


def test_the_verdict_of_a_machine_with_a_device(made: Made) -> None:
    made.device()
    soft = "ready for: soft RNIC yes, with RPMA_FABRIC=soft; RDMA device "
    assert judged(made, RDMA) == soft + "yes"
    assert judged(made, Fabric("soft", "RPMA_FABRIC=soft", "/x")) == (
        "ready for: soft RNIC yes; RDMA device yes, with RPMA_FABRIC=rdma"
    )
    made.root.joinpath("dev/infiniband/rdma_cm").unlink()
    assert judged(made, RDMA) == soft + "no, because /dev/infiniband/rdma_cm: missing"


def test_the_verdict_where_the_import_fails(made: Made) -> None:
    assert judged(made, None, "no librpma") == "ready for nothing: no librpma"


def test_an_empty_machine_is_examined_too(tmp_path: Path) -> None:
    found = examine(Patient(Machine(tmp_path), None, "no librpma", str(tmp_path)))
    assert problems(found) == [
        *("rpma", "soft RNIC", "librpma.so.0", "libibverbs.so.1", "librdmacm.so.1"),
    ]
    assert about("rpma", found).text == "no librpma"


def test_this_machine_is_examined() -> None:
    found = examine(Patient(Machine(), SOFT))
    assert len(found) > 8
    assert all(finding.text and "\n" not in finding.text for finding in found)


def test_every_problem_has_a_remedy(made: Made) -> None:
    made.device("rxe0", state="1: DOWN", nodes=False)
    made.soft.joinpath("libibverbs.so.1").unlink()
    for file in made.root.glob("usr/lib/x86_64-linux-gnu/*/*"):
        file.unlink()
    for name in ("librpma.so.0", "libibverbs.so.1", "librdmacm.so.1"):
        made.root.joinpath("usr/lib/x86_64-linux-gnu", name).unlink()
    found = findings(made, None, "a sentence that says what to do")
    bad = [f for f in found if f.level is Level.PROBLEM and f.subject != "rpma"]
    assert len(bad) == 7
    assert all(finding.remedy for finding in bad), bad
    assert exit_code(found) == 1


# ---- the choice --------------------------------------------------------------------------------


def test_real_devices_wanted_and_none_there_is_a_problem(made: Made) -> None:
    found = findings(made, Fabric("rdma", "RPMA_FABRIC=rdma", "/usr/lib/libibverbs.so.1"))
    assert problems(found) == ["rpma"]
    assert "RPMA_FABRIC=rdma; but there is none" in about("rpma", found).text


def test_a_device_left_unused_is_told(made: Made) -> None:
    made.device()
    found = findings(made, Fabric("soft", "RPMA_FABRIC=soft", "/x"))
    assert about("rpma", found).level is Level.WARNING
    assert exit_code(found) == 0


def test_a_missing_soft_rnic_matters_where_there_is_no_device(made: Made) -> None:
    made.soft.joinpath("librdmacm.so.1").unlink()
    assert about("soft RNIC", findings(made)).level is Level.PROBLEM
    made.device()
    assert about("soft RNIC", findings(made, RDMA)).level is Level.WARNING


def test_a_library_elsewhere_is_no_problem_where_rpma_has_found_it(made: Made) -> None:
    made.root.joinpath("usr/lib/x86_64-linux-gnu/librpma.so.0").unlink()
    assert about("librpma.so.0", findings(made)).level is Level.OK
    missing = about("librpma.so.0", findings(made, None))
    assert missing.level is Level.PROBLEM
    assert "'apt-get install librpma0'" in missing.remedy


# ---- devices -----------------------------------------------------------------------------------


def test_a_port_that_is_down_is_a_problem(made: Made) -> None:
    made.device("mlx5_0", state="1: DOWN")
    finding = about("device mlx5_0", findings(made, RDMA))
    assert finding.level is Level.PROBLEM
    assert "its port is DOWN" in finding.text
    assert "ip link set eth0 up" in finding.remedy


def test_a_device_without_an_address_is_a_problem(made: Made) -> None:
    made.device(gids=["fe80:0000:0000:0000:0000:00ff:fe00:0001"])
    finding = about("device rxe0", findings(made, RDMA))
    assert finding.level is Level.PROBLEM
    assert "without an IP address" in finding.text
    assert "dev eth0" in finding.remedy


def test_software_iwarp_has_no_addresses_to_show(made: Made) -> None:
    made.device("siw0", node_type="4: RNIC", gids=["0200:0000:0001:0000:0000:0000:0000:0000"])
    finding = about("device siw0", findings(made, RDMA))
    assert finding.level is Level.OK
    assert finding.text.startswith("iWARP, active")


def test_soft_roce_on_lo_is_a_problem_with_the_commands_for_another(made: Made) -> None:
    made.device(interface="lo", gids=["::ffff:127.0.0.1"])
    finding = about("device rxe0", findings(made, RDMA))
    assert finding.level is Level.PROBLEM
    assert "loopback interface lo" in finding.text
    assert "rdma link delete rxe0 && " in finding.remedy
    assert "rdma link add rxe0 type rxe netdev eth0" in finding.remedy


def test_no_user_space_driver_is_a_problem(made: Made) -> None:
    made.device()
    made.root.joinpath("usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so").unlink()
    found = findings(made, RDMA)
    assert "ibverbs-providers" in about("device rxe0: driver", found).remedy


@pytest.mark.parametrize(("node", "module"), [("uverbs0", "ib_uverbs"), ("rdma_cm", "rdma_ucm")])
def test_a_missing_node_names_the_module(made: Made, node: str, module: str) -> None:
    made.device()
    made.root.joinpath("dev/infiniband", node).unlink()
    finding = about(f"/dev/infiniband/{node}", findings(made, RDMA))
    assert (finding.level, finding.remedy) == (Level.PROBLEM, f"as root: modprobe {module}")


def test_a_missing_node_in_a_container_names_the_option(made: Made) -> None:
    made.device(nodes=False)
    made.write(".dockerenv")
    found = findings(made, RDMA)
    assert "--device=/dev/infiniband" in about("/dev/infiniband/rdma_cm", found).remedy
    assert about("container", found).level is Level.WARNING


@pytest.mark.parametrize(
    ("mode", "uid", "allowed"),
    [
        (0o600, 1000, False),
        (0o660, 1000, False),
        (0o664, 1000, False),
        (0o666, 1000, True),
        (0o600, 0, True),
    ],
)
def test_a_node_must_be_readable_and_writable(
    made: Made, mode: int, uid: int, allowed: bool
) -> None:
    made.device()
    made.node("rdma_cm", mode)
    made.user(uid)
    finding = about("/dev/infiniband/rdma_cm", findings(made, RDMA))
    assert (finding.level is Level.OK) == allowed
    if not allowed:
        assert "chmod 666" in finding.remedy


# ---- limits ------------------------------------------------------------------------------------


def test_little_lockable_memory_is_a_warning_with_a_device(made: Made) -> None:
    made.device()
    finding = about("locked memory", findings(made, RDMA))
    assert finding.level is Level.WARNING
    assert "8 MiB" in finding.text
    assert "limits.conf" in finding.remedy
    made.write("run/.containerenv")
    assert "--ulimit memlock=-1" in about("locked memory", findings(made, RDMA)).remedy


def test_the_soft_rnic_locks_no_memory(made: Made) -> None:
    finding = about("locked memory", findings(made))
    assert finding.level is Level.OK
    assert "the soft RNIC locks none" in finding.text


def test_the_limit_does_not_hold_for_who_may_lock_all(made: Made) -> None:
    made.device()
    made.user(0, may_lock=True)
    assert about("locked memory", findings(made, RDMA)).level is Level.OK


# ---- modules, and a device in software ---------------------------------------------------------


def test_a_module_that_a_device_needs_is_to_be_loaded(made: Made) -> None:
    made.device(nodes=False)
    made.modules(available=["rdma_ucm"], loaded=["rdma_rxe"], builtin=["ib_uverbs"])
    found = findings(made, RDMA)
    assert about("module ib_uverbs", found).level is Level.OK
    assert about("module rdma_ucm", found).remedy == "as root: modprobe rdma_ucm"


def test_a_node_is_proof_enough_of_its_module(made: Made) -> None:
    made.device()
    made.modules()
    assert about("module rdma_ucm", findings(made, RDMA)).level is Level.OK


def test_a_device_can_be_made_of_an_ethernet_interface(made: Made) -> None:
    finding = about("Soft-RoCE", findings(made))
    assert finding.remedy == (
        "as root: modprobe rdma_rxe && modprobe rdma_ucm && rdma link add rxe0 type rxe netdev eth0"
    )


def test_without_an_interface_a_dummy_is_made_first(made: Made) -> None:
    made.interface("eth0", state="down")
    remedy = about("Soft-RoCE", findings(made)).remedy
    assert "ip link add dummy0 type dummy" in remedy
    assert remedy.endswith("rdma link add rxe0 type rxe netdev dummy0")


def test_the_tools_to_make_a_device_may_be_missing(made: Made) -> None:
    made.root.joinpath("usr/sbin/rdma").unlink()
    assert "iproute2" in about("Soft-RoCE", findings(made)).remedy


def test_a_kernel_without_soft_roce_cannot_make_a_device(made: Made) -> None:
    made.modules(available=["ib_uverbs", "rdma_ucm"])
    found = findings(made)
    assert not about("Soft-RoCE", found).remedy
    assert "linux-modules-extra" in about("module rdma_rxe", found).remedy
    assert exit_code(found) == 0


def test_a_container_cannot_load_modules(made: Made) -> None:
    made.write("run/systemd/container", "lxc\n")
    made.write("proc/sys/kernel/osrelease", "another\n")
    found = findings(made)
    assert about("container", found).text.startswith("lxc")
    assert about("module rdma_rxe", found).remedy == "it is the host's to load"


def test_a_kernel_that_takes_no_more_modules_is_told(made: Made) -> None:
    made.write("proc/sys/kernel/modules_disabled", "1\n")
    assert "kernel.modules_disabled" in about("Soft-RoCE", findings(made)).text


# ---- the machine -------------------------------------------------------------------------------


def test_the_addresses_are_the_machines_own(made: Made) -> None:
    assert made.machine.addresses == ["127.0.0.1", "192.0.2.2", "fd00::2", "::1"]


@pytest.mark.parametrize(
    ("node_type", "link_layer", "transport"),
    [
        ("1: CA", "Ethernet", "RoCE"),
        ("1: CA", "InfiniBand", "InfiniBand"),
        ("4: RNIC", "Ethernet", "iWARP"),
    ],
)
def test_a_device_tells_its_transport(
    made: Made, node_type: str, link_layer: str, transport: str
) -> None:
    made.device(node_type=node_type, link_layer=link_layer)
    (device,) = made.machine.devices
    assert device.transport == transport
    assert (device.state, device.is_active, device.interfaces) == ("ACTIVE", True, ("eth0",))
    assert (device.addresses, device.node) == (("10.9.9.1",), "uverbs0")


def test_a_devices_ipv4_addresses_come_first(made: Made) -> None:
    made.device(gids=["fd09:0009:0000:0000:0000:0000:0000:0001", "nonsense", "::ffff:10.9.9.1"])
    assert made.machine.devices[0].addresses == ("10.9.9.1", "fd09:9::1")


@pytest.mark.parametrize(
    ("groups", "kind"),
    [
        ("0::/kubepods/besteffort/pod1", "kubepods"),
        ("3:cpu:/docker/1a2b", "docker"),
        ("0::/init.scope", ""),
    ],
)
def test_a_container_is_told_by_its_control_groups(made: Made, groups: str, kind: str) -> None:
    made.write("proc/1/cgroup", groups)
    assert made.machine.container == kind


def test_a_library_path_comes_before_the_usual_folders(made: Made) -> None:
    made.write("opt/debug/librpma.so.0")
    machine = Machine(made.root, {"LD_LIBRARY_PATH": "/opt/none:/opt/debug/"})
    assert machine.library("librpma.so.0") == "/opt/debug/librpma.so.0"
    assert made.machine.library("librpma.so.0") == "/usr/lib/x86_64-linux-gnu/librpma.so.0"
    assert made.machine.library("libnone.so") == ""


def test_a_module_is_known_with_a_dash_or_an_underscore(made: Made) -> None:
    made.modules(available=["rdma-rxe"])
    assert made.machine.kernel == KERNEL
    assert made.machine.module("rdma_rxe") == "available"
    assert made.machine.module("siw") == "missing"
