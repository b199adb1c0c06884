/* SPDX-License-Identifier: BSD-3-Clause */
/* operation.c -- checks of what is posted to connections and polled from their CQs. */
#include "validation.h"

#include <stdio.h>

static const char *
event_text(int event)
{
	return event == RPMA_CONN_CLOSED        ? "RPMA_CONN_CLOSED"
	       : event == RPMA_CONN_LOST        ? "RPMA_CONN_LOST"
	       : event == RPMA_CONN_REJECTED    ? "RPMA_CONN_REJECTED"
	       : event == RPMA_CONN_UNREACHABLE ? "RPMA_CONN_UNREACHABLE"
						: "an event";
}

static void
check_state(struct call *call, struct object *conn, bool is_receive)
{
	int state = atomic_load_explicit(&conn->conn.state, memory_order_relaxed);
	if (state == CONN_ESTABLISHED || (state == CONN_CONNECTING && is_receive))
		return;
	/* Whose message has come is connected; the event may still wait to be looked at. */
	if (state == CONN_CONNECTING && conn->conn.is_passive && requests_have_received(conn))
		return;
	if (state == CONN_CONNECTING)
		warning(call, conn,
			"conn, conn#%u, is not established: rpma_conn_next_event() has not told "
			"RPMA_CONN_ESTABLISHED yet",
			conn->number);
	else if (state == CONN_DISCONNECTING)
		warning(call, conn, "conn, conn#%u, is being disconnected", conn->number);
	else
		warning(call, conn, "conn, conn#%u, has ended: rpma_conn_next_event() told %s",
			conn->number, event_text(atomic_load(&conn->conn.event)));
}

/* False: the normal library refuses them. */
static bool
check_flags(struct call *call, int flags)
{
	if (!flags)
		hint(call, "flags is 0: RPMA_F_COMPLETION_ALWAYS or RPMA_F_COMPLETION_ON_ERROR");
	else if (flags != RPMA_F_COMPLETION_ALWAYS && flags != RPMA_F_COMPLETION_ON_ERROR)
		warning(call, NULL,
			"flags is 0x%x, neither RPMA_F_COMPLETION_ALWAYS nor "
			"RPMA_F_COMPLETION_ON_ERROR",
			flags);
	return flags != 0;
}

/* One of src and dst: an operation of no bytes has neither. */
static bool
check_nothing(struct call *call, const void *one, const void *other, size_t offsets)
{
	if (!one && !other && !offsets)
		return true;
	hint(call, "%s",
	     one || other ? "one of src and dst is NULL, and the other is not"
			  : "without src and dst, offsets and len are 0");
	return false;
}

struct transfer {
	struct object *conn;
	const char *local_name, *remote_name;
	struct object *local, *remote;
	size_t local_offset, remote_offset, len;
	int local_usage, remote_usage;
	int flags;
	const void *op_context;
};

/* 0: to be forwarded, whatever the normal library will say to it. */
static int
check_transfer(struct call *call, const struct transfer *transfer)
{
	struct object *conn = transfer->conn;
	int ret = 0;
	check_state(call, conn, false);
	bool is_refused = !check_flags(call, transfer->flags);
	if (transfer->local && (transfer->remote || !transfer->remote_name))
		ret = check_local(call, transfer->local_name, transfer->local, conn->peer,
				  transfer->local_offset, transfer->len, transfer->local_usage);
	else if (transfer->local_name)
		is_refused |= !check_nothing(call, transfer->local, transfer->remote,
					     transfer->local_offset | transfer->remote_offset |
						     transfer->len);
	if (!ret && transfer->remote && (transfer->local || !transfer->local_name))
		ret = check_remote(call, transfer->remote_name, transfer->remote,
				   transfer->remote_offset, transfer->len, transfer->remote_usage);
	if (ret)
		return ret;
	struct posting posting = {
		.is_signalled =
			transfer->flags & (RPMA_F_COMPLETION_ALWAYS & ~RPMA_F_COMPLETION_ON_ERROR),
		.local = transfer->local,
		.offset = transfer->local_offset,
		.len = transfer->len,
		.op_context = transfer->op_context,
	};
	call->is_posted = !is_refused;
	if (call->is_posted)
		requests_post(call, conn, &posting);
	return 0;
}

