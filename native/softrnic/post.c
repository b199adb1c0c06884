/* SPDX-License-Identifier: BSD-3-Clause */
/* post.c -- the send queue's entrance: ibv_post_send, and ibv_wr_* of extended queue pairs. */
#include "softrnic.h"

#include <errno.h>
#include <string.h>

/*
 * Behind so many requests under way a few more small ones are gathered before they go out, so that
 * a system call carries several; so is a small Write that leaves no completion, with what follows.
 * What ends that is their number, the arrival of an acknowledgement, the program's waiting for
 * completions, or a moment's passing.
 */
#define GATHER_BEHIND 8
#define GATHER_MAX (OUT_RING / 2)
#define GATHER_BYTES 8192 /* the largest that waits for others */

#define SEND_FLAGS                                                                                 \
	(IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_SOLICITED | IBV_SEND_INLINE |               \
	 IBV_SEND_IP_CSUM)

/* The place in the send queue so far behind its tail, which has to be free. */
static struct request *
request_new(struct qp *qp, uint32_t behind)
{
	struct sender *tx = &qp->tx;
	uint32_t index = (tx->tail + behind) & tx->mask;
	struct request *request = &tx->requests[index];
	*request = (struct request){.sges = tx->sges + (size_t)index * qp->init.cap.max_send_sge};
	return request;
}

static uint32_t
room(const struct sender *tx)
{
	return tx->limit - (tx->tail - tx->head);
}

/* 0 or an errno; `request` has its opcode and lengths. */
static int
request_check(const struct qp *qp, const struct request *request)
{
	switch (request->opcode) {
	case IBV_WR_RDMA_WRITE:
	case IBV_WR_RDMA_WRITE_WITH_IMM:
	case IBV_WR_SEND:
	case IBV_WR_SEND_WITH_IMM:
	case IBV_WR_SEND_WITH_INV:
		break;
	case IBV_WR_RDMA_READ:
		if (request->inline_data)
			return EINVAL;
		break;
	case IBV_WR_ATOMIC_CMP_AND_SWP:
	case IBV_WR_ATOMIC_FETCH_AND_ADD:
		if (request->inline_data || request->length != 8)
			return EINVAL;
		break;
	default:
		return EOPNOTSUPP;
	}
	return request->flags & ~SEND_FLAGS || request->sge_count > qp->init.cap.max_send_sge
		       ? EINVAL
		       : 0;
}

static int
copy_inline(struct qp *qp, struct request *request, const struct ibv_sge *sges, int count)
{
	struct sender *tx = &qp->tx;
	uint32_t room = qp->init.cap.max_inline_data, size = 0;
	uint8_t *to = tx->inline_data + (size_t)(request - tx->requests) * room;
	for (int i = 0; i < count; i++) {
		if (sges[i].length > room - size)
			return EINVAL;
		memcpy(to + size, (const void *)(uintptr_t)sges[i].addr, sges[i].length);
		size += sges[i].length;
	}
	request->length = size;
	request->inline_data = size ? to : NULL;
	return 0;
}

static int
set_segments(struct qp *qp, struct request *request, const struct ibv_sge *sges, int count)
{
	uint64_t size = 0;
	if (count < 0 || (unsigned)count > qp->init.cap.max_send_sge)
		return EINVAL;
	for (int i = 0; i < count; i++) {
		request->sges[i] = sges[i];
		size += sges[i].length;
	}
	if (size > MAX_MESSAGE)
		return EINVAL;
	request->sge_count = (unsigned)count;
	request->length = (uint32_t)size;
	return 0;
}

