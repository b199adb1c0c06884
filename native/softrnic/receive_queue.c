/* SPDX-License-Identifier: BSD-3-Clause */
/* receive_queue.c -- posted receives: a queue pair's own, and those that several share. */
#include "softrnic.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the queue itself ---- */

int
receive_queue_init(struct receive_queue *rq, uint32_t max_wr, uint32_t max_sge)
{
	uint32_t size = 1;
	while (size < max_wr)
		size *= 2;
	*rq = (struct receive_queue){.mask = size - 1,
				     .limit = max_wr,
				     .max_sge = max_sge,
				     .head = positions_begin,
				     .tail = positions_begin};
	rq->posted = calloc(size, sizeof(*rq->posted));
	rq->sges = calloc((size_t)size * (max_sge ? max_sge : 1), sizeof(*rq->sges));
	pthread_mutex_init(&rq->lock, NULL);
	if (rq->posted && rq->sges)
		return 0;
	receive_queue_fini(rq);
	return ENOMEM;
}

void
receive_queue_fini(struct receive_queue *rq)
{
	free(rq->posted);
	free(rq->sges);
	rq->posted = NULL;
	rq->sges = NULL;
	pthread_mutex_destroy(&rq->lock);
}

/* With the lock. 0, EINVAL or ENOMEM (full). */
static int
add(struct receive_queue *rq, const struct ibv_recv_wr *wr)
{
	if (wr->num_sge < 0 || (unsigned)wr->num_sge > rq->max_sge)
		return EINVAL;
	if (rq->tail - rq->head >= rq->limit)
		return ENOMEM;
	uint32_t index = rq->tail & rq->mask;
	rq->posted[index].wr_id = wr->wr_id;
	rq->posted[index].sge_count = (unsigned)wr->num_sge;
	for (int i = 0; i < wr->num_sge; i++)
		rq->sges[index * rq->max_sge + (unsigned)i] = wr->sg_list[i];
	rq->tail++;
	return 0;
}

bool
receive_queue_take(struct receive_queue *rq, struct receive *receive)
{
	pthread_mutex_lock(&rq->lock);
	bool is_there = rq->head != rq->tail;
	if (is_there) {
		uint32_t index = rq->head++ & rq->mask;
		receive->wr_id = rq->posted[index].wr_id;
		receive->sge_count = rq->posted[index].sge_count;
		receive->size = 0;
		for (unsigned i = 0; i < receive->sge_count; i++) {
			receive->sges[i] = rq->sges[index * rq->max_sge + i];
			receive->size += receive->sges[i].length;
		}
	}
	pthread_mutex_unlock(&rq->lock);
	return is_there;
}

uint32_t
receive_queue_length(struct receive_queue *rq)
{
	pthread_mutex_lock(&rq->lock);
	uint32_t length = rq->tail - rq->head;
	pthread_mutex_unlock(&rq->lock);
	return length;
}

/* ---- a queue pair's own ---- */

void
receive_flush(struct qp *qp, uint64_t wr_id)
{
	struct ibv_wc wc = {.wr_id = wr_id,
			    .status = IBV_WC_WR_FLUSH_ERR,
			    .opcode = IBV_WC_RECV,
			    .qp_num = qp->ibv.qp_num};
	cq_push(qp->ibv.recv_cq, &wc, true);
}

void
receive_queue_flush(struct qp *qp)
{
	struct receive_queue *rq = &qp->rq;
	pthread_mutex_lock(&rq->lock);
	rq->flushes = true;
	while (rq->head != rq->tail)
		receive_flush(qp, rq->posted[rq->head++ & rq->mask].wr_id);
	pthread_mutex_unlock(&rq->lock);
}

void
receive_queue_forget(struct receive_queue *rq)
{
	pthread_mutex_lock(&rq->lock);
	rq->head = rq->tail;
	rq->flushes = false;
	pthread_mutex_unlock(&rq->lock);
}

