# SPDX-License-Identifier: BSD-3-Clause
"""librpma's and verbs' constants as enumerations, under their own names."""

from enum import IntEnum, IntFlag

from rpma._native import lib, text


class Usage(IntFlag):
    """What a memory region is registered for (RPMA_MR_USAGE_*). Combine with ``|``."""

    READ_SRC = lib.RPMA_MR_USAGE_READ_SRC
    """The other side reads from it."""
    READ_DST = lib.RPMA_MR_USAGE_READ_DST
    """This side reads into it."""
    WRITE_SRC = lib.RPMA_MR_USAGE_WRITE_SRC
    """This side writes from it."""
    WRITE_DST = lib.RPMA_MR_USAGE_WRITE_DST
    """The other side writes into it."""
    FLUSH_TYPE_VISIBILITY = lib.RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY
    """The other side may flush what it wrote until it is visible here."""
    FLUSH_TYPE_PERSISTENT = lib.RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT
    """The other side may flush what it wrote until it is durable. For persistent memory: a device
    that flushes by itself refuses others (docs/durability.md)."""
    SEND = lib.RPMA_MR_USAGE_SEND
    """Messages are sent from it."""
    RECV = lib.RPMA_MR_USAGE_RECV
    """Messages are received into it."""


class FlushType(IntEnum):
    """How far a flush goes (enum rpma_flush_type)."""

    PERSISTENT = lib.RPMA_FLUSH_TYPE_PERSISTENT
    """Down to the persistence domain. Needs direct write to pmem on the target."""
    VISIBILITY = lib.RPMA_FLUSH_TYPE_VISIBILITY
    """Until the data is visible on the target."""


class CompletionFlags(IntFlag):
    """When a request leaves a work completion (RPMA_F_COMPLETION_*)."""

    ON_ERROR = lib.RPMA_F_COMPLETION_ON_ERROR
    """Only if it fails."""
    ALWAYS = lib.RPMA_F_COMPLETION_ALWAYS
    """Whatever its result."""


class ConnectionEvent(IntEnum):
    """What happens to a connection (enum rpma_conn_event)."""

    UNDEFINED = lib.RPMA_CONN_UNDEFINED
    ESTABLISHED = lib.RPMA_CONN_ESTABLISHED
    CLOSED = lib.RPMA_CONN_CLOSED
    """The other side disconnected."""
    LOST = lib.RPMA_CONN_LOST
    """Connecting failed half-way, or the device was removed."""
    REJECTED = lib.RPMA_CONN_REJECTED
    """The other side does not listen, or refused the request."""
    UNREACHABLE = lib.RPMA_CONN_UNREACHABLE
    """The other side does not answer."""

    def __str__(self) -> str:
        """librpma's words for it (rpma_utils_conn_event_2str)."""
        return text(lib.rpmapy_conn_event_2str(int(self)))


class WcStatus(IntEnum):
    """How a request ended (enum ibv_wc_status)."""

    SUCCESS = lib.IBV_WC_SUCCESS
    LOC_LEN_ERR = lib.IBV_WC_LOC_LEN_ERR
    LOC_QP_OP_ERR = lib.IBV_WC_LOC_QP_OP_ERR
    LOC_EEC_OP_ERR = lib.IBV_WC_LOC_EEC_OP_ERR
    LOC_PROT_ERR = lib.IBV_WC_LOC_PROT_ERR
    WR_FLUSH_ERR = lib.IBV_WC_WR_FLUSH_ERR
    MW_BIND_ERR = lib.IBV_WC_MW_BIND_ERR
    BAD_RESP_ERR = lib.IBV_WC_BAD_RESP_ERR
    LOC_ACCESS_ERR = lib.IBV_WC_LOC_ACCESS_ERR
    REM_INV_REQ_ERR = lib.IBV_WC_REM_INV_REQ_ERR
    REM_ACCESS_ERR = lib.IBV_WC_REM_ACCESS_ERR
    REM_OP_ERR = lib.IBV_WC_REM_OP_ERR
    RETRY_EXC_ERR = lib.IBV_WC_RETRY_EXC_ERR
    RNR_RETRY_EXC_ERR = lib.IBV_WC_RNR_RETRY_EXC_ERR
    LOC_RDD_VIOL_ERR = lib.IBV_WC_LOC_RDD_VIOL_ERR
    REM_INV_RD_REQ_ERR = lib.IBV_WC_REM_INV_RD_REQ_ERR
    REM_ABORT_ERR = lib.IBV_WC_REM_ABORT_ERR
    INV_EECN_ERR = lib.IBV_WC_INV_EECN_ERR
    INV_EEC_STATE_ERR = lib.IBV_WC_INV_EEC_STATE_ERR
    FATAL_ERR = lib.IBV_WC_FATAL_ERR
    RESP_TIMEOUT_ERR = lib.IBV_WC_RESP_TIMEOUT_ERR
    GENERAL_ERR = lib.IBV_WC_GENERAL_ERR
    TM_ERR = lib.IBV_WC_TM_ERR
    TM_RNDV_INCOMPLETE = lib.IBV_WC_TM_RNDV_INCOMPLETE

    def __str__(self) -> str:
        """libibverbs' words for it (ibv_wc_status_str)."""
        return text(lib.rpmapy_wc_status_2str(int(self)))


class WcOpcode(IntEnum):
    """What a completed request was (enum ibv_wc_opcode). Undefined where the request failed."""

    SEND = lib.IBV_WC_SEND
    RDMA_WRITE = lib.IBV_WC_RDMA_WRITE
    RDMA_READ = lib.IBV_WC_RDMA_READ
    COMP_SWAP = lib.IBV_WC_COMP_SWAP
    FETCH_ADD = lib.IBV_WC_FETCH_ADD
    BIND_MW = lib.IBV_WC_BIND_MW
    LOCAL_INV = lib.IBV_WC_LOCAL_INV
    FLUSH = lib.IBV_WC_FLUSH
    """A flush, by a device that has it; by others it is an RDMA_READ."""
    ATOMIC_WRITE = lib.IBV_WC_ATOMIC_WRITE
    """An atomic write, by a device that has it; by others it is an RDMA_WRITE."""
    RECV = lib.IBV_WC_RECV
    RECV_RDMA_WITH_IMM = lib.IBV_WC_RECV_RDMA_WITH_IMM


class WcFlags(IntFlag):
    """What a work completion carries (enum ibv_wc_flags)."""

    GRH = lib.IBV_WC_GRH
    WITH_IMM = lib.IBV_WC_WITH_IMM
    WITH_INV = lib.IBV_WC_WITH_INV


class Advice(IntEnum):
    """What is going to happen to a range of memory (enum ibv_advise_mr_advice)."""

    PREFETCH = lib.IBV_ADVISE_MR_ADVICE_PREFETCH
    """It will be read."""
    PREFETCH_WRITE = lib.IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE
    """It will be written."""
    PREFETCH_NO_FAULT = lib.IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT
    """It will be read; what is not in memory yet is left out."""


class AdviseFlags(IntFlag):
    """How to take an advice (ibv_advise_mr(3))."""

    NONE = 0
    FLUSH = lib.IBV_ADVISE_MR_FLAG_FLUSH
    """Return only when it is done."""


DEFAULT_TIMEOUT_MS: int = lib.RPMA_DEFAULT_TIMEOUT_MS
"""How long resolving an address takes at most, in milliseconds, unless configured."""

ATOMIC_WRITE_ALIGNMENT: int = lib.RPMA_ATOMIC_WRITE_ALIGNMENT
"""Size and alignment of an atomic write, in bytes."""
