/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * operation.c -- several requests and the wait for them, in one call: a transfer, perhaps of many
 * segments, perhaps with a flush behind it. The send queue is kept filled and never overrun. A
 * call that comes back with RPMAPY_AGAIN goes on in rpmapy_operation_resume().
 */
#include "binding.h"

#include <string.h>

/* Under the lock of the CQ. */
void
operation_complete(struct operation *operation, const struct ibv_wc *wc)
{
	/* One of an operation that was given up (a timeout, Ctrl-C) is nobody's any more. */
	uint64_t request = wc->wr_id - operation->first_tag;
	if (!operation->active || request >= operation->total)
		return;
	/* A send queue completes in order: this one retires all before it. */
	if (request + 1 > operation->retired)
		operation->retired = request + 1;
	if (wc->status != IBV_WC_SUCCESS && !operation->has_failed) {
		operation->has_failed = true;
		operation->failed_request = request;
		operation->failure = *wc;
	}
}

/* False: another thread's operation is under way. */
static bool
begin(struct rpmapy_conn *conn, const struct operation *wanted)
{
	if (atomic_exchange(&conn->operating, true))
		return false;
	conn->operator= pthread_self();
	pthread_mutex_lock(&conn->cq.lock);
	conn->operation = *wanted;
	if (!wanted->segments)
		conn->operation.segments = &conn->operation.single;
	conn->operation.active = true;
	conn->operation.first_tag = RPMAPY_WR_ID_RESERVED | conn->next_tag;
	conn->next_tag = (conn->next_tag + wanted->total) & ~RPMAPY_WR_ID_RESERVED;
	pthread_mutex_unlock(&conn->cq.lock);
	return true;
}

static void
end(struct rpmapy_conn *conn)
{
	pthread_mutex_lock(&conn->cq.lock);
	conn->operation.active = false;
	pthread_mutex_unlock(&conn->cq.lock);
	atomic_store(&conn->operating, false);
}

static size_t
window(const struct rpmapy_conn *conn)
{
	/* When a connection fails, every request completes: the CQ has to hold them all. */
	uint32_t least = conn->common.sq_size < conn->common.cq_size ? conn->common.sq_size
								     : conn->common.cq_size;
	return least ? least : 1;
}

static int
post_request(struct rpmapy_conn *conn, struct operation *op, size_t request, bool signalled)
{
	const struct rpmapy_segment *segment = &op->segments[request];
	void *object = conn->handle.object;
	void *remote = op->remote ? op->remote->handle.object : NULL;
	void *local = op->local ? op->local->handle.object : NULL;
	int flags = signalled ? RPMA_F_COMPLETION_ALWAYS : RPMA_F_COMPLETION_ON_ERROR;
	const void *tag = (const void *)(uintptr_t)(op->first_tag + request);
	if (request == op->transfers)
		return rpma_flush(object, remote, op->flush_offset, op->flush_length,
				  (enum rpma_flush_type)op->flush_type, flags, tag);
	switch (op->kind) {
	case OPERATION_READ:
		return rpma_read(object, local, segment->dst_offset, remote, segment->src_offset,
				 segment->length, flags, tag);
	case OPERATION_WRITE:
		return rpma_write(object, remote, segment->dst_offset, local, segment->src_offset,
				  segment->length, flags, tag);
	case OPERATION_ATOMIC_WRITE:
		return rpma_atomic_write(object, remote, segment->dst_offset, op->value, flags,
					 tag);
	case OPERATION_SEND:
		return rpma_send(object, local, segment->src_offset, segment->length, flags, tag);
	}
	return RPMA_E_INVAL;
}

/*
 * Post as much as the send queue takes. Every half queue asks for a completion, and the last.
 * full: the program's own requests leave no room; one of ours will make some.
 */
static int
post_while_room(struct rpmapy_conn *conn, struct operation *op, bool *full)
{
	*full = false;
	size_t limit = window(conn);
	size_t interval = limit > 1 ? limit / 2 : 1;
	while (op->posted < op->total && op->posted - op->retired < limit) {
		size_t request = op->posted;
		bool signalled = request + 1 == op->total || (request + 1) % interval == 0;
		bool may_be_full = op->signalled > op->retired;
		/* Counted first: another thread may meet its completion before this one is back. */
		op->posted++;
		if (may_be_full)
			log_quiet_begin();
		int ret = post_result(post_request(conn, op, request, signalled));
		if (may_be_full)
			log_quiet_end();
		if (ret) {
			op->posted--;
			*full = ret == RPMAPY_E_QUEUE_FULL && may_be_full;
			return *full ? 0 : ret;
		}
		if (signalled)
			op->signalled = request + 1;
	}
	return 0;
}

