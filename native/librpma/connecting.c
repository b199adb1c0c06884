/* SPDX-License-Identifier: BSD-3-Clause */
/* connecting.c -- endpoints that listen, and requests for connections, incoming and outgoing. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What an atomic write without the device's own needs. */
#define INLINE_SIZE 8

/* As often as it can be said: a receiver that is not ready is waited for. */
#define RETRIES 7

/* ---- private data ---- */

int
private_data_copy(struct rpma_conn_private_data *data, const struct rdma_cm_event *event)
{
	const void *sent = event->param.conn.private_data;
	uint8_t length = event->param.conn.private_data_len;
	*data = (struct rpma_conn_private_data){NULL, 0};
	if (!sent || !length)
		return 0;
	void *copy = malloc(length);
	if (!copy)
		return RPMA_E_NOMEM;
	memcpy(copy, sent, length);
	*data = (struct rpma_conn_private_data){copy, length};
	return 0;
}

void
private_data_free(struct rpma_conn_private_data *data)
{
	free(data->ptr);
	*data = (struct rpma_conn_private_data){NULL, 0};
}

/* ---- queues ---- */

int
queues_delete(struct endpoint_queues *queues)
{
	int ret = cq_delete(&queues->rcq);
	int cq_ret = cq_delete(&queues->cq);
	int channel_ret = 0;
	if (queues->channel) {
		int error = ibv_destroy_comp_channel(queues->channel);
		if (error)
			channel_ret = provider_failed("ibv_destroy_comp_channel", error);
		queues->channel = NULL;
	}
	return ret ? ret : cq_ret ? cq_ret : channel_ret;
}

/* A queue pair for an id, and the completion queues that it needs. */
static int
queues_new(struct endpoint_queues *queues, struct rpma_peer *peer, struct rdma_cm_id *id,
	   const struct rpma_conn_cfg *cfg)
{
	struct ibv_context *context = peer->pd->context;
	struct rpma_srq *srq = atomic_load(&cfg->srq);
	uint32_t rcq_size = atomic_load(&cfg->rcq_size);
	int ret;
	*queues = (struct endpoint_queues){NULL};
	if (id->verbs != context)
		return invalid("the connection is of another device than the peer");
	if (atomic_load(&cfg->shared_channel)) {
		queues->channel = ibv_create_comp_channel(context);
		if (!queues->channel)
			return provider_failed("ibv_create_comp_channel", errno);
	}
	ret = cq_new(context, atomic_load(&cfg->cq_size), queues->channel, &queues->cq);
	if (!ret && rcq_size)
		ret = cq_new(context, rcq_size, queues->channel, &queues->rcq);
	if (ret)
		goto failed;
	struct rpma_cq *rcq = queues->rcq ? queues->rcq : queues->cq;
	if (srq && srq->rcq)
		rcq = srq->rcq;
	struct ibv_qp_init_attr attributes = {
		.qp_context = id,
		.send_cq = queues->cq->cq,
		.recv_cq = rcq->cq,
		.srq = srq ? srq->srq : NULL,
		.cap =
			{
				.max_send_wr = atomic_load(&cfg->sq_size),
				.max_recv_wr = srq ? 0 : atomic_load(&cfg->rq_size),
				.max_send_sge = 1,
				.max_recv_sge = srq ? 0 : 1,
				.max_inline_data = INLINE_SIZE,
			},
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 0,
	};
	if (rdma_create_qp(id, peer->pd, &attributes)) {
		ret = provider_failed("rdma_create_qp", errno);
		goto failed;
	}
	return 0;
failed:
	(void)queues_delete(queues);
	return ret;
}

/* ---- requests ---- */

static int
conn_req_from_id(struct rpma_peer *peer, struct rdma_cm_id *id, const struct rpma_conn_cfg *cfg,
		 struct rpma_conn_req **req_ptr)
{
	struct rpma_conn_req *req = calloc(1, sizeof(*req));
	if (!req)
		return RPMA_E_NOMEM;
	int ret = queues_new(&req->queues, peer, id, conn_cfg_or_default(cfg));
	if (ret) {
		free(req);
		return ret;
	}
	req->peer = peer;
	req->id = id;
	*req_ptr = req;
	return 0;
}

