/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * completion.c -- rpma_cq_*. The binding's own requests share the CQ with the program's: whoever
 * polls gives each completion to whom it belongs, so that neither loses one to the other.
 */
#include "binding.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#define POLL_BATCH 16

int
cq_init(struct rpmapy_cq *cq, struct handle *owner, struct rpmapy_conn *conn,
	struct rpma_cq *rpma_cq)
{
	cq->owner = owner;
	cq->conn = conn;
	cq->cq = rpma_cq;
	pthread_mutex_init(&cq->lock, NULL);
	int ret = rpma_cq_get_fd(rpma_cq, &cq->fd);
	return ret ? ret : set_nonblocking(cq->fd);
}

void
cq_fini(struct rpmapy_cq *cq)
{
	pthread_mutex_destroy(&cq->lock);
	free(cq->stash.entries);
}

static int
stash_put(struct wc_queue *queue, const struct ibv_wc *wc)
{
	if (queue->length == queue->capacity) {
		size_t capacity = queue->capacity ? 2 * queue->capacity : POLL_BATCH;
		struct ibv_wc *entries = malloc(capacity * sizeof(*entries));
		if (!entries)
			return RPMA_E_NOMEM;
		for (size_t i = 0; i < queue->length; i++)
			entries[i] = queue->entries[(queue->head + i) % queue->capacity];
		free(queue->entries);
		queue->entries = entries;
		queue->head = 0;
		queue->capacity = capacity;
	}
	queue->entries[(queue->head + queue->length) % queue->capacity] = *wc;
	queue->length++;
	return 0;
}

static bool
stash_take(struct wc_queue *queue, struct ibv_wc *wc)
{
	if (!queue->length)
		return false;
	*wc = queue->entries[queue->head];
	queue->head = (queue->head + 1) % queue->capacity;
	queue->length--;
	return true;
}

/* Under the lock: true if the completion is the program's. */
static bool
is_the_programs(struct rpmapy_cq *cq, const struct ibv_wc *wc)
{
	if (wc->status != IBV_WC_SUCCESS && wc->status != IBV_WC_WR_FLUSH_ERR && !cq->has_failed) {
		cq->first_failure = *wc;
		cq->has_failed = true;
	}
	if (wc->wr_id < RPMAPY_WR_ID_RESERVED)
		return true;
	if (cq->conn)
		operation_complete(&cq->conn->operation, wc);
	return false;
}

static void
translate(const struct ibv_wc *from, struct rpmapy_wc *to)
{
	to->wr_id = from->wr_id;
	to->status = from->status;
	to->opcode = from->opcode;
	to->vendor_err = from->vendor_err;
	to->byte_len = from->byte_len;
	to->imm = from->wc_flags & IBV_WC_WITH_IMM ? ntohl(from->imm_data) : 0;
	to->qp_num = from->qp_num;
	to->flags = from->wc_flags;
}

int
cq_get_wc(struct rpmapy_cq *cq, int max_entries, struct rpmapy_wc *out, int *got)
{
	struct ibv_wc batch[POLL_BATCH];
	int ret = 0, count = 0;
	pthread_mutex_lock(&cq->lock);
	while (count < max_entries && stash_take(&cq->stash, batch))
		translate(batch, &out[count++]);
	while (count < max_entries) {
		int wanted = max_entries - count < POLL_BATCH ? max_entries - count : POLL_BATCH;
		int polled = 0;
		ret = rpma_cq_get_wc(cq->cq, wanted, batch, &polled);
		if (ret)
			break;
		for (int i = 0; i < polled; i++) {
			if (is_the_programs(cq, &batch[i]))
				translate(&batch[i], &out[count++]);
		}
		if (polled < wanted) { /* else to look once more would take system calls */
			ret = RPMA_E_NO_COMPLETION;
			break;
		}
	}
	pthread_mutex_unlock(&cq->lock);
	*got = count;
	if (count)
		return 0; /* an error will be met again by the next call */
	return ret;
}

