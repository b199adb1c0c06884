/* SPDX-License-Identifier: BSD-3-Clause */
/* connection.c -- connections: their events, their queues, their end. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

/* Where a flush reads to: a line of the cache, that no other thread's data is in. */
#define FLUSH_ALIGNMENT 64

int
conn_new(struct rpma_conn_req *req, struct rpma_conn **conn_ptr)
{
	void *words;
	int ret;
	struct rpma_conn *conn = calloc(1, sizeof(*conn));
	if (!conn)
		return RPMA_E_NOMEM;
	if (posix_memalign(&words, FLUSH_ALIGNMENT, FLUSH_ALIGNMENT)) {
		ret = RPMA_E_NOMEM;
		goto free_conn;
	}
	conn->flush_words = words;
	conn->flush_mr = peer_reg(req->peer, words, FLUSH_ALIGNMENT, RPMA_MR_USAGE_READ_DST);
	if (!conn->flush_mr) {
		ret = provider_failed("ibv_reg_mr", errno);
		goto free_words;
	}
	conn->events = rdma_create_event_channel();
	if (!conn->events) {
		ret = provider_failed("rdma_create_event_channel", errno);
		goto dereg;
	}
	if (rdma_migrate_id(req->id, conn->events)) {
		ret = provider_failed("rdma_migrate_id", errno);
		goto destroy_events;
	}
	conn->id = req->id;
	conn->queues = req->queues;
	conn->data = req->data;
	*conn_ptr = conn;
	return 0;
destroy_events:
	rdma_destroy_event_channel(conn->events);
dereg:
	(void)ibv_dereg_mr(conn->flush_mr);
free_words:
	free(words);
free_conn:
	free(conn);
	return ret;
}

int
rpma_conn_delete(struct rpma_conn **conn_ptr)
{
	int ret = 0, error;
	if (!conn_ptr)
		return invalid("conn_ptr must not be NULL");
	struct rpma_conn *conn = *conn_ptr;
	if (!conn)
		return 0;
	*conn_ptr = NULL;
	rdma_destroy_qp(conn->id);
	if ((error = ibv_dereg_mr(conn->flush_mr)))
		ret = provider_failed("ibv_dereg_mr", error);
	free(conn->flush_words);
	int queues_ret = queues_delete(&conn->queues);
	if (rdma_destroy_id(conn->id) && !ret)
		ret = provider_failed("rdma_destroy_id", errno);
	rdma_destroy_event_channel(conn->events);
	private_data_free(&conn->data);
	free(conn);
	return ret ? ret : queues_ret;
}

int
rpma_conn_disconnect(struct rpma_conn *conn)
{
	if (!conn)
		return invalid("conn must not be NULL");
	return rdma_disconnect(conn->id) ? provider_failed("rdma_disconnect", errno) : 0;
}

/* ---- events ---- */

static enum rpma_conn_event
event_of(enum rdma_cm_event_type type)
{
	switch (type) {
	case RDMA_CM_EVENT_ESTABLISHED:
		return RPMA_CONN_ESTABLISHED;
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
		return RPMA_CONN_CLOSED;
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		return RPMA_CONN_LOST;
	case RDMA_CM_EVENT_REJECTED:
		return RPMA_CONN_REJECTED;
	case RDMA_CM_EVENT_UNREACHABLE:
		return RPMA_CONN_UNREACHABLE;
	default:
		return RPMA_CONN_UNDEFINED;
	}
}

int
rpma_conn_next_event(struct rpma_conn *conn, enum rpma_conn_event *event)
{
	struct rdma_cm_event *found;
	int ret = 0;
	if (!conn || !event)
		return invalid("conn and event must not be NULL");
	if (rdma_get_cm_event(conn->events, &found)) {
		if (errno == EAGAIN || errno == ENODATA)
			return RPMA_E_NO_EVENT;
		(void)provider_failed("rdma_get_cm_event", errno);
		return RPMA_E_PROVIDER;
	}
	enum rpma_conn_event translated = event_of(found->event);
	if (translated == RPMA_CONN_UNDEFINED) {
		say_error("an unexpected event came: %s", rdma_event_str(found->event));
		ret = RPMA_E_UNKNOWN;
	} else if (translated == RPMA_CONN_ESTABLISHED && !conn->data.ptr) {
		ret = private_data_copy(&conn->data, found);
	}
	if (rdma_ack_cm_event(found) && !ret)
		ret = provider_failed("rdma_ack_cm_event", errno);
	if (!ret)
		*event = translated;
	return ret;
}

