# SPDX-License-Identifier: BSD-3-Clause
"""Peers: a device opened, the parent of all else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpma._buffers import copied
from rpma._native import ffi, lib
from rpma._object import NativeObject, handle_out, require
from rpma.config import ConnectionConfig
from rpma.conn_req import ConnectionRequest, private_data_bytes
from rpma.connection import Connection
from rpma.constants import Usage
from rpma.device import Device
from rpma.endpoint import Endpoint
from rpma.errors import error_for
from rpma.memory import MemoryRegion
from rpma.srq import SharedReceiveQueue, SharedReceiveQueueConfig

if TYPE_CHECKING:
    from rpma._types import Buffer, WritableBuffer

_DESCRIPTOR_ROOM = 255


class Peer(NativeObject):
    """A device opened: a protection domain, in which regions and connections belong together.

    Threads may share a peer. Each connection, endpoint and configuration is for one thread at a
    time, as librpma has it.
    """

    __slots__ = ("_device",)
    _what = "peer"

    def __init__(self, device: Device) -> None:
        """Open `device` (rpma_peer_new)."""
        require(Device, "device", device)
        out = handle_out("rpmapy_peer")
        ret = lib.rpmapy_peer_new(device._context, out)
        if ret:
            raise error_for(ret, f"open {device.name}")
        self._adopt(out)
        self._device = device

    @classmethod
    def for_address(cls, address: str, remote: bool = False) -> Peer:
        """A peer on the device that an address belongs to, or leads to.

        Args:
            address: a host name, an IPv4 or an IPv6 address.
            remote: False on the target: an address of its own. True on the initiator: the address
                of the target.

        Raises:
            NoDeviceError: there is no RDMA device with, or towards, this address.
        """
        return cls(Device(address, remote=remote))

    @property
    def device(self) -> Device:
        """The device that it opened."""
        return self._device

    def register(self, buffer: WritableBuffer, usage: Usage) -> MemoryRegion:
        """Register memory, so that the RNIC may touch it (rpma_mr_reg).

        Args:
            buffer: anything with a writable, contiguous buffer: a bytearray, mmap, numpy array of
                any type but Python objects, or `rpma.allocation` memory. It is held, not copied,
                until the region is closed.
                Whether a mapped file keeps what is written there: `Memory.keeps_rdma_writes`.
            usage: what for; members of `Usage`, combined with ``|``.

        Raises:
            TypeError: it has no buffer.
            InvalidArgumentError: it is read-only, not contiguous, empty or of Python objects; or
                bad `usage`.
            ProviderError: the device refuses, as when RLIMIT_MEMLOCK is too small; or, with EINVAL
                and if it flushes by itself, FLUSH_TYPE_PERSISTENT for other memory than persistent.
        """
        return MemoryRegion(self, buffer, usage)

    def listen(self, address: str, port: int | str) -> Endpoint:
        """Listen for connections (rpma_ep_listen).

        Args:
            address: an address of this peer's device.
            port: a port number, or a service name.

        Raises:
            ProviderError: the port is in use, or the address is not the device's.
        """
        return Endpoint(self, address, port)

    def request(
        self, address: str, port: int | str, config: ConnectionConfig | None = None
    ) -> ConnectionRequest:
        """Prepare a connection, without making it yet (rpma_conn_req_new).

        For a program that posts receives before it connects. Resolves the address, for up to
        `ConnectionConfig.timeout_ms`.

        Args:
            address: where the other side listens.
            port: on which port.
            config: of the connection; None is librpma's default.

        Raises:
            ProviderError: the name does not resolve, or no route leads there.
        """
        return ConnectionRequest._outgoing(self, address, port, config)

    def connect(
        self,
        address: str,
        port: int | str,
        *,
        private_data: Buffer | None = None,
        config: ConnectionConfig | None = None,
        timeout: float | None = None,
    ) -> Connection:
        """Connect, and wait until the connection is established.

        Args:
            address: where the other side listens.
            port: on which port.
            private_data: bytes for the other side: 1 to 255, as many as the network takes:
                56 on InfiniBand and RoCE. None sends none.
            config: of the connection; None is librpma's default.
            timeout: for the other side to accept, in seconds; None leaves it to the network's
                own limits.

        Raises:
            ConnectionRejected: nobody listens there, or the other side refused.
            ConnectionUnreachable: the other side does not answer.
            WaitTimeoutError: the timeout has passed.
            ProviderError: the name does not resolve, or no route leads there.
        """
        raw = private_data_bytes(private_data)
        with self.request(address, port, config) as request:
            connection = request.connect(raw or None)
        return connection._established(timeout, f"cannot connect to {address}:{port}")

    def create_srq(self, config: SharedReceiveQueueConfig | None = None) -> SharedReceiveQueue:
        """Create a shared receive queue (rpma_srq_new); None is librpma's default size."""
        return SharedReceiveQueue(self, config)

    def close(self) -> None:
        """Close the peer, after all that was made from it (rpma_peer_delete)."""
        super().close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<rpma.Peer{state} on {self._device.name}>"


class PeerConfig(NativeObject):
    """What a side says of its platform (rpma_peer_cfg_*).

    The target sends `descriptor` to the initiator, which applies it to its connection with
    `Connection.apply_remote_peer_config`: only then is a persistent flush allowed there.
    """

    __slots__ = ()
    _what = "peer configuration"
    _warns = False

    def __init__(self, *, direct_write_to_pmem: bool = False) -> None:
        """Make one.

        Args:
            direct_write_to_pmem: whether what the RNIC writes goes to persistent memory and not
                to CPU caches that lose it: DDIO off, or eADR. The operator has to know.
        """
        out = handle_out("rpmapy_peer_cfg")
        ret = lib.rpmapy_peer_cfg_new(out)
        if ret:
            raise error_for(ret, "make a peer configuration")
        self._adopt(out)
        self.direct_write_to_pmem = direct_write_to_pmem

    @classmethod
    def from_descriptor(cls, descriptor: Buffer) -> PeerConfig:
        """The configuration that the other side described.

        Raises:
            InvalidArgumentError: the descriptor is empty.
        """
        raw = copied("descriptor", descriptor)
        out = handle_out("rpmapy_peer_cfg")
        ret = lib.rpmapy_peer_cfg_from_descriptor(raw, len(raw), out)
        if ret:
            raise error_for(ret, f"make a peer configuration from {len(raw)} bytes")
        self: Any = cls.__new__(cls)
        self._adopt(out)
        config: PeerConfig = self
        return config

    @property
    def direct_write_to_pmem(self) -> bool:
        """Whether what the RNIC writes goes straight to persistent memory."""
        supported = ffi.new("bool *")
        ret = lib.rpmapy_peer_cfg_get_direct_write_to_pmem(self._h, supported)
        if ret:
            raise error_for(ret, "read the peer configuration")
        return bool(supported[0])

    @direct_write_to_pmem.setter
    def direct_write_to_pmem(self, supported: bool) -> None:
        ret = lib.rpmapy_peer_cfg_set_direct_write_to_pmem(self._h, bool(supported))
        if ret:
            raise error_for(ret, "set the peer configuration")

    @property
    def descriptor(self) -> bytes:
        """What the other side makes its copy from (rpma_peer_cfg_get_descriptor)."""
        room = ffi.new("char[]", _DESCRIPTOR_ROOM)
        size = ffi.new("size_t *", _DESCRIPTOR_ROOM)
        ret = lib.rpmapy_peer_cfg_get_descriptor(self._h, room, size)
        if ret:
            raise error_for(ret, "get the descriptor of the peer configuration")
        return bytes(ffi.buffer(room, size[0]))