/* Take all that has completed: operations get theirs, the rest waits for get_wc(). */
int
cq_drain(struct rpmapy_cq *cq)
{
	struct ibv_wc batch[POLL_BATCH];
	int ret, polled;
	pthread_mutex_lock(&cq->lock);
	do {
		polled = 0;
		ret = rpma_cq_get_wc(cq->cq, POLL_BATCH, batch, &polled);
		for (int i = 0; !ret && i < polled; i++) {
			if (is_the_programs(cq, &batch[i]))
				ret = stash_put(&cq->stash, &batch[i]);
		}
	} while (!ret && polled == POLL_BATCH);
	pthread_mutex_unlock(&cq->lock);
	return ret == RPMA_E_NO_COMPLETION ? 0 : ret;
}

static bool
has_stash(struct rpmapy_cq *cq)
{
	pthread_mutex_lock(&cq->lock);
	bool has = cq->stash.length > 0;
	pthread_mutex_unlock(&cq->lock);
	return has;
}

static int
wait_for_event(struct rpmapy_cq *cq, int64_t deadline)
{
	if (cq->conn) {
		if (cq->conn->channel_fd >= 0)
			return RPMA_E_SHARED_CHANNEL;
		return conn_wait_completion_event(cq->conn, cq, deadline, NULL);
	}
	unsigned ready;
	int ret = wait_readable(cq->fd, -1, deadline, &ready);
	if (ret)
		return ret;
	ret = rpma_cq_wait(cq->cq);
	return ret == RPMA_E_NO_COMPLETION ? RPMAPY_AGAIN : ret;
}

int
rpmapy_cq_fd(struct rpmapy_cq *cq, int *fd)
{
	int ret = handle_enter(cq->owner);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_cq_get_fd(cq->cq, fd);
	handle_leave(cq->owner);
	return ret;
}

int
rpmapy_cq_wait(struct rpmapy_cq *cq, int64_t deadline)
{
	int ret = handle_enter(cq->owner);
	if (ret)
		return ret;
	call_begin();
	ret = has_stash(cq) ? 0 : wait_for_event(cq, deadline);
	handle_leave(cq->owner);
	return ret;
}

/* How many there were: 1 to max_entries; or a code, RPMA_E_NO_COMPLETION where there was none. */
int
rpmapy_cq_get_wc(struct rpmapy_cq *cq, int max_entries, struct rpmapy_wc *wc)
{
	int got = 0;
	int ret = handle_enter(cq->owner);
	if (ret)
		return ret;
	call_begin();
	ret = cq_get_wc(cq, max_entries, wc, &got);
	handle_leave(cq->owner);
	return ret ? ret : got;
}

/*
 * For event loops: take the completion event, if there is one, and ask for the next; then as
 * rpmapy_cq_get_wc(). Not where the completion channel is shared.
 */
int
rpmapy_cq_take(struct rpmapy_cq *cq, int max_entries, struct rpmapy_wc *wc)
{
	int got = 0;
	if (cq->conn && cq->conn->channel_fd >= 0)
		return RPMA_E_SHARED_CHANNEL;
	int ret = handle_enter(cq->owner);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_cq_wait(cq->cq); /* its descriptor does not block */
	if (!ret || ret == RPMA_E_NO_COMPLETION)
		ret = cq_get_wc(cq, max_entries, wc, &got);
	handle_leave(cq->owner);
	return ret ? ret : got;
}

/* The next completion, waiting for it as long as need be. */
int
rpmapy_cq_next_wc(struct rpmapy_cq *cq, int64_t deadline, struct rpmapy_wc *wc)
{
	int ret = handle_enter(cq->owner);
	if (ret)
		return ret;
	call_begin();
	int got = 0;
	struct polling polling = {0};
	for (;;) {
		ret = cq_get_wc(cq, 1, wc, &got);
		if (ret != RPMA_E_NO_COMPLETION)
			break;
		if (wait_polls(&polling, cq))
			continue;
		if (cq->conn && cq->conn->channel_fd >= 0)
			ret = conn_wait_completion_event(cq->conn, cq, deadline, NULL);
		else
			ret = wait_for_event(cq, deadline);
		if (ret)
			break;
	}
	wait_learn(&polling, cq);
	handle_leave(cq->owner);
	return ret;
}

size_t
rpmapy_operation_failure(struct rpmapy_conn *conn, struct rpmapy_wc *wc, struct rpmapy_wc *cause)
{
	pthread_mutex_lock(&conn->cq.lock);
	translate(&conn->operation.failure, wc);
	translate(&conn->cq.first_failure, cause);
	size_t request = conn->operation.failed_request;
	pthread_mutex_unlock(&conn->cq.lock);
	return request;
}