int
conn_req_from_event(struct rpma_peer *peer, struct rdma_cm_event *event,
		    const struct rpma_conn_cfg *cfg, struct rpma_conn_req **req_ptr)
{
	struct rpma_conn_private_data data;
	struct rpma_conn_req *req;
	int ret = private_data_copy(&data, event);
	if (ret)
		return ret;
	ret = conn_req_from_id(peer, event->id, cfg, &req);
	if (ret) {
		private_data_free(&data);
		return ret;
	}
	req->data = data;
	req->is_passive = true;
	*req_ptr = req;
	return 0;
}

int
rpma_conn_req_new(struct rpma_peer *peer, const char *addr, const char *port,
		  const struct rpma_conn_cfg *cfg, struct rpma_conn_req **req_ptr)
{
	struct rdma_addrinfo *info;
	struct rdma_cm_id *id;
	if (!peer || !addr || !port || !req_ptr)
		return invalid("peer, addr, port and req_ptr must not be NULL");
	int timeout = atomic_load(&conn_cfg_or_default(cfg)->timeout_ms);
	int ret = address_find(addr, port, false, &info);
	if (ret)
		return ret;
	if (rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP)) {
		ret = provider_failed("rdma_create_id", errno);
		goto free_info;
	}
	if (rdma_resolve_addr(id, info->ai_src_addr, info->ai_dst_addr, timeout))
		ret = provider_failed("rdma_resolve_addr", errno);
	else if (rdma_resolve_route(id, timeout))
		ret = provider_failed("rdma_resolve_route", errno);
	else
		ret = conn_req_from_id(peer, id, cfg, req_ptr);
	if (ret)
		(void)rdma_destroy_id(id);
	else
		say_notice("requesting a connection to %s:%s", addr, port);
free_info:
	rdma_freeaddrinfo(info);
	return ret;
}

int
rpma_conn_req_delete(struct rpma_conn_req **req_ptr)
{
	int ret = 0;
	if (!req_ptr)
		return invalid("req_ptr must not be NULL");
	struct rpma_conn_req *req = *req_ptr;
	if (!req)
		return 0;
	*req_ptr = NULL;
	rdma_destroy_qp(req->id);
	int queues_ret = queues_delete(&req->queues);
	if (req->is_passive && rdma_reject(req->id, NULL, 0))
		ret = provider_failed("rdma_reject", errno);
	if (rdma_destroy_id(req->id) && !ret)
		ret = provider_failed("rdma_destroy_id", errno);
	private_data_free(&req->data);
	free(req);
	return queues_ret ? queues_ret : ret;
}

int
rpma_conn_req_get_private_data(const struct rpma_conn_req *req,
			       struct rpma_conn_private_data *pdata)
{
	if (!req || !pdata)
		return invalid("req and pdata must not be NULL");
	*pdata = req->data;
	return 0;
}

int
rpma_conn_req_recv(struct rpma_conn_req *req, struct rpma_mr_local *dst, size_t offset, size_t len,
		   const void *op_context)
{
	if (!req)
		return invalid("req must not be NULL");
	return post_recv(req->id->qp, NULL, dst, offset, len, op_context);
}

int
rpma_conn_req_connect(struct rpma_conn_req **req_ptr, const struct rpma_conn_private_data *pdata,
		      struct rpma_conn **conn_ptr)
{
	struct rpma_conn *conn;
	if (!req_ptr)
		return invalid("req_ptr must not be NULL");
	struct rpma_conn_req *req = *req_ptr;
	if (!req || !conn_ptr || (pdata && (!pdata->ptr || !pdata->len))) {
		(void)rpma_conn_req_delete(req_ptr); /* it is consumed, whatever comes */
		return invalid(
			"req_ptr, *req_ptr and conn_ptr must not be NULL, and pdata, if any, "
			"has 1 to 255 bytes");
	}
	*req_ptr = NULL;
	struct rdma_conn_param parameters = {
		.private_data = pdata ? pdata->ptr : NULL,
		.private_data_len = pdata ? pdata->len : 0,
		.responder_resources = RDMA_MAX_RESP_RES,
		.initiator_depth = RDMA_MAX_INIT_DEPTH,
		.flow_control = 1,
		.retry_count = RETRIES,
		.rnr_retry_count = RETRIES,
	};
	int ret = conn_new(req, &conn);
	if (ret) {
		(void)rpma_conn_req_delete(&req);
		return ret;
	}
	bool is_passive = req->is_passive;
	free(req); /* what it had is the connection's */
	if (is_passive ? rdma_accept(conn->id, &parameters) : rdma_connect(conn->id, &parameters)) {
		ret = provider_failed(is_passive ? "rdma_accept" : "rdma_connect", errno);
		(void)rpma_conn_delete(&conn);
		return ret;
	}
	*conn_ptr = conn;
	return 0;
}