int
check_rpma_read(struct call *call, struct object *conn, struct object *dst, size_t dst_offset,
		struct object *src, size_t src_offset, size_t len, int flags,
		const void *op_context)
{
	return check_transfer(call, &(struct transfer){.conn = conn,
						       .local_name = "dst",
						       .local = dst,
						       .local_offset = dst_offset,
						       .local_usage = RPMA_MR_USAGE_READ_DST,
						       .remote_name = "src",
						       .remote = src,
						       .remote_offset = src_offset,
						       .remote_usage = RPMA_MR_USAGE_READ_SRC,
						       .len = len,
						       .flags = flags,
						       .op_context = op_context});
}

int
check_rpma_write(struct call *call, struct object *conn, struct object *dst, size_t dst_offset,
		 struct object *src, size_t src_offset, size_t len, int flags,
		 const void *op_context)
{
	return check_transfer(call, &(struct transfer){.conn = conn,
						       .local_name = "src",
						       .local = src,
						       .local_offset = src_offset,
						       .local_usage = RPMA_MR_USAGE_WRITE_SRC,
						       .remote_name = "dst",
						       .remote = dst,
						       .remote_offset = dst_offset,
						       .remote_usage = RPMA_MR_USAGE_WRITE_DST,
						       .len = len,
						       .flags = flags,
						       .op_context = op_context});
}

int
check_rpma_write_with_imm(struct call *call, struct object *conn, struct object *dst,
			  size_t dst_offset, struct object *src, size_t src_offset, size_t len,
			  int flags, uint32_t imm, const void *op_context)
{
	(void)imm;
	return check_rpma_write(call, conn, dst, dst_offset, src, src_offset, len, flags,
				op_context);
}

int
check_rpma_atomic_write(struct call *call, struct object *conn, struct object *dst,
			size_t dst_offset, const char src[8], int flags, const void *op_context)
{
	if (!src) {
		hint(call, "src is NULL");
		return RPMA_E_INVAL;
	}
	if (dst_offset % RPMA_ATOMIC_WRITE_ALIGNMENT) {
		hint(call, "dst_offset is %zu: an atomic write goes to a multiple of %d",
		     dst_offset, RPMA_ATOMIC_WRITE_ALIGNMENT);
		return RPMA_E_INVAL;
	}
	if ((dst->remote.raddr + dst_offset) % RPMA_ATOMIC_WRITE_ALIGNMENT)
		warning(call, dst,
			"an atomic write at offset %zu of dst, mr_remote#%u, is not aligned to %d "
			"bytes, and may not be atomic: the region begins at 0x%llx on its node",
			dst_offset, dst->number, RPMA_ATOMIC_WRITE_ALIGNMENT,
			(unsigned long long)dst->remote.raddr);
	return check_transfer(call, &(struct transfer){.conn = conn,
						       .remote_name = "dst",
						       .remote = dst,
						       .remote_offset = dst_offset,
						       .remote_usage = RPMA_MR_USAGE_WRITE_DST,
						       .len = RPMA_ATOMIC_WRITE_ALIGNMENT,
						       .flags = flags,
						       .op_context = op_context});
}

int
check_rpma_flush(struct call *call, struct object *conn, struct object *dst, size_t dst_offset,
		 size_t len, enum rpma_flush_type type, int flags, const void *op_context)
{
	bool is_persistent = type == RPMA_FLUSH_TYPE_PERSISTENT;
	int usage = is_persistent ? RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT
				  : RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY;
	if (!is_persistent && type != RPMA_FLUSH_TYPE_VISIBILITY)
		return finding(call, NULL,
			       "type is %d, neither RPMA_FLUSH_TYPE_PERSISTENT nor "
			       "RPMA_FLUSH_TYPE_VISIBILITY",
			       (int)type);
	if (is_persistent && !conn->conn.has_direct_write)
		hint(call,
		     "conn#%u has no configuration of the remote peer that says that writes go "
		     "directly to persistent memory: rpma_conn_apply_remote_peer_cfg(), of a "
		     "peer_cfg with rpma_peer_cfg_set_direct_write_to_pmem()",
		     conn->number);
	if (!(dst->remote.usage & usage))
		hint(call, "dst, mr_remote#%u, is not registered for %s", dst->number,
		     is_persistent ? "RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT"
				   : "RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY");
	return check_transfer(call, &(struct transfer){.conn = conn,
						       .remote_name = "dst",
						       .remote = dst,
						       .remote_offset = dst_offset,
						       .len = len,
						       .flags = flags,
						       .op_context = op_context});
}