static int
set(struct qp *qp, struct request *request, const struct ibv_send_wr *wr)
{
	request->wr_id = wr->wr_id;
	request->opcode = wr->opcode;
	request->flags = wr->send_flags;
	switch (wr->opcode) {
	case IBV_WR_SEND_WITH_INV:
		request->invalidate = wr->invalidate_rkey;
		break;
	case IBV_WR_ATOMIC_CMP_AND_SWP:
	case IBV_WR_ATOMIC_FETCH_AND_ADD:
		request->remote_address = wr->wr.atomic.remote_addr;
		request->rkey = wr->wr.atomic.rkey;
		request->compare_add = wr->wr.atomic.compare_add;
		request->swap = wr->wr.atomic.swap;
		break;
	default:
		request->imm = wr->imm_data;
		request->remote_address = wr->wr.rdma.remote_addr;
		request->rkey = wr->wr.rdma.rkey;
		break;
	}
	int ret = wr->send_flags & IBV_SEND_INLINE
			  ? copy_inline(qp, request, wr->sg_list, wr->num_sge)
			  : set_segments(qp, request, wr->sg_list, wr->num_sge);
	return ret ? ret : request_check(qp, request);
}

/* Whether who posts this is about to post more: nothing would tell that it is done. */
static bool
is_followed(const struct qp *qp, const struct request *request)
{
	return request->opcode == IBV_WR_RDMA_WRITE && request->length <= GATHER_BYTES &&
	       !(request->flags & IBV_SEND_SIGNALED) && !qp->init.sq_sig_all;
}

/* With tx.lock, something having been posted. */
static bool
gathers(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	const struct request *last = request_at(tx, tx->tail - 1);
	if (tx->tail == tx->next || tx->tail - tx->next >= GATHER_MAX)
		return false;
	if (tx->next - tx->head < GATHER_BEHIND && !is_followed(qp, last))
		return false;
	if (!atomic_load_explicit(&tx->gathers, memory_order_relaxed)) {
		bool is_large = last->length > GATHER_BYTES;
		if (!tx->acks && (is_large || !cq_is_direct(qp->init.send_cq) || !owed_add(qp)))
			return false;
		atomic_store_explicit(&tx->gathers, true, memory_order_relaxed);
	}
	return true;
}

int
post_send(struct ibv_qp *ibv_qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct qp *qp = to_qp(ibv_qp);
	struct sender *tx = &qp->tx;
	int ret = engine_usable();
	if (ret) {
		*bad = wr;
		return ret;
	}
	if (qp->is_ex)
		pthread_mutex_lock(&qp->batch_lock);
	pthread_mutex_lock(&tx->lock);
	int state = atomic_load_explicit(&qp->state, memory_order_relaxed);
	for (; wr; wr = wr->next) {
		struct request *request = NULL;
		if (state != IBV_QPS_RTS && state != IBV_QPS_ERR)
			ret = EINVAL;
		else if (!room(tx))
			ret = ENOMEM;
		if (!ret) {
			request = request_new(qp, 0);
			ret = set(qp, request, wr);
		}
		if (ret) {
			*bad = wr;
			break;
		}
		if (state == IBV_QPS_ERR)
			request_complete(qp, request, IBV_WC_WR_FLUSH_ERR);
		else
			tx->tail++;
	}
	if (!gathers(qp))
		sender_run(qp);
	pthread_mutex_unlock(&tx->lock);
	if (qp->is_ex)
		pthread_mutex_unlock(&qp->batch_lock);
	post_done(qp);
	return ret;
}

/*
 * ---- ibv_wr_*: from wr_start to wr_complete nobody else posts ----
 *
 * What the program does in between is its own affair: it may poll, and the stream goes on.
 */

static struct qp *
of_ex(struct ibv_qp_ex *ex)
{
	return container_of(ex, struct qp, ex);
}

static void
wr_start(struct ibv_qp_ex *ex)
{
	struct qp *qp = of_ex(ex);
	if (engine_usable()) { /* a forked child: a lock may be held by nobody that lives */
		qp->batch_request = NULL;
		qp->batch_error = EPERM;
		return;
	}
	pthread_mutex_lock(&qp->batch_lock);
	pthread_mutex_lock(&qp->tx.lock);
	qp->batch_room = room(&qp->tx);
	qp->batch_begin = qp->tx.tail;
	pthread_mutex_unlock(&qp->tx.lock);
	qp->batch_count = 0;
	qp->batch_request = NULL;
	int state = atomic_load(&qp->state);
	qp->batch_error = state != IBV_QPS_RTS && state != IBV_QPS_ERR ? EINVAL : 0;
}

