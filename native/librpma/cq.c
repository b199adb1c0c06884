/* SPDX-License-Identifier: BSD-3-Clause */
/* cq.c -- completion queues, and shared receive queues, which can have one. */
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

/* ---- completion queues ---- */

int
cq_new(struct ibv_context *context, uint32_t size, struct ibv_comp_channel *shared,
       struct rpma_cq **cq_ptr)
{
	int ret = 0;
	struct rpma_cq *cq = calloc(1, sizeof(*cq));
	if (!cq)
		return RPMA_E_NOMEM;
	cq->is_shared = shared != NULL;
	cq->channel = shared ? shared : ibv_create_comp_channel(context);
	if (!cq->channel) {
		ret = provider_failed("ibv_create_comp_channel", errno);
		goto free_cq;
	}
	int entries = size > INT_MAX ? INT_MAX : (int)size;
	cq->cq = ibv_create_cq(context, entries, cq, cq->channel, 0);
	if (!cq->cq) {
		ret = provider_failed("ibv_create_cq", errno);
		goto destroy_channel;
	}
	int error = ibv_req_notify_cq(cq->cq, 0);
	if (error) {
		ret = provider_failed("ibv_req_notify_cq", error);
		goto destroy_cq;
	}
	*cq_ptr = cq;
	return 0;
destroy_cq:
	(void)ibv_destroy_cq(cq->cq);
destroy_channel:
	if (!cq->is_shared)
		(void)ibv_destroy_comp_channel(cq->channel);
free_cq:
	free(cq);
	return ret;
}

int
cq_delete(struct rpma_cq **cq_ptr)
{
	struct rpma_cq *cq = *cq_ptr;
	int ret = 0, error;
	if (!cq)
		return 0;
	if ((error = ibv_destroy_cq(cq->cq)))
		ret = provider_failed("ibv_destroy_cq", error);
	if (!cq->is_shared && (error = ibv_destroy_comp_channel(cq->channel)) && !ret)
		ret = provider_failed("ibv_destroy_comp_channel", error);
	free(cq);
	*cq_ptr = NULL;
	return ret;
}

int
rpma_cq_get_fd(const struct rpma_cq *cq, int *fd)
{
	if (!cq || !fd)
		return invalid("cq and fd must not be NULL");
	*fd = cq->channel->fd;
	return 0;
}

int
rpma_cq_wait(struct rpma_cq *cq)
{
	struct ibv_cq *found;
	void *context;
	if (!cq)
		return invalid("cq must not be NULL");
	if (cq->is_shared) {
		say_error("the completion channel is shared: see rpma_conn_wait()");
		return RPMA_E_SHARED_CHANNEL;
	}
	if (ibv_get_cq_event(cq->channel, &found, &context))
		return RPMA_E_NO_COMPLETION;
	ibv_ack_cq_events(found, 1);
	int error = ibv_req_notify_cq(cq->cq, 0);
	return error ? provider_failed("ibv_req_notify_cq", error) : 0;
}

int
rpma_cq_get_wc(struct rpma_cq *cq, int num_entries, struct ibv_wc *wc, int *num_entries_got)
{
	if (!cq || !wc || num_entries < 1 || (num_entries > 1 && !num_entries_got))
		return invalid("cq and wc must not be NULL, num_entries 1 or more, and "
			       "num_entries_got can be NULL only for 1");
	int got = ibv_poll_cq(cq->cq, num_entries, wc);
	if (got == 0)
		return RPMA_E_NO_COMPLETION;
	if (got < 0) {
		(void)provider_failed("ibv_poll_cq", got == -1 ? 0 : -got);
		return RPMA_E_PROVIDER;
	}
	if (got > num_entries) {
		say_error("ibv_poll_cq said %d, of %d", got, num_entries);
		return RPMA_E_UNKNOWN;
	}
	if (num_entries_got)
		*num_entries_got = got;
	return 0;
}

/* ---- shared receive queues ---- */

int
rpma_srq_new(struct rpma_peer *peer, struct rpma_srq_cfg *cfg, struct rpma_srq **srq_ptr)
{
	int ret = 0;
	if (!peer || !srq_ptr)
		return invalid("peer and srq_ptr must not be NULL");
	const struct rpma_srq_cfg *config = srq_cfg_or_default(cfg);
	struct rpma_srq *srq = calloc(1, sizeof(*srq));
	if (!srq)
		return RPMA_E_NOMEM;
	struct ibv_srq_init_attr attributes = {
		.attr = {.max_wr = atomic_load(&config->rq_size), .max_sge = 1},
	};
	srq->srq = ibv_create_srq(peer->pd, &attributes);
	if (!srq->srq) {
		ret = provider_failed("ibv_create_srq", errno);
		goto free_srq;
	}
	uint32_t rcq_size = atomic_load(&config->rcq_size);
	if (rcq_size) {
		ret = cq_new(peer->pd->context, rcq_size, NULL, &srq->rcq);
		if (ret)
			goto destroy_srq;
	}
	*srq_ptr = srq;
	return 0;
destroy_srq:
	(void)ibv_destroy_srq(srq->srq);
free_srq:
	free(srq);
	return ret;
}

int
rpma_srq_delete(struct rpma_srq **srq_ptr)
{
	if (!srq_ptr)
		return invalid("srq_ptr must not be NULL");
	struct rpma_srq *srq = *srq_ptr;
	if (!srq)
		return 0;
	int error = ibv_destroy_srq(srq->srq);
	int ret = error ? provider_failed("ibv_destroy_srq", error) : 0;
	int cq_ret = cq_delete(&srq->rcq);
	free(srq);
	*srq_ptr = NULL;
	return ret ? ret : cq_ret;
}

int
rpma_srq_get_rcq(const struct rpma_srq *srq, struct rpma_cq **rcq_ptr)
{
	if (!srq || !rcq_ptr)
		return invalid("srq and rcq_ptr must not be NULL");
	*rcq_ptr = srq->rcq;
	return 0;
}

int
rpma_srq_recv(struct rpma_srq *srq, struct rpma_mr_local *dst, size_t offset, size_t len,
	      const void *op_context)
{
	if (!srq)
		return invalid("srq must not be NULL");
	return post_recv(NULL, srq->srq, dst, offset, len, op_context);
}
