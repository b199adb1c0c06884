/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request.c -- rpma_read, rpma_write, rpma_flush, rpma_send, rpma_recv and their kin, each checked
 * against the regions it names. librpma checks none of this; a request that goes wrong on the wire
 * takes its connection down.
 */
#include "binding.h"

#include <errno.h>

/* librpma's flush by the appliance method reads this much at the offset it is given. */
#define FLUSH_READ_SIZE 8

/* NULL stands for no data, which librpma allows: then all is 0. */
bool
local_ok(const struct handle *peer, const struct rpmapy_local *mr, int usage, size_t offset,
	 size_t length)
{
	if (!mr)
		return !offset && !length;
	/* A request's length has 32 bits; librpma would cut it. */
	return mr->peer == peer && mr->usage & usage && offset <= mr->size &&
	       length <= mr->size - offset && length <= UINT32_MAX;
}

bool
remote_ok(const struct rpmapy_remote *mr, int usage, size_t offset, size_t length)
{
	if (!mr)
		return !offset && !length;
	return mr->usage & usage && offset <= mr->size && length <= mr->size - offset;
}

/*
 * A flush of the last bytes of a region must not read beyond it: start earlier, which flushes no
 * less. False: the range is outside, the region too small to flush, or there is no such flush, for
 * which librpma would do one or the other.
 */
bool
flush_range(const struct rpmapy_remote *mr, int type, size_t *offset, size_t *length)
{
	if (type != RPMA_FLUSH_TYPE_PERSISTENT && type != RPMA_FLUSH_TYPE_VISIBILITY)
		return false;
	if (!mr || *offset > mr->size || *length > mr->size - *offset || mr->size < FLUSH_READ_SIZE)
		return false;
	if (*offset > mr->size - FLUSH_READ_SIZE) {
		*length += *offset - (mr->size - FLUSH_READ_SIZE);
		*offset = mr->size - FLUSH_READ_SIZE;
	}
	return true;
}

int
post_result(int ret)
{
	return ret == RPMA_E_PROVIDER && call_failed_with(ENOMEM) ? RPMAPY_E_QUEUE_FULL : ret;
}

static bool
request_ok(int flags, uint64_t wr_id)
{
	return wr_id < RPMAPY_WR_ID_RESERVED &&
	       (flags == RPMA_F_COMPLETION_ON_ERROR || flags == RPMA_F_COMPLETION_ALWAYS);
}

#define OBJECT(typed) ((typed) ? (typed)->handle.object : NULL)
#define CONTEXT(wr_id) ((const void *)(uintptr_t)(wr_id))

/* librpma(3): a connection is used by one thread at a time. */
static void
post_begin(struct rpmapy_conn *conn)
{
	handle_use(&conn->handle);
	call_begin();
}

static void
post_end(struct rpmapy_conn *conn)
{
	handle_done(&conn->handle);
}

int
rpmapy_read(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t dst_offset,
	    struct rpmapy_remote *src, size_t src_offset, size_t length, int flags, uint64_t wr_id)
{
	if (!request_ok(flags, wr_id) || !dst != !src ||
	    !local_ok(conn->common.peer, dst, RPMA_MR_USAGE_READ_DST, dst_offset, length) ||
	    !remote_ok(src, RPMA_MR_USAGE_READ_SRC, src_offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, HANDLE(dst), HANDLE(src));
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(rpma_read(conn->handle.object, OBJECT(dst), dst_offset, OBJECT(src),
				    src_offset, length, flags, CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, HANDLE(dst), HANDLE(src));
	return ret;
}

int
rpmapy_write(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
	     struct rpmapy_local *src, size_t src_offset, size_t length, int flags, uint64_t wr_id)
{
	if (!request_ok(flags, wr_id) || !dst != !src ||
	    !local_ok(conn->common.peer, src, RPMA_MR_USAGE_WRITE_SRC, src_offset, length) ||
	    !remote_ok(dst, RPMA_MR_USAGE_WRITE_DST, dst_offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, HANDLE(dst), HANDLE(src));
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(rpma_write(conn->handle.object, OBJECT(dst), dst_offset, OBJECT(src),
				     src_offset, length, flags, CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, HANDLE(dst), HANDLE(src));
	return ret;
}

int
rpmapy_write_with_imm(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		      struct rpmapy_local *src, size_t src_offset, size_t length, uint32_t imm,
		      int flags, uint64_t wr_id)
{
	if (!request_ok(flags, wr_id) || !dst != !src ||
	    !local_ok(conn->common.peer, src, RPMA_MR_USAGE_WRITE_SRC, src_offset, length) ||
	    !remote_ok(dst, RPMA_MR_USAGE_WRITE_DST, dst_offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, HANDLE(dst), HANDLE(src));
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(rpma_write_with_imm(conn->handle.object, OBJECT(dst), dst_offset,
					      OBJECT(src), src_offset, length, flags, imm,
					      CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, HANDLE(dst), HANDLE(src));
	return ret;
}

int
rpmapy_atomic_write(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		    const char *src, int flags, uint64_t wr_id)
{
	if (!request_ok(flags, wr_id) || !dst || dst_offset % RPMA_ATOMIC_WRITE_ALIGNMENT ||
	    !remote_ok(dst, RPMA_MR_USAGE_WRITE_DST, dst_offset, RPMA_ATOMIC_WRITE_ALIGNMENT))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, &dst->handle, NULL);
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(rpma_atomic_write(conn->handle.object, dst->handle.object, dst_offset,
					    src, flags, CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, &dst->handle, NULL);
	return ret;
}

int
rpmapy_flush(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset, size_t length,
	     int type, int flags, uint64_t wr_id)
{
	if (!request_ok(flags, wr_id) || !flush_range(dst, type, &dst_offset, &length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, &dst->handle, NULL);
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(rpma_flush(conn->handle.object, dst->handle.object, dst_offset, length,
				     (enum rpma_flush_type)type, flags, CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, &dst->handle, NULL);
	return ret;
}

int
rpmapy_send(struct rpmapy_conn *conn, struct rpmapy_local *src, size_t offset, size_t length,
	    int flags, uint64_t wr_id)
{
	if (!request_ok(flags, wr_id) ||
	    !local_ok(conn->common.peer, src, RPMA_MR_USAGE_SEND, offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, HANDLE(src), NULL);
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(
		rpma_send(conn->handle.object, OBJECT(src), offset, length, flags, CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, HANDLE(src), NULL);
	return ret;
}

int
rpmapy_send_with_imm(struct rpmapy_conn *conn, struct rpmapy_local *src, size_t offset,
		     size_t length, uint32_t imm, int flags, uint64_t wr_id)
{
	if (!request_ok(flags, wr_id) ||
	    !local_ok(conn->common.peer, src, RPMA_MR_USAGE_SEND, offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, HANDLE(src), NULL);
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(rpma_send_with_imm(conn->handle.object, OBJECT(src), offset, length,
					     flags, imm, CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, HANDLE(src), NULL);
	return ret;
}

int
rpmapy_recv(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t offset, size_t length,
	    uint64_t wr_id)
{
	if (wr_id >= RPMAPY_WR_ID_RESERVED ||
	    !local_ok(conn->common.peer, dst, RPMA_MR_USAGE_RECV, offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, HANDLE(dst), NULL);
	if (ret)
		return ret;
	post_begin(conn);
	ret = post_result(
		rpma_recv(conn->handle.object, OBJECT(dst), offset, length, CONTEXT(wr_id)));
	post_end(conn);
	handles_leave(&conn->handle, HANDLE(dst), NULL);
	return ret;
}