int
rpma_conn_get_event_fd(const struct rpma_conn *conn, int *fd)
{
	if (!conn || !fd)
		return invalid("conn and fd must not be NULL");
	*fd = conn->events->fd;
	return 0;
}

/* ---- what it has ---- */

int
rpma_conn_get_private_data(const struct rpma_conn *conn, struct rpma_conn_private_data *pdata)
{
	if (!conn || !pdata)
		return invalid("conn and pdata must not be NULL");
	*pdata = conn->data;
	return 0;
}

int
rpma_conn_apply_remote_peer_cfg(struct rpma_conn *conn, const struct rpma_peer_cfg *pcfg)
{
	if (!conn || !pcfg)
		return invalid("conn and pcfg must not be NULL");
	atomic_store(&conn->direct_write_to_pmem, atomic_load(&pcfg->direct_write_to_pmem));
	return 0;
}

int
rpma_conn_get_qp_num(const struct rpma_conn *conn, uint32_t *qp_num)
{
	if (!conn || !qp_num)
		return invalid("conn and qp_num must not be NULL");
	*qp_num = conn->id->qp->qp_num;
	return 0;
}

int
rpma_conn_get_cq(const struct rpma_conn *conn, struct rpma_cq **cq_ptr)
{
	if (!conn || !cq_ptr)
		return invalid("conn and cq_ptr must not be NULL");
	*cq_ptr = conn->queues.cq;
	return 0;
}

int
rpma_conn_get_rcq(const struct rpma_conn *conn, struct rpma_cq **rcq_ptr)
{
	if (!conn || !rcq_ptr)
		return invalid("conn and rcq_ptr must not be NULL");
	*rcq_ptr = conn->queues.rcq;
	return 0;
}

/* ---- the shared completion channel ---- */

static int
not_shared(void)
{
	say_error("the completion channel is not shared: see rpma_cq_wait(), rpma_cq_get_fd()");
	return RPMA_E_NOT_SHARED_CHNL;
}

int
rpma_conn_get_compl_fd(const struct rpma_conn *conn, int *fd)
{
	if (!conn || !fd)
		return invalid("conn and fd must not be NULL");
	if (!conn->queues.channel)
		return not_shared();
	*fd = conn->queues.channel->fd;
	return 0;
}

int
rpma_conn_wait(struct rpma_conn *conn, int flags, struct rpma_cq **cq, bool *is_rcq)
{
	struct ibv_cq *found;
	void *context;
	(void)flags; /* there is one way to wait: RPMA_W_WAIT_FOR_COMPLETION, or 0, as programs say
		      */
	if (!conn || !cq)
		return invalid("conn and cq must not be NULL");
	if (!conn->queues.channel)
		return not_shared();
	if (ibv_get_cq_event(conn->queues.channel, &found, &context))
		return RPMA_E_NO_COMPLETION;
	ibv_ack_cq_events(found, 1);
	const struct endpoint_queues *queues = &conn->queues;
	bool is_of_receives = queues->rcq && found == queues->rcq->cq;
	if (!is_of_receives && found != queues->cq->cq) {
		say_error("the event is of a completion queue that is not the connection's");
		return RPMA_E_UNKNOWN;
	}
	int error = ibv_req_notify_cq(found, 0);
	if (error)
		return provider_failed("ibv_req_notify_cq", error);
	*cq = is_of_receives ? queues->rcq : queues->cq;
	if (is_rcq)
		*is_rcq = is_of_receives;
	return 0;
}
