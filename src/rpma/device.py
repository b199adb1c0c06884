# SPDX-License-Identifier: BSD-3-Clause
"""RDMA devices: which there are, and which one an address leads to."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from rpma._native import fabric, ffi, lib, text
from rpma._object import in_two_attempts
from rpma.address import encode_address
from rpma.errors import NoDeviceError, ProviderError, RpmaError, error_for
from rpma.log import announce_soft_rnic

_TRANSPORTS = {0: "InfiniBand", 1: "iWARP"}
_LINK_LAYERS = {1: "InfiniBand", 2: "Ethernet"}


class DeviceAttributes(NamedTuple):
    """What a device says of itself (ibv_query_device, ibv_query_port of port 1).

    Attributes:
        firmware: its firmware version, or "".
        node_guid: its GUID.
        transport: "InfiniBand" (RoCE included), "iWARP", or a number.
        link_layer: "InfiniBand", "Ethernet", or a number.
        is_active: whether the port is up.
        max_message_size: the largest single request, in bytes.
        max_memory_region_size: the largest memory region, in bytes.
        max_queue_size: the most requests that a send or receive queue holds.
        max_completion_queue_size: the most completions that a completion queue holds.
    """

    firmware: str
    node_guid: int
    transport: str
    link_layer: str
    is_active: bool
    max_message_size: int
    max_memory_region_size: int
    max_queue_size: int
    max_completion_queue_size: int


def devices() -> list[str]:
    """The names of the RDMA devices that libibverbs finds, such as "mlx5_0" or "rxe0"."""
    names = ffi.new("char[]", 65536)
    if lib.rpmapy_device_names(names, 65536) < 0:
        error = ProviderError(f"cannot list RDMA devices: {os.strerror(ffi.errno)}")
        error.errno = ffi.errno
        raise error
    return text(names).split()


class Device:
    """An RDMA device, found by an address (rpma_utils_get_ibv_context).

    librdmacm keeps it open as long as the process lives: there is nothing to close.
    """

    __slots__ = ("_context", "name")

    _context: Any

    def __init__(self, address: str, *, remote: bool = False) -> None:
        """Look the device up.

        Args:
            address: a host name, an IPv4 or an IPv6 address.
            remote: False: an address of this machine's device. True: the address of another
                machine (or of this one); the device is the one that leads there.

        Raises:
            NoDeviceError: there is no RDMA device with, or towards, this address.
            ProviderError: the name does not resolve, or there is no route.
        """
        side = lib.RPMA_UTIL_IBV_CONTEXT_REMOTE if remote else lib.RPMA_UTIL_IBV_CONTEXT_LOCAL
        context = ffi.new("struct ibv_context **")
        raw = encode_address(address)
        announce_soft_rnic()
        ret = in_two_attempts(
            lambda second: lib.rpmapy_device_for_address(raw, side, second, context)
        )
        towards = "towards" if remote else "with"
        if ret:
            raise _explain(error_for(ret, f"find an RDMA device {towards} address {address!r}"))
        if not context[0]:
            raise NoDeviceError(
                f"cannot find an RDMA device with address {address!r}: it belongs to no particular "
                "device; give an address of the device itself ('rpma info' lists them)"
            )
        self._context = context[0]
        self.name: str = text(lib.rpmapy_device_name(self._context))

    @property
    def is_odp_capable(self) -> bool:
        """Whether it supports on-demand paging for reads and writes.

        Registering file system DAX memory needs it (rpma_utils_ibv_context_is_odp_capable).
        """
        capable = ffi.new("int *")
        ret = lib.rpmapy_device_is_odp_capable(self._context, capable)
        if ret:
            raise error_for(ret, f"query on-demand paging of {self.name}")
        return bool(capable[0])

    @property
    def attributes(self) -> DeviceAttributes:
        """What the device says of itself, as of now."""
        raw = ffi.new("struct rpmapy_device_attributes *")
        number = lib.rpmapy_device_attributes(self._context, raw)
        if number < 0:
            raise error_for(number, f"query {self.name}")
        if number:
            error = ProviderError(f"cannot query {self.name}: {os.strerror(number)}")
            error.errno = number
            raise error
        return DeviceAttributes(
            firmware=text(raw.firmware),
            node_guid=raw.node_guid,
            transport=_TRANSPORTS.get(raw.transport, str(raw.transport)),
            link_layer=_LINK_LAYERS.get(raw.link_layer, str(raw.link_layer)),
            is_active=raw.port_state == 4,
            max_message_size=raw.max_message_size,
            max_memory_region_size=raw.max_memory_region_size,
            max_queue_size=raw.max_queue_size,
            max_completion_queue_size=raw.max_completion_queue_size,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self._context == other._context

    def __hash__(self) -> int:
        return hash(self._context)

    def __repr__(self) -> str:
        return f"<rpma.Device {self.name}>"


def _explain(error: RpmaError) -> RpmaError:
    """Say so where the machine has no RDMA at all, which is the commonest reason by far."""
    if (
        isinstance(error, ProviderError)
        and fabric.name == "rdma"
        and not os.path.exists("/dev/infiniband/rdma_cm")
    ):
        explained = NoDeviceError(
            f"{error}; this machine has no RDMA device, or the kernel module rdma_ucm is not "
            "loaded ('modprobe rdma_ucm'), or this container was not given /dev/infiniband; "
            "'rpma doctor' looks closer, and RPMA_FABRIC=soft does without a device",
            error.message,
        )
        explained.errno = error.errno
        return explained
    return error
