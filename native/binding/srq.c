/* SPDX-License-Identifier: BSD-3-Clause */
/* srq.c -- rpma_srq_*: shared receive queues. */
#include "binding.h"

DELETER(srq_delete, struct rpma_srq, rpma_srq_delete)

static void
srq_finish(struct handle *handle)
{
	struct rpmapy_srq *srq = (struct rpmapy_srq *)handle;
	if (srq->has_rcq)
		cq_fini(&srq->rcq);
}

int
rpmapy_srq_new(struct rpmapy_peer *peer, struct rpmapy_srq_cfg *cfg, struct rpmapy_srq **out)
{
	int ret = handles_enter(&peer->handle, HANDLE(cfg), NULL);
	if (ret)
		return ret;
	struct rpmapy_srq *srq = handle_new(sizeof(*srq), srq_delete, &peer->handle, NULL);
	struct rpma_srq *object = NULL;
	struct rpma_cq *rcq = NULL;
	if (srq) {
		handle_read(HANDLE(cfg));
		call_begin();
		ret = rpma_srq_new(peer->handle.object, cfg ? cfg->handle.object : NULL, &object);
		handle_done(HANDLE(cfg));
	} else {
		ret = RPMA_E_NOMEM;
	}
	handles_leave(&peer->handle, HANDLE(cfg), NULL);
	if (!ret) {
		srq->handle.object = object;
		srq->peer = &peer->handle;
		ret = rpma_srq_get_rcq(object, &rcq);
	}
	if (!ret && rcq) {
		ret = cq_init(&srq->rcq, &srq->handle, NULL, rcq);
		srq->has_rcq = true;
		srq->handle.finish = srq_finish;
	}
	if (ret) {
		if (srq)
			handle_discard(&srq->handle);
		return ret;
	}
	*out = srq;
	return 0;
}

int
rpmapy_srq_recv(struct rpmapy_srq *srq, struct rpmapy_local *dst, size_t offset, size_t length,
		uint64_t wr_id)
{
	if (wr_id >= RPMAPY_WR_ID_RESERVED ||
	    !local_ok(srq->peer, dst, RPMA_MR_USAGE_RECV, offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&srq->handle, HANDLE(dst), NULL);
	if (ret)
		return ret;
	call_begin();
	ret = post_result(rpma_srq_recv(srq->handle.object, dst ? dst->handle.object : NULL, offset,
					length, (void *)(uintptr_t)wr_id));
	handles_leave(&srq->handle, HANDLE(dst), NULL);
	return ret;
}

struct rpmapy_cq *
rpmapy_srq_rcq(struct rpmapy_srq *srq)
{
	return srq->has_rcq ? &srq->rcq : NULL;
}
