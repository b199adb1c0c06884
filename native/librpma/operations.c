/* SPDX-License-Identifier: BSD-3-Clause */
/* operations.c -- what is posted to a queue pair. */
#include "internal.h"

#include <arpa/inet.h>
#include <string.h>

/* A range of the program's memory; of none there is nothing to gather or scatter. */
static int
range_of(struct ibv_sge *range, const struct rpma_mr_local *region, size_t offset, size_t len)
{
	if (!region)
		return 0;
	range->addr = (uint64_t)(uintptr_t)region->mr->addr + offset;
	range->length = (uint32_t)len;
	range->lkey = region->mr->lkey;
	return 1;
}

static int
post(struct rpma_conn *conn, struct ibv_send_wr *request, int flags, const void *op_context)
{
	struct ibv_send_wr *bad;
	request->wr_id = (uint64_t)(uintptr_t)op_context;
	if (flags & ~RPMA_F_COMPLETION_ON_ERROR)
		request->send_flags |= IBV_SEND_SIGNALED;
	int error = ibv_post_send(conn->id->qp, request, &bad);
	if (error) {
		(void)provider_failed("ibv_post_send", error);
		return RPMA_E_PROVIDER; /* also for ENOMEM: the send queue is full */
	}
	return 0;
}

/* Between two regions, both or neither of which are there. */
static int
post_rdma(struct rpma_conn *conn, enum ibv_wr_opcode opcode, const struct rpma_mr_remote *remote,
	  size_t remote_offset, const struct rpma_mr_local *local, size_t local_offset, size_t len,
	  int flags, uint32_t imm, const void *op_context)
{
	struct ibv_sge range;
	if (!conn || !flags)
		return invalid("conn must not be NULL, flags not 0");
	if ((!remote || !local) && (remote || local || remote_offset || local_offset || len))
		return invalid("for 0 bytes both regions are NULL, both offsets and the length 0");
	struct ibv_send_wr request = {
		.sg_list = &range,
		.num_sge = range_of(&range, local, local_offset, len),
		.opcode = opcode,
		.imm_data = htonl(imm),
	};
	if (remote) {
		request.wr.rdma.remote_addr = remote->address + remote_offset;
		request.wr.rdma.rkey = remote->rkey;
	}
	return post(conn, &request, flags, op_context);
}

static int
post_send(struct rpma_conn *conn, enum ibv_wr_opcode opcode, const struct rpma_mr_local *src,
	  size_t offset, size_t len, int flags, uint32_t imm, const void *op_context)
{
	struct ibv_sge range;
	if (!conn || !flags)
		return invalid("conn must not be NULL, flags not 0");
	if (!src && (offset || len))
		return invalid("without src, offset and len are 0");
	struct ibv_send_wr request = {
		.sg_list = &range,
		.num_sge = range_of(&range, src, offset, len),
		.opcode = opcode,
		.imm_data = htonl(imm),
	};
	return post(conn, &request, flags, op_context);
}

int
post_recv(struct ibv_qp *qp, struct ibv_srq *srq, const struct rpma_mr_local *dst, size_t offset,
	  size_t len, const void *op_context)
{
	struct ibv_recv_wr *bad;
	struct ibv_sge range;
	if (!dst && (offset || len))
		return invalid("without dst, offset and len are 0");
	struct ibv_recv_wr request = {
		.wr_id = (uint64_t)(uintptr_t)op_context,
		.sg_list = &range,
		.num_sge = range_of(&range, dst, offset, len),
	};
	int error =
		srq ? ibv_post_srq_recv(srq, &request, &bad) : ibv_post_recv(qp, &request, &bad);
	if (error) {
		(void)provider_failed(srq ? "ibv_post_srq_recv" : "ibv_post_recv", error);
		return RPMA_E_PROVIDER; /* also for ENOMEM: the queue is full */
	}
	return 0;
}