static int
post_more(struct rpmapy_conn *conn, struct operation *op, bool *full)
{
	handle_use(&conn->handle);
	int ret = post_while_room(conn, op, full);
	handle_done(&conn->handle);
	return ret;
}

static int
run(struct rpmapy_conn *conn, int64_t deadline)
{
	struct operation *op = &conn->operation;
	struct polling polling = {0};
	for (;;) {
		bool full = false;
		int ret = op->has_failed ? 0 : post_more(conn, op, &full);
		if (ret)
			return ret;
		size_t retired = op->retired;
		ret = cq_drain(&conn->cq);
		if (ret)
			return ret;
		if (op->has_failed && op->retired == op->posted)
			return RPMAPY_E_COMPLETION;
		if (op->retired != retired) { /* what follows is another wait */
			wait_learn(&polling, &conn->cq);
			polling = (struct polling){0};
		}
		if (op->retired == op->total)
			return 0;
		if (!op->has_failed && op->posted < op->total &&
		    op->posted - op->retired < window(conn) && (!full || op->retired > retired))
			continue;
		if (wait_polls(&polling, &conn->cq))
			continue;
		ret = conn_wait_completion_event(conn, &conn->cq, deadline, NULL);
		if (ret == RPMAPY_AGAIN)
			wait_learn(&polling, &conn->cq);
		if (ret == RPMAPY_E_ENDED && op->has_failed)
			return RPMAPY_E_COMPLETION;
		if (ret)
			return ret;
	}
}

/* Run until there is something to say. Only RPMAPY_AGAIN leaves the operation under way. */
static int
proceed(struct rpmapy_conn *conn, int64_t deadline)
{
	struct operation *op = &conn->operation;
	int ret = handles_enter(&conn->handle, HANDLE(op->local), HANDLE(op->remote));
	if (!ret) {
		call_begin();
		ret = run(conn, deadline);
		handles_leave(&conn->handle, HANDLE(op->local), HANDLE(op->remote));
	}
	if (ret != RPMAPY_AGAIN)
		end(conn);
	return ret;
}

static int
start(struct rpmapy_conn *conn, struct operation *wanted, int64_t deadline)
{
	/* First: in a forked child the locks may be held by threads that it does not have. */
	int ret = rpmapy_state(&conn->handle);
	if (ret)
		return ret;
	wanted->total = wanted->transfers + (wanted->flush_type != RPMAPY_NO_FLUSH);
	if (!wanted->total)
		return 0;
	if (!begin(conn, wanted))
		return RPMAPY_E_BUSY;
	return proceed(conn, deadline);
}

int
rpmapy_operation_resume(struct rpmapy_conn *conn, int64_t deadline)
{
	return proceed(conn, deadline);
}

/*
 * Python stops waiting (Ctrl-C): completions that come later are dropped. True if an operation of
 * this thread was under way.
 */
bool
rpmapy_operation_abandon(struct rpmapy_conn *conn)
{
	if (!atomic_load(&conn->operating) || !pthread_equal(conn->operator, pthread_self()))
		return false;
	end(conn);
	return true;
}

int
rpmapy_read_wait(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t dst_offset,
		 struct rpmapy_remote *src, size_t src_offset, size_t length, int64_t deadline)
{
	if (!dst || !src ||
	    !local_ok(conn->common.peer, dst, RPMA_MR_USAGE_READ_DST, dst_offset, length) ||
	    !remote_ok(src, RPMA_MR_USAGE_READ_SRC, src_offset, length))
		return RPMAPY_E_ARGUMENT;
	struct operation op = {.kind = OPERATION_READ,
			       .remote = src,
			       .local = dst,
			       .single = {dst_offset, src_offset, length},
			       .transfers = 1,
			       .flush_type = RPMAPY_NO_FLUSH};
	return start(conn, &op, deadline);
}

int
rpmapy_write_wait(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		  struct rpmapy_local *src, size_t src_offset, size_t length, int flush_type,
		  int64_t deadline)
{
	if (!dst || !src ||
	    !local_ok(conn->common.peer, src, RPMA_MR_USAGE_WRITE_SRC, src_offset, length) ||
	    !remote_ok(dst, RPMA_MR_USAGE_WRITE_DST, dst_offset, length))
		return RPMAPY_E_ARGUMENT;
	struct operation op = {.kind = OPERATION_WRITE,
			       .remote = dst,
			       .local = src,
			       .single = {dst_offset, src_offset, length},
			       .transfers = 1,
			       .flush_type = flush_type,
			       .flush_offset = dst_offset,
			       .flush_length = length};
	if (flush_type != RPMAPY_NO_FLUSH &&
	    !flush_range(dst, flush_type, &op.flush_offset, &op.flush_length))
		return RPMAPY_E_ARGUMENT;
	return start(conn, &op, deadline);
}

