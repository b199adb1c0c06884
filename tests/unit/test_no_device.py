"""On a machine without an RDMA device every way to one says so."""
# ruff: noqa: PT017

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rpma
from rpma import _fabric
from rpma.address import encode_address, encode_port

without_device = pytest.mark.skipif(bool(_fabric.devices()), reason="there is an RDMA device")


def python(code: str) -> str:
    """What Python prints that has only the kernel's devices: not the soft RNIC."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os, rpma\n{code}"],
        env=os.environ | {"RPMA_FABRIC": "rdma"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@without_device
def test_there_are_no_devices() -> None:
    assert python("print(rpma.devices())") == "[]\n"


@without_device
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("make", ["Peer.for_address", "Device"])
def test_no_device_has_the_address(make: str, remote: bool) -> None:
    code = f"""
try:
    rpma.{make}("127.0.0.1", remote={remote})
except rpma.NoDeviceError as error:
    assert isinstance(error, rpma.ProviderError)
    assert isinstance(error, OSError)
    assert (error.code, error.name) == (rpma.ProviderError.code, "RPMA_E_PROVIDER")
    assert error.message == rpma.errormsg()
    print(error)
"""
    printed = python(code)
    assert "'127.0.0.1'" in printed
    if not os.path.exists("/dev/infiniband/rdma_cm"):
        for remedy in ("modprobe rdma_ucm", "/dev/infiniband", "rpma doctor", "RPMA_FABRIC=soft"):
            assert remedy in printed


@pytest.mark.parametrize("name", ["no-such-host.invalid", "256.1.1.1", "1.2.3", "::g", "exämple."])
def test_a_name_that_does_not_resolve_is_a_provider_error(name: str) -> None:
    with pytest.raises(rpma.ProviderError) as caught:
        rpma.Device(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("bad", [None, 1, b"10.9.9.1", ["10.9.9.1"]])
def test_an_address_is_a_str(bad: object) -> None:
    with pytest.raises(TypeError, match="address must be a str, not"):
        rpma.Device(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["", "\0", "10.9.9.1\0.example", "ü" * 70, "\udc80", "ü..de"])
def test_an_address_that_can_be_none_is_an_invalid_argument(bad: str) -> None:
    with pytest.raises(rpma.InvalidArgumentError, match="address="):
        rpma.Device(bad)


@given(st.text())
@settings(max_examples=300)
@example("xn--\udcff")
@example("a" * 64 + "ä")
def test_any_text_is_an_address_or_an_invalid_argument(text: str) -> None:
    try:
        encoded = encode_address(text)
    except rpma.InvalidArgumentError as error:
        assert "address=" in str(error)
    else:
        assert encoded
        assert b"\0" not in encoded


@given(st.one_of(st.text(), st.integers(), st.from_regex(r"\A\d+\Z")))
@settings(max_examples=300)
@example("²")
@example("७२")
@example("9" * 5000)
@example("\udc80")
def test_any_text_or_int_is_a_port_or_an_invalid_argument(value: str | int) -> None:
    try:
        encoded = encode_port(value)
    except rpma.InvalidArgumentError as error:
        assert "port" in str(error)
    else:
        assert encoded
        assert b"\0" not in encoded
        if encoded.isdigit():
            assert 0 <= int(encoded) <= 65535


@pytest.mark.parametrize(
    ("port", "expected"),
    [(7204, b"7204"), ("7204", b"7204"), (0, b"0"), (65535, b"65535"), ("http", b"http")],
)
def test_a_port_is_a_number_or_a_service(port: int | str, expected: bytes) -> None:
    assert encode_port(port) == expected


@pytest.mark.parametrize("bad", [None, 1.5, b"7204", []])
def test_a_port_is_an_int_or_a_str(bad: object) -> None:
    with pytest.raises(TypeError, match="port must be an int or a str"):
        encode_port(bad)


def test_a_failed_look_up_leaves_no_file_open() -> None:
    def run() -> None:
        with pytest.raises(rpma.ProviderError):
            rpma.Device("no-such-host.invalid")

    run()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run()
    assert len(os.listdir("/proc/self/fd")) == before
