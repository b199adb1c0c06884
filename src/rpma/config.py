# SPDX-License-Identifier: BSD-3-Clause
"""How a connection is made."""

from __future__ import annotations

from typing import Any

from rpma._native import ffi, lib
from rpma._object import NativeObject, handle_out, integer, require
from rpma.errors import InvalidArgumentError, error_for
from rpma.srq import SharedReceiveQueue

_UINT32_MAX = (1 << 32) - 1
_INT_MAX = (1 << 31) - 1


class ConnectionConfig(NativeObject):
    """How a connection is made (rpma_conn_cfg_*). One can serve for many connections."""

    __slots__ = ("_srqs",)
    _what = "connection configuration"
    _warns = False

    def __init__(
        self,
        *,
        timeout_ms: int | None = None,
        cq_size: int | None = None,
        rcq_size: int | None = None,
        sq_size: int | None = None,
        rq_size: int | None = None,
        shared_channel: bool | None = None,
        srq: SharedReceiveQueue | None = None,
    ) -> None:
        """Make one with librpma's defaults, where nothing else is said; see the properties."""
        out = handle_out("rpmapy_conn_cfg")
        ret = lib.rpmapy_conn_cfg_new(out)
        if ret:
            raise error_for(ret, f"make a {self._what}")
        self._adopt(out)
        self._srqs: list[SharedReceiveQueue] = []  # what C may point to: kept alive
        given = {
            "timeout_ms": timeout_ms,
            "cq_size": cq_size,
            "rcq_size": rcq_size,
            "sq_size": sq_size,
            "rq_size": rq_size,
            "shared_channel": shared_channel,
            "srq": srq,
        }
        for name, value in given.items():
            if value is not None:
                setattr(self, name, value)

    def _get(self, field: int) -> int:
        value = ffi.new("uint32_t *")
        ret = lib.rpmapy_conn_cfg_get(self._h, field, value)
        if ret:
            raise error_for(ret, f"read the {self._what}")
        return int(value[0])

    def _set(self, field: int, name: str, value: object, maximum: int = _UINT32_MAX) -> None:
        ret = lib.rpmapy_conn_cfg_set(self._h, field, integer(name, value, maximum))
        if ret:
            raise error_for(ret, f"set {name}={value}")

    @property
    def timeout_ms(self) -> int:
        """How long resolving the address may take, in milliseconds."""
        return self._get(lib.RPMAPY_CONN_CFG_TIMEOUT_MS)

    @timeout_ms.setter
    def timeout_ms(self, value: int) -> None:
        self._set(lib.RPMAPY_CONN_CFG_TIMEOUT_MS, "timeout_ms", value, _INT_MAX)

    @property
    def cq_size(self) -> int:
        """How many completions can wait on the main completion queue."""
        return self._get(lib.RPMAPY_CONN_CFG_CQ_SIZE)

    @cq_size.setter
    def cq_size(self, value: int) -> None:
        self._set(lib.RPMAPY_CONN_CFG_CQ_SIZE, "cq_size", value)

    @property
    def rcq_size(self) -> int:
        """The same of a queue for receives alone; 0: they complete on the main one."""
        return self._get(lib.RPMAPY_CONN_CFG_RCQ_SIZE)

    @rcq_size.setter
    def rcq_size(self, value: int) -> None:
        self._set(lib.RPMAPY_CONN_CFG_RCQ_SIZE, "rcq_size", value)

    @property
    def sq_size(self) -> int:
        """How many reads, writes, flushes and sends can be under way at a time."""
        return self._get(lib.RPMAPY_CONN_CFG_SQ_SIZE)

    @sq_size.setter
    def sq_size(self, value: int) -> None:
        self._set(lib.RPMAPY_CONN_CFG_SQ_SIZE, "sq_size", value)

    @property
    def rq_size(self) -> int:
        """How many receives can be posted at a time."""
        return self._get(lib.RPMAPY_CONN_CFG_RQ_SIZE)

    @rq_size.setter
    def rq_size(self, value: int) -> None:
        self._set(lib.RPMAPY_CONN_CFG_RQ_SIZE, "rq_size", value)

    @property
    def shared_channel(self) -> bool:
        """Whether both completion queues share a channel, for `Connection.wait`."""
        return bool(self._get(lib.RPMAPY_CONN_CFG_SHARED_CHANNEL))

    @shared_channel.setter
    def shared_channel(self, value: bool) -> None:
        self._set(lib.RPMAPY_CONN_CFG_SHARED_CHANNEL, "shared_channel", int(bool(value)))

    @property
    def srq(self) -> SharedReceiveQueue | None:
        """The shared receive queue that receives are taken from, or None. Set at most once."""
        out = ffi.new("struct rpmapy_srq **")
        ret = lib.rpmapy_conn_cfg_get_srq(self._h, out)
        if ret:
            raise error_for(ret, f"read the {self._what}")
        return next((srq for srq in self._srqs if srq._h == out[0]), None)

    @srq.setter
    def srq(self, value: SharedReceiveQueue) -> None:
        require(SharedReceiveQueue, "srq", value)
        self._srqs.append(value)  # first: Ctrl-C may come, or another thread that does the same
        ret = lib.rpmapy_conn_cfg_set_srq(self._h, value._h)
        if ret:
            self._srqs.remove(value)
            raise error_for(ret, "set the shared receive queue")


def config_handle(config: ConnectionConfig | None) -> Any:
    """The handle of a connection configuration; NULL is librpma's default."""
    if config is None:
        return ffi.NULL
    require(ConnectionConfig, "config", config)
    return config._h


def check_config(ret: int, what: str) -> None:
    """Raise where C found that the configuration is not for this peer."""
    if ret == lib.RPMAPY_E_ARGUMENT:
        raise InvalidArgumentError(
            f"cannot {what}: config names a shared receive queue (srq) of another peer than the "
            "one of this connection"
        )