int
check_rpma_send(struct call *call, struct object *conn, struct object *src, size_t offset,
		size_t len, int flags, const void *op_context)
{
	return check_transfer(call, &(struct transfer){.conn = conn,
						       .local_name = "src",
						       .local = src,
						       .local_offset = offset,
						       .local_usage = RPMA_MR_USAGE_SEND,
						       .len = len,
						       .flags = flags,
						       .op_context = op_context});
}

int
check_rpma_send_with_imm(struct call *call, struct object *conn, struct object *src, size_t offset,
			 size_t len, int flags, uint32_t imm, const void *op_context)
{
	(void)imm;
	return check_rpma_send(call, conn, src, offset, len, flags, op_context);
}

/* ---- receives ---- */

static int
check_receive(struct call *call, struct object *owner, struct object *dst, size_t offset,
	      size_t len, const void *op_context)
{
	if (dst) {
		int ret =
			check_local(call, "dst", dst, owner->peer, offset, len, RPMA_MR_USAGE_RECV);
		if (ret)
			return ret;
	} else if (offset || len) {
		hint(call, "dst is NULL, and offset and len are not 0");
		return 0;
	}
	struct posting posting = {.is_receive = true,
				  .is_signalled = true,
				  .local = dst,
				  .offset = offset,
				  .len = len,
				  .op_context = op_context};
	call->is_posted = true;
	requests_post(call, owner, &posting);
	return 0;
}

/* A receive of a connection's own: it may have none. */
static int
check_own_receive(struct call *call, struct object *owner, struct object *dst, size_t offset,
		  size_t len, const void *op_context)
{
	if (!owner->conn.srq)
		return check_receive(call, owner, dst, offset, len, op_context);
	hint(call, "%s#%u receives through srq#%u: post to it, with rpma_srq_recv()",
	     kind_names[atomic_load(&owner->state) >> 2], owner->number, owner->conn.srq->number);
	return 0;
}

int
check_rpma_recv(struct call *call, struct object *conn, struct object *dst, size_t offset,
		size_t len, const void *op_context)
{
	check_state(call, conn, true);
	return check_own_receive(call, conn, dst, offset, len, op_context);
}

int
check_rpma_conn_req_recv(struct call *call, struct object *req, struct object *dst, size_t offset,
			 size_t len, const void *op_context)
{
	return check_own_receive(call, req, dst, offset, len, op_context);
}

int
check_rpma_srq_recv(struct call *call, struct object *srq, struct object *dst, size_t offset,
		    size_t len, const void *op_context)
{
	return check_receive(call, srq, dst, offset, len, op_context);
}

/* ---- completions ---- */

int
check_rpma_cq_get_wc(struct call *call, struct object *cq, int num_entries, struct ibv_wc *wc,
		     int *num_entries_got)
{
	(void)cq;
	if (!wc)
		hint(call, "wc is NULL");
	else if (num_entries < 1)
		hint(call, "num_entries is %d, less than 1", num_entries);
	else if (num_entries > 1 && !num_entries_got)
		hint(call, "num_entries_got is NULL, and num_entries is more than 1");
	return 0;
}

void
after_rpma_cq_get_wc(struct call *call, int ret, struct object *cq, int num_entries,
		     struct ibv_wc *wc, int *num_entries_got)
{
	int count = ret ? 0 : num_entries_got ? *num_entries_got : 1;
	for (int i = 0; i < count; i++)
		requests_complete(call, cq, &wc[i]);
	if (ret == RPMA_E_NO_COMPLETION || (!ret && count < num_entries))
		requests_none_left(call, cq);
}