int
rpma_read(struct rpma_conn *conn, struct rpma_mr_local *dst, size_t dst_offset,
	  const struct rpma_mr_remote *src, size_t src_offset, size_t len, int flags,
	  const void *op_context)
{
	return post_rdma(conn, IBV_WR_RDMA_READ, src, src_offset, dst, dst_offset, len, flags, 0,
			 op_context);
}

int
rpma_write(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset,
	   const struct rpma_mr_local *src, size_t src_offset, size_t len, int flags,
	   const void *op_context)
{
	return post_rdma(conn, IBV_WR_RDMA_WRITE, dst, dst_offset, src, src_offset, len, flags, 0,
			 op_context);
}

int
rpma_write_with_imm(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset,
		    const struct rpma_mr_local *src, size_t src_offset, size_t len, int flags,
		    uint32_t imm, const void *op_context)
{
	return post_rdma(conn, IBV_WR_RDMA_WRITE_WITH_IMM, dst, dst_offset, src, src_offset, len,
			 flags, imm, op_context);
}

int
rpma_atomic_write(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset,
		  const char src[8], int flags, const void *op_context)
{
	if (!conn || !dst || !src || !flags)
		return invalid("conn, dst and src must not be NULL, flags not 0");
	if (dst_offset % RPMA_ATOMIC_WRITE_ALIGNMENT)
		return invalid("dst_offset is %zu, which is no multiple of 8", dst_offset);
	struct ibv_sge range = {.addr = (uint64_t)(uintptr_t)src, .length = 8};
	struct ibv_send_wr request = {
		.sg_list = &range,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_INLINE | IBV_SEND_FENCE,
		.wr.rdma = {.remote_addr = dst->address + dst_offset, .rkey = dst->rkey},
	};
	return post(conn, &request, flags, op_context);
}

/* Where no device has a flush of its own, a read behind the writes makes them visible. */
int
rpma_flush(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset, size_t len,
	   enum rpma_flush_type type, int flags, const void *op_context)
{
	(void)len; /* the read is ordered behind all writes, of whatever length */
	if (!conn || !dst || !flags)
		return invalid("conn and dst must not be NULL, flags not 0");
	int needed;
	switch (type) {
	case RPMA_FLUSH_TYPE_PERSISTENT:
		if (!atomic_load_explicit(&conn->direct_write_to_pmem, memory_order_relaxed)) {
			say_error("the other side has not said that it can write to persistent "
				  "memory directly: see rpma_conn_apply_remote_peer_cfg()");
			return RPMA_E_NOSUPP;
		}
		needed = RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT;
		break;
	case RPMA_FLUSH_TYPE_VISIBILITY:
		needed = RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY;
		break;
	default:
		return invalid("type is %d, which is neither persistent nor visibility", (int)type);
	}
	if (!(dst->usage & needed)) {
		say_error("the region was not registered for a flush of this type");
		return RPMA_E_NOSUPP;
	}
	struct ibv_sge range = {
		.addr = (uint64_t)(uintptr_t)conn->flush_words,
		.length = sizeof(*conn->flush_words),
		.lkey = conn->flush_mr->lkey,
	};
	struct ibv_send_wr request = {
		.sg_list = &range,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_READ,
		.wr.rdma = {.remote_addr = dst->address + dst_offset, .rkey = dst->rkey},
	};
	return post(conn, &request, flags, op_context);
}

int
rpma_send(struct rpma_conn *conn, const struct rpma_mr_local *src, size_t offset, size_t len,
	  int flags, const void *op_context)
{
	return post_send(conn, IBV_WR_SEND, src, offset, len, flags, 0, op_context);
}

int
rpma_send_with_imm(struct rpma_conn *conn, const struct rpma_mr_local *src, size_t offset,
		   size_t len, int flags, uint32_t imm, const void *op_context)
{
	return post_send(conn, IBV_WR_SEND_WITH_IMM, src, offset, len, flags, imm, op_context);
}

int
rpma_recv(struct rpma_conn *conn, struct rpma_mr_local *dst, size_t offset, size_t len,
	  const void *op_context)
{
	if (!conn)
		return invalid("conn must not be NULL");
	return post_recv(conn->id->qp, NULL, dst, offset, len, op_context);
}