/* The request begun before is whole now. */
static void
wr_finish(struct qp *qp)
{
	if (qp->batch_request && !qp->batch_error)
		qp->batch_error = request_check(qp, qp->batch_request);
	if (qp->batch_request)
		qp->batch_count++;
	qp->batch_request = NULL;
}

static struct request *
wr_begin(struct ibv_qp_ex *ex, enum ibv_wr_opcode opcode)
{
	struct qp *qp = of_ex(ex);
	wr_finish(qp);
	if (!qp->batch_error && qp->batch_count == qp->batch_room)
		qp->batch_error = ENOMEM;
	if (qp->batch_error)
		return NULL;
	struct request *request = request_new(qp, qp->batch_count);
	request->opcode = opcode;
	request->wr_id = ex->wr_id;
	request->flags = ex->wr_flags;
	qp->batch_request = request;
	return request;
}

static struct request *
wr_begin_remote(struct ibv_qp_ex *ex, enum ibv_wr_opcode opcode, uint32_t rkey, uint64_t address)
{
	struct request *request = wr_begin(ex, opcode);
	if (request) {
		request->rkey = rkey;
		request->remote_address = address;
	}
	return request;
}

static void
wr_rdma_write(struct ibv_qp_ex *ex, uint32_t rkey, uint64_t address)
{
	(void)wr_begin_remote(ex, IBV_WR_RDMA_WRITE, rkey, address);
}

static void
wr_rdma_read(struct ibv_qp_ex *ex, uint32_t rkey, uint64_t address)
{
	(void)wr_begin_remote(ex, IBV_WR_RDMA_READ, rkey, address);
}

static void
wr_rdma_write_imm(struct ibv_qp_ex *ex, uint32_t rkey, uint64_t address, __be32 imm)
{
	struct request *request = wr_begin_remote(ex, IBV_WR_RDMA_WRITE_WITH_IMM, rkey, address);
	if (request)
		request->imm = imm;
}

static void
wr_send(struct ibv_qp_ex *ex)
{
	(void)wr_begin(ex, IBV_WR_SEND);
}

static void
wr_send_imm(struct ibv_qp_ex *ex, __be32 imm)
{
	struct request *request = wr_begin(ex, IBV_WR_SEND_WITH_IMM);
	if (request)
		request->imm = imm;
}

static void
wr_send_inv(struct ibv_qp_ex *ex, uint32_t rkey)
{
	struct request *request = wr_begin(ex, IBV_WR_SEND_WITH_INV);
	if (request)
		request->invalidate = rkey;
}

static void
wr_atomic_cmp_swp(struct ibv_qp_ex *ex, uint32_t rkey, uint64_t address, uint64_t compare,
		  uint64_t swap)
{
	struct request *request = wr_begin_remote(ex, IBV_WR_ATOMIC_CMP_AND_SWP, rkey, address);
	if (request) {
		request->compare_add = compare;
		request->swap = swap;
	}
}

static void
wr_atomic_fetch_add(struct ibv_qp_ex *ex, uint32_t rkey, uint64_t address, uint64_t add)
{
	struct request *request = wr_begin_remote(ex, IBV_WR_ATOMIC_FETCH_AND_ADD, rkey, address);
	if (request)
		request->compare_add = add;
}

static void
wr_set_sge_list(struct ibv_qp_ex *ex, size_t count, const struct ibv_sge *sges)
{
	struct qp *qp = of_ex(ex);
	if (!qp->batch_request || qp->batch_error)
		return;
	qp->batch_error =
		count > MAX_SGE ? EINVAL : set_segments(qp, qp->batch_request, sges, (int)count);
}