int
post_recv(struct ibv_qp *ibv_qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct qp *qp = to_qp(ibv_qp);
	int ret = engine_usable();
	if (ret) {
		*bad = wr;
		return ret;
	}
	if (qp->init.srq || atomic_load(&qp->state) == IBV_QPS_RESET)
		ret = EINVAL;
	pthread_mutex_lock(&qp->rq.lock);
	for (; !ret && wr; wr = ret ? wr : wr->next) {
		ret = add(&qp->rq, wr);
		/* The error state takes it, to say so, behind what was posted before. */
		if (!ret && qp->rq.flushes)
			receive_flush(qp, qp->rq.posted[qp->rq.head++ & qp->rq.mask].wr_id);
	}
	pthread_mutex_unlock(&qp->rq.lock);
	if (ret)
		*bad = wr;
	receiver_kick(qp);
	return ret;
}

/* ---- shared receive queues ---- */

struct ibv_srq *
create_srq_ex(struct ibv_context *context, struct ibv_srq_init_attr_ex *attr)
{
	int ret = engine_usable();
	if (!ret && attr->comp_mask & IBV_SRQ_INIT_ATTR_TYPE && attr->srq_type != IBV_SRQT_BASIC)
		ret = EOPNOTSUPP;
	if (!ret && (!(attr->comp_mask & IBV_SRQ_INIT_ATTR_PD) || !attr->pd))
		ret = EINVAL;
	if (!ret && (!attr->attr.max_wr || attr->attr.max_wr > MAX_QUEUE ||
		     attr->attr.max_sge > MAX_SGE || attr->attr.srq_limit > attr->attr.max_wr))
		ret = EINVAL;
	struct srq *srq = ret ? NULL : calloc(1, sizeof(*srq));
	if (!ret && !srq)
		ret = ENOMEM;
	if (!ret)
		ret = receive_queue_init(&srq->rq, attr->attr.max_wr, attr->attr.max_sge);
	if (ret) {
		free(srq);
		errno = ret;
		return NULL;
	}
	static _Atomic uint32_t handles;
	srq->ibv.context = context;
	srq->ibv.srq_context = attr->srq_context;
	srq->ibv.pd = attr->pd;
	srq->ibv.handle = atomic_fetch_add(&handles, 1) + 1;
	object_count(OBJECT_SRQ, 1);
	srq->limit_event = attr->attr.srq_limit;
	pthread_mutex_init(&srq->ibv.mutex, NULL);
	pthread_cond_init(&srq->ibv.cond, NULL);
	pthread_mutex_init(&srq->stalled_lock, NULL);
	atomic_fetch_add(&container_of(attr->pd, struct pd, ibv)->users, 1);
	return &srq->ibv;
}

struct ibv_srq *
ibv_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *attr)
{
	struct ibv_srq_init_attr_ex extended = {.srq_context = attr->srq_context,
						.attr = attr->attr,
						.comp_mask = IBV_SRQ_INIT_ATTR_PD,
						.pd = pd};
	return create_srq_ex(pd->context, &extended);
}

int
ibv_modify_srq(struct ibv_srq *ibv_srq, struct ibv_srq_attr *attr, int mask)
{
	struct srq *srq = container_of(ibv_srq, struct srq, ibv);
	if (engine_usable())
		return EPERM;
	if (mask & ~(IBV_SRQ_LIMIT | IBV_SRQ_MAX_WR))
		return EINVAL;
	if (mask & IBV_SRQ_MAX_WR)
		return EOPNOTSUPP;
	if (mask & IBV_SRQ_LIMIT) {
		if (attr->srq_limit > srq->rq.limit)
			return EINVAL;
		pthread_mutex_lock(&srq->rq.lock);
		srq->limit_event = attr->srq_limit;
		pthread_mutex_unlock(&srq->rq.lock);
	}
	return 0;
}

int
ibv_query_srq(struct ibv_srq *ibv_srq, struct ibv_srq_attr *attr)
{
	struct srq *srq = container_of(ibv_srq, struct srq, ibv);
	if (engine_usable())
		return EPERM;
	pthread_mutex_lock(&srq->rq.lock);
	*attr = (struct ibv_srq_attr){
		.max_wr = srq->rq.limit, .max_sge = srq->rq.max_sge, .srq_limit = srq->limit_event};
	pthread_mutex_unlock(&srq->rq.lock);
	return 0;
}