int
rpmapy_atomic_write_wait(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
			 const char *src, int64_t deadline)
{
	if (!dst || dst_offset % RPMA_ATOMIC_WRITE_ALIGNMENT ||
	    !remote_ok(dst, RPMA_MR_USAGE_WRITE_DST, dst_offset, RPMA_ATOMIC_WRITE_ALIGNMENT))
		return RPMAPY_E_ARGUMENT;
	struct operation op = {.kind = OPERATION_ATOMIC_WRITE,
			       .remote = dst,
			       .single = {dst_offset, 0, RPMA_ATOMIC_WRITE_ALIGNMENT},
			       .transfers = 1,
			       .flush_type = RPMAPY_NO_FLUSH};
	memcpy(op.value, src, sizeof(op.value));
	return start(conn, &op, deadline);
}

int
rpmapy_flush_wait(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		  size_t length, int type, int64_t deadline)
{
	struct operation op = {.remote = dst,
			       .flush_type = type,
			       .flush_offset = dst_offset,
			       .flush_length = length};
	if (!flush_range(dst, type, &op.flush_offset, &op.flush_length))
		return RPMAPY_E_ARGUMENT;
	return start(conn, &op, deadline);
}

int
rpmapy_send_wait(struct rpmapy_conn *conn, struct rpmapy_local *src, size_t offset, size_t length,
		 int64_t deadline)
{
	if (!local_ok(conn->common.peer, src, RPMA_MR_USAGE_SEND, offset, length))
		return RPMAPY_E_ARGUMENT;
	struct operation op = {.kind = OPERATION_SEND,
			       .local = src,
			       .single = {0, offset, length},
			       .transfers = 1,
			       .flush_type = RPMAPY_NO_FLUSH};
	return start(conn, &op, deadline);
}

int
rpmapy_read_batch(struct rpmapy_conn *conn, struct rpmapy_local *dst, struct rpmapy_remote *src,
		  const struct rpmapy_segment *segments, size_t count, int64_t deadline)
{
	if (!dst || !src)
		return RPMAPY_E_ARGUMENT;
	for (size_t i = 0; i < count; i++) {
		if (!local_ok(conn->common.peer, dst, RPMA_MR_USAGE_READ_DST,
			      segments[i].dst_offset, segments[i].length) ||
		    !remote_ok(src, RPMA_MR_USAGE_READ_SRC, segments[i].src_offset,
			       segments[i].length))
			return RPMAPY_E_ARGUMENT;
	}
	struct operation op = {.kind = OPERATION_READ,
			       .remote = src,
			       .local = dst,
			       .segments = segments,
			       .transfers = count,
			       .flush_type = RPMAPY_NO_FLUSH};
	return start(conn, &op, deadline);
}

/* The flush, if any, covers from the first byte written to the last. */
int
rpmapy_write_batch(struct rpmapy_conn *conn, struct rpmapy_remote *dst, struct rpmapy_local *src,
		   const struct rpmapy_segment *segments, size_t count, int flush_type,
		   int64_t deadline)
{
	if (!dst || !src)
		return RPMAPY_E_ARGUMENT;
	size_t first = SIZE_MAX, last = 0;
	for (size_t i = 0; i < count; i++) {
		if (!local_ok(conn->common.peer, src, RPMA_MR_USAGE_WRITE_SRC,
			      segments[i].src_offset, segments[i].length) ||
		    !remote_ok(dst, RPMA_MR_USAGE_WRITE_DST, segments[i].dst_offset,
			       segments[i].length))
			return RPMAPY_E_ARGUMENT;
		if (segments[i].dst_offset < first)
			first = segments[i].dst_offset;
		if (segments[i].dst_offset + segments[i].length > last)
			last = segments[i].dst_offset + segments[i].length;
	}
	if (!count)
		flush_type = RPMAPY_NO_FLUSH;
	struct operation op = {.kind = OPERATION_WRITE,
			       .remote = dst,
			       .local = src,
			       .segments = segments,
			       .transfers = count,
			       .flush_type = flush_type,
			       .flush_offset = first,
			       .flush_length = last - first};
	if (flush_type != RPMAPY_NO_FLUSH &&
	    !flush_range(dst, flush_type, &op.flush_offset, &op.flush_length))
		return RPMAPY_E_ARGUMENT;
	return start(conn, &op, deadline);
}