static void
wr_set_sge(struct ibv_qp_ex *ex, uint32_t lkey, uint64_t address, uint32_t length)
{
	struct ibv_sge sge = {.addr = address, .length = length, .lkey = lkey};
	wr_set_sge_list(ex, 1, &sge);
}

static void
wr_set_inline_data_list(struct ibv_qp_ex *ex, size_t count, const struct ibv_data_buf *buffers)
{
	struct qp *qp = of_ex(ex);
	struct ibv_sge sges[MAX_SGE];
	if (!qp->batch_request || qp->batch_error)
		return;
	if (count > MAX_SGE) {
		qp->batch_error = EINVAL;
		return;
	}
	for (size_t i = 0; i < count; i++) {
		if (buffers[i].length > MAX_INLINE) {
			qp->batch_error = EINVAL;
			return;
		}
		sges[i] = (struct ibv_sge){.addr = (uintptr_t)buffers[i].addr,
					   .length = (uint32_t)buffers[i].length};
	}
	qp->batch_error = copy_inline(qp, qp->batch_request, sges, (int)count);
}

static void
wr_set_inline_data(struct ibv_qp_ex *ex, void *address, size_t length)
{
	struct ibv_data_buf buffer = {.addr = address, .length = length};
	wr_set_inline_data_list(ex, 1, &buffer);
}

static int
wr_complete(struct ibv_qp_ex *ex)
{
	struct qp *qp = of_ex(ex);
	struct sender *tx = &qp->tx;
	if (engine_usable())
		return EPERM;
	wr_finish(qp);
	int ret = qp->batch_error;
	if (!ret) {
		pthread_mutex_lock(&tx->lock);
		int state = atomic_load(&qp->state);
		if (state == IBV_QPS_RESET || tx->tail != qp->batch_begin)
			ret = EINVAL; /* it was taken back meanwhile */
		else
			tx->tail += qp->batch_count;
		if (!ret && state == IBV_QPS_ERR)
			sender_flush(qp);
		else if (!ret && !gathers(qp))
			sender_run(qp);
		pthread_mutex_unlock(&tx->lock);
	}
	pthread_mutex_unlock(&qp->batch_lock);
	post_done(qp);
	return ret;
}

static void
wr_abort(struct ibv_qp_ex *ex)
{
	struct qp *qp = of_ex(ex);
	qp->batch_request = NULL;
	if (!engine_usable())
		pthread_mutex_unlock(&qp->batch_lock);
}

int
post_ex_init(struct qp *qp, uint64_t operations)
{
	const uint64_t supported = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM |
				   IBV_QP_EX_WITH_SEND | IBV_QP_EX_WITH_SEND_WITH_IMM |
				   IBV_QP_EX_WITH_SEND_WITH_INV | IBV_QP_EX_WITH_RDMA_READ |
				   IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP |
				   IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;
	if (operations & ~supported)
		return EOPNOTSUPP;
	qp->is_ex = true;
	qp->ex.wr_start = wr_start;
	qp->ex.wr_complete = wr_complete;
	qp->ex.wr_abort = wr_abort;
	qp->ex.wr_rdma_write = wr_rdma_write;
	qp->ex.wr_rdma_write_imm = wr_rdma_write_imm;
	qp->ex.wr_rdma_read = wr_rdma_read;
	qp->ex.wr_send = wr_send;
	qp->ex.wr_send_imm = wr_send_imm;
	qp->ex.wr_send_inv = wr_send_inv;
	qp->ex.wr_atomic_cmp_swp = wr_atomic_cmp_swp;
	qp->ex.wr_atomic_fetch_add = wr_atomic_fetch_add;
	qp->ex.wr_set_sge = wr_set_sge;
	qp->ex.wr_set_sge_list = wr_set_sge_list;
	qp->ex.wr_set_inline_data = wr_set_inline_data;
	qp->ex.wr_set_inline_data_list = wr_set_inline_data_list;
	return 0;
}