int
ibv_destroy_srq(struct ibv_srq *ibv_srq)
{
	struct srq *srq = container_of(ibv_srq, struct srq, ibv);
	if (engine_usable())
		return EPERM;
	if (atomic_load(&srq->users))
		return EBUSY;
	unsigned fetched = async_forget(ibv_srq->context, ibv_srq, &srq->async_reported);
	pthread_mutex_lock(&srq->ibv.mutex);
	while (srq->ibv.events_completed != fetched)
		uncancelled_cond_wait(&srq->ibv.cond, &srq->ibv.mutex);
	pthread_mutex_unlock(&srq->ibv.mutex);
	atomic_fetch_sub(&container_of(ibv_srq->pd, struct pd, ibv)->users, 1);
	receive_queue_fini(&srq->rq);
	pthread_mutex_destroy(&srq->ibv.mutex);
	pthread_cond_destroy(&srq->ibv.cond);
	pthread_mutex_destroy(&srq->stalled_lock);
	free(srq);
	object_count(OBJECT_SRQ, -1);
	return 0;
}

int
get_srq_num(struct ibv_srq *srq, uint32_t *number)
{
	*number = srq->handle;
	return 0;
}

/* Those that wait for a receive, each once; who still finds none goes to the end of the line. */
static void
kick_stalled(struct srq *srq)
{
	unsigned count = atomic_load(&srq->stalled_count);
	while (count--) {
		pthread_mutex_lock(&srq->stalled_lock);
		struct qp *qp = srq->first_stalled;
		if (qp) {
			srq->first_stalled = qp->next_stalled;
			qp->is_stalled = false;
			atomic_fetch_sub(&srq->stalled_count, 1);
			qp_get(qp);
		}
		pthread_mutex_unlock(&srq->stalled_lock);
		if (!qp)
			break;
		receiver_kick(qp);
		qp_release(qp);
	}
}

int
post_srq_recv(struct ibv_srq *ibv_srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct srq *srq = container_of(ibv_srq, struct srq, ibv);
	int ret = engine_usable();
	if (ret) {
		*bad = wr;
		return ret;
	}
	pthread_mutex_lock(&srq->rq.lock);
	for (; !ret && wr; wr = ret ? wr : wr->next)
		ret = add(&srq->rq, wr);
	pthread_mutex_unlock(&srq->rq.lock);
	if (ret)
		*bad = wr;
	kick_stalled(srq);
	return ret;
}

bool
srq_take(struct srq *srq, struct receive *receive)
{
	bool is_there = receive_queue_take(&srq->rq, receive), is_low = false;
	if (is_there) {
		pthread_mutex_lock(&srq->rq.lock);
		if (srq->limit_event && srq->rq.tail - srq->rq.head < srq->limit_event) {
			srq->limit_event = 0;
			is_low = true;
		}
		pthread_mutex_unlock(&srq->rq.lock);
	}
	if (is_low)
		async_report(srq->ibv.context, IBV_EVENT_SRQ_LIMIT_REACHED, &srq->ibv,
			     &srq->async_reported);
	return is_there;
}

void
srq_stall(struct srq *srq, struct qp *qp)
{
	pthread_mutex_lock(&srq->stalled_lock);
	if (!qp->is_stalled) {
		qp->is_stalled = true;
		qp->next_stalled = NULL;
		if (srq->first_stalled)
			srq->last_stalled->next_stalled = qp;
		else
			srq->first_stalled = qp;
		srq->last_stalled = qp;
		atomic_fetch_add(&srq->stalled_count, 1);
	}
	pthread_mutex_unlock(&srq->stalled_lock);
}

void
srq_unstall(struct srq *srq, struct qp *qp)
{
	pthread_mutex_lock(&srq->stalled_lock);
	if (qp->is_stalled) {
		struct qp **link = &srq->first_stalled, *previous = NULL;
		while (*link != qp) {
			previous = *link;
			link = &(*link)->next_stalled;
		}
		*link = qp->next_stalled;
		if (srq->last_stalled == qp)
			srq->last_stalled = previous;
		qp->is_stalled = false;
		atomic_fetch_sub(&srq->stalled_count, 1);
	}
	pthread_mutex_unlock(&srq->stalled_lock);
}