/* ---- endpoints ---- */

int
rpma_ep_listen(struct rpma_peer *peer, const char *addr, const char *port, struct rpma_ep **ep_ptr)
{
	struct rdma_addrinfo *info = NULL;
	int ret;
	if (!peer || !addr || !port || !ep_ptr)
		return invalid("peer, addr, port and ep_ptr must not be NULL");
	struct rpma_ep *ep = calloc(1, sizeof(*ep));
	if (!ep)
		return RPMA_E_NOMEM;
	ep->peer = peer;
	ep->events = rdma_create_event_channel();
	if (!ep->events) {
		ret = provider_failed("rdma_create_event_channel", errno);
		goto failed;
	}
	if (rdma_create_id(ep->events, &ep->id, NULL, RDMA_PS_TCP)) {
		ret = provider_failed("rdma_create_id", errno);
		goto failed;
	}
	ret = address_find(addr, port, true, &info);
	if (ret)
		goto failed;
	if (rdma_bind_addr(ep->id, info->ai_src_addr)) {
		ret = provider_failed("rdma_bind_addr", errno);
		goto failed;
	}
	if (rdma_listen(ep->id, 0)) {
		ret = provider_failed("rdma_listen", errno);
		goto failed;
	}
	rdma_freeaddrinfo(info);
	*ep_ptr = ep;
	say_notice("listening on %s:%s", addr, port);
	return 0;
failed:
	if (info)
		rdma_freeaddrinfo(info);
	if (ep->id)
		(void)rdma_destroy_id(ep->id);
	if (ep->events)
		rdma_destroy_event_channel(ep->events);
	free(ep);
	return ret;
}

int
rpma_ep_shutdown(struct rpma_ep **ep_ptr)
{
	if (!ep_ptr)
		return invalid("ep_ptr must not be NULL");
	struct rpma_ep *ep = *ep_ptr;
	if (!ep)
		return 0;
	if (rdma_destroy_id(ep->id))
		return provider_failed("rdma_destroy_id", errno);
	rdma_destroy_event_channel(ep->events);
	free(ep);
	*ep_ptr = NULL;
	return 0;
}

int
rpma_ep_get_fd(const struct rpma_ep *ep, int *fd)
{
	if (!ep || !fd)
		return invalid("ep and fd must not be NULL");
	*fd = ep->events->fd;
	return 0;
}

int
rpma_ep_next_conn_req(struct rpma_ep *ep, const struct rpma_conn_cfg *cfg,
		      struct rpma_conn_req **req_ptr)
{
	struct rdma_cm_event *event;
	int ret;
	if (!ep || !req_ptr)
		return invalid("ep and req_ptr must not be NULL");
	if (rdma_get_cm_event(ep->events, &event)) {
		if (errno == EAGAIN || errno == ENODATA)
			return RPMA_E_NO_EVENT;
		(void)provider_failed("rdma_get_cm_event", errno);
		return RPMA_E_PROVIDER;
	}
	struct rdma_cm_id *id = event->id;
	bool is_request = event->event == RDMA_CM_EVENT_CONNECT_REQUEST;
	if (is_request)
		ret = conn_req_from_event(ep->peer, event, cfg, req_ptr);
	else
		ret = invalid("an event that is no request came: %s", rdma_event_str(event->event));
	/* The id cannot be destroyed, or given another channel, before. */
	if (rdma_ack_cm_event(event) && !ret) {
		ret = provider_failed("rdma_ack_cm_event", errno);
		(void)rpma_conn_req_delete(req_ptr);
	} else if (ret && is_request) {
		(void)rdma_reject(id, NULL, 0);
		(void)rdma_destroy_id(id);
	}
	return ret;
}
