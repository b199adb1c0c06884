/* SPDX-License-Identifier: BSD-3-Clause */
/* connection.c -- checks of peers, endpoints, connections and what configures them. */
#include "validation.h"
#include "wrapper.h"

#include <stdio.h>
#include <string.h>

/* What rdma_cm carries on InfiniBand and RoCE (rdma_connect(3)); more than librpma's 255 on iWARP.
 */
#define PRIVATE_DATA_CONNECT 56
#define PRIVATE_DATA_ACCEPT 196

/* ---- peers ---- */

void
after_rpma_peer_new(struct call *call, int ret, struct ibv_context *ibv_ctx, struct object *peer)
{
	if (!ibv_ctx)
		hint(call, "ibv_ctx is NULL");
	else if (!ret)
		peer->transport = ibv_ctx->device->transport_type;
}

static int
check_dependants(struct call *call, struct object *object)
{
	struct object *other = object ? object_depending_on(object) : NULL;
	if (!other)
		return 0;
	enum kind kind = atomic_load(&object->state) >> 2,
		  other_kind = atomic_load(&other->state) >> 2;
	int ret = finding(call, object, "%s#%u is deleted while %s#%u needs it", kind_names[kind],
			  object->number, kind_names[other_kind], other->number);
	finding_about(call, other);
	return ret;
}

int
check_rpma_peer_delete(struct call *call, struct object *peer)
{
	return check_dependants(call, peer);
}

/* ---- configurations ---- */

int
check_rpma_conn_cfg_set_timeout(struct call *call, struct object *cfg, int timeout_ms)
{
	(void)cfg;
	if (timeout_ms < 0)
		hint(call, "timeout_ms is %d, less than 0", timeout_ms);
	return 0;
}

/* What a configuration has here is what it has in the normal library, whoever sets it. */
int
check_rpma_conn_cfg_set_srq(struct call *call, struct object *cfg, struct rpma_srq *srq)
{
	(void)call;
	(void)cfg;
	(void)srq;
	objects_lock();
	return 0;
}

void
after_rpma_conn_cfg_set_srq(struct call *call, int ret, struct object *cfg, struct rpma_srq *srq)
{
	(void)call;
	if (!ret)
		atomic_store(&cfg->kept, (void *)srq);
	objects_unlock();
}

int
check_rpma_conn_cfg_get_srq(struct call *call, struct object *cfg, struct rpma_srq **srq_ptr)
{
	(void)call;
	(void)cfg;
	(void)srq_ptr;
	objects_lock();
	return 0;
}

void
after_rpma_conn_cfg_get_srq(struct call *call, int ret, struct object *cfg,
			    struct rpma_srq **srq_ptr)
{
	(void)call;
	(void)ret;
	(void)cfg;
	(void)srq_ptr;
	objects_unlock();
}

static struct queue_sizes
sizes_of(const struct object *cfg)
{
	struct queue_sizes sizes = {0};
	struct rpma_conn_cfg *defaults = NULL;
	const struct rpma_conn_cfg *from = cfg ? cfg->normal : NULL;
	if (!from && !normal.rpma_conn_cfg_new(&defaults))
		from = defaults;
	if (from) {
		(void)normal.rpma_conn_cfg_get_sq_size(from, &sizes.sq);
		(void)normal.rpma_conn_cfg_get_rq_size(from, &sizes.rq);
		(void)normal.rpma_conn_cfg_get_cq_size(from, &sizes.cq);
		(void)normal.rpma_conn_cfg_get_rcq_size(from, &sizes.rcq);
	}
	if (defaults)
		(void)normal.rpma_conn_cfg_delete(&defaults);
	return sizes;
}

/* The shared receive queue that connections are to have; for any, so that it is found before one
 * is asked for. */
static int
check_cfg(struct call *call, struct object *cfg, const struct object *peer)
{
	void *handle = cfg ? atomic_load(&cfg->kept) : NULL;
	struct object *srq = object_at(handle);
	bool is_shared = false;
	if (!handle)
		return 0;
	if (!srq || atomic_load(&srq->state) >> 2 != KIND_SRQ)
		return finding(call, cfg,
			       "cfg, conn_cfg#%u, has srq %p, which is no shared receive queue",
			       cfg->number, handle);
	if (!object_is_live(srq)) {
		int ret = finding(call, srq, "cfg, conn_cfg#%u, has srq#%u, which has been deleted",
				  cfg->number, srq->number);
		finding_about(call, cfg);
		return ret;
	}
	if (srq->peer != peer)
		return finding(call, srq,
			       "cfg, conn_cfg#%u, has srq#%u, which is of peer#%u, not "
			       "of peer#%u",
			       cfg->number, srq->number, srq->peer->number, peer->number);
	(void)normal.rpma_conn_cfg_get_compl_channel(cfg->normal, &is_shared);
	if (is_shared && srq->found[0])
		hint(call,
		     "cfg, conn_cfg#%u, asks for a shared completion channel, which a "
		     "connection cannot have with a shared receive queue that has a CQ of "
		     "its own",
		     cfg->number);
	return 0;
}

/* ---- shared receive queues ---- */

void
after_rpma_srq_new(struct call *call, int ret, struct object *peer, struct object *cfg,
		   struct object *srq)
{
	struct queue_sizes sizes = {0};
	struct rpma_srq_cfg *defaults = NULL;
	const struct rpma_srq_cfg *from = cfg ? cfg->normal : NULL;
	struct rpma_cq *rcq = NULL;
	if (ret)
		return;
	srq->peer = peer;
	if (!from && !normal.rpma_srq_cfg_new(&defaults))
		from = defaults;
	if (from) {
		(void)normal.rpma_srq_cfg_get_rq_size(from, &sizes.rq);
		(void)normal.rpma_srq_cfg_get_rcq_size(from, &sizes.rcq);
	}
	if (defaults)
		(void)normal.rpma_srq_cfg_delete(&defaults);
	srq->srq.requests = requests_new(&sizes);
	if (!normal.rpma_srq_get_rcq(srq->normal, &rcq))
		(void)object_add_cq(call, srq, rcq, true);
}

int
check_rpma_srq_delete(struct call *call, struct object *srq)
{
	return check_dependants(call, srq);
}

void
after_rpma_srq_delete(struct call *call, int ret, struct object *srq)
{
	(void)call;
	(void)ret;
	if (srq)
		requests_forget(srq);
}

/* ---- endpoints and requests for connections ---- */

void
after_rpma_ep_listen(struct call *call, int ret, struct object *peer, const char *addr,
		     const char *port, struct object *ep)
{
	if (!addr || !port)
		hint(call, "%s is NULL", addr ? "port" : "addr");
	if (!ret)
		ep->peer = peer;
}

static void
set_up_request(struct object *req, struct object *peer, const struct object *cfg, bool is_passive)
{
	struct queue_sizes sizes = sizes_of(cfg);
	req->peer = peer;
	req->conn.srq = cfg ? object_if_live(atomic_load(&cfg->kept), KIND_SRQ) : NULL;
	req->conn.is_passive = is_passive;
	req->conn.requests = requests_new(&sizes);
	atomic_store(&req->conn.event, RPMA_CONN_UNDEFINED);
}

int
check_rpma_ep_next_conn_req(struct call *call, struct object *ep, struct object *cfg,
			    struct rpma_conn_req **req_ptr)
{
	(void)req_ptr;
	return check_cfg(call, cfg, ep->peer);
}

void
after_rpma_ep_next_conn_req(struct call *call, int ret, struct object *ep, struct object *cfg,
			    struct object *req)
{
	(void)call;
	if (!ret)
		set_up_request(req, ep->peer, cfg, true);
}

int
check_rpma_conn_req_new(struct call *call, struct object *peer, const char *addr, const char *port,
			struct object *cfg, struct rpma_conn_req **req_ptr)
{
	(void)req_ptr;
	if (!addr || !port)
		hint(call, "%s is NULL", addr ? "port" : "addr");
	return check_cfg(call, cfg, peer);
}

void
after_rpma_conn_req_new(struct call *call, int ret, struct object *peer, const char *addr,
			const char *port, struct object *cfg, struct object *req)
{
	(void)call;
	(void)addr;
	(void)port;
	if (!ret)
		set_up_request(req, peer, cfg, false);
}

void
after_rpma_conn_req_delete(struct call *call, int ret, struct object *req)
{
	(void)call;
	(void)ret;
	if (req)
		requests_forget(req);
}

int
check_rpma_conn_req_connect(struct call *call, struct object *req,
			    const struct rpma_conn_private_data *pdata, struct rpma_conn **conn_ptr)
{
	(void)conn_ptr;
	if (!req) {
		hint(call, "*req_ptr is NULL");
		return 0;
	}
	if (!pdata)
		return 0;
	int most = req->conn.is_passive ? PRIVATE_DATA_ACCEPT : PRIVATE_DATA_CONNECT;
	if (!pdata->ptr || !pdata->len)
		hint(call, "pdata->%s: hand over NULL for no private data",
		     pdata->ptr ? "len is 0" : "ptr is NULL");
	else if (req->peer->transport == IBV_TRANSPORT_IB && pdata->len > most)
		hint(call,
		     "pdata->len is %d: on InfiniBand and RoCE private data has at most %d "
		     "bytes when a connection is %s",
		     pdata->len, most, req->conn.is_passive ? "accepted" : "asked for");
	return 0;
}

void
after_rpma_conn_req_connect(struct call *call, int ret, struct object *req,
			    const struct rpma_conn_private_data *pdata, struct object *conn)
{
	struct rpma_cq *cq = NULL, *rcq = NULL;
	uint32_t qp_num = 0;
	(void)pdata;
	if (!req)
		return;
	if (ret) {
		requests_forget(req);
		return;
	}
	conn->peer = req->peer;
	conn->conn.srq = req->conn.srq;
	conn->conn.is_passive = req->conn.is_passive;
	conn->conn.requests = req->conn.requests;
	atomic_store(&conn->conn.event, RPMA_CONN_UNDEFINED);
	req->conn.requests = NULL;
	if (!normal.rpma_conn_get_cq(conn->normal, &cq))
		(void)object_add_cq(call, conn, cq, false);
	if (normal.rpma_conn_get_rcq && !normal.rpma_conn_get_rcq(conn->normal, &rcq))
		(void)object_add_cq(call, conn, rcq, true);
	if (conn->conn.srq && !normal.rpma_conn_get_qp_num(conn->normal, &qp_num))
		requests_join(conn, qp_num);
}

/* ---- connections ---- */

void
after_rpma_conn_next_event(struct call *call, int ret, struct object *conn,
			   enum rpma_conn_event *event)
{
	(void)call;
	if (ret)
		return;
	if (*event == RPMA_CONN_ESTABLISHED) {
		int connecting = CONN_CONNECTING;
		(void)atomic_compare_exchange_strong(&conn->conn.state, &connecting,
						     CONN_ESTABLISHED);
	} else {
		atomic_store(&conn->conn.event, (int)*event);
		atomic_store(&conn->conn.state, CONN_ENDED);
	}
}

int
check_rpma_conn_disconnect(struct call *call, struct object *conn)
{
	switch (atomic_load(&conn->conn.state)) {
	case CONN_CONNECTING:
		hint(call, "conn, conn#%u, is not established", conn->number);
		break;
	case CONN_DISCONNECTING:
		hint(call, "conn, conn#%u, is being disconnected already", conn->number);
		break;
	default:
		break;
	}
	return 0;
}

void
after_rpma_conn_disconnect(struct call *call, int ret, struct object *conn)
{
	(void)call;
	int established = CONN_ESTABLISHED;
	if (!ret &&
	    atomic_compare_exchange_strong(&conn->conn.state, &established, CONN_DISCONNECTING))
		atomic_store(&conn->conn.is_disconnected, true);
}

int
check_rpma_conn_delete(struct call *call, struct object *conn)
{
	if (!conn)
		return 0;
	requests_before_delete(call, conn);
	if (conn->conn.srq && !conn->conn.srq->found[0]) {
		call_forward(call);
		requests_drain(call, conn);
		call_return(call);
	}
	return 0;
}

void
after_rpma_conn_delete(struct call *call, int ret, struct object *conn)
{
	(void)call;
	(void)ret;
	if (conn)
		requests_forget(conn);
}

void
after_rpma_conn_apply_remote_peer_cfg(struct call *call, int ret, struct object *conn,
				      struct object *pcfg)
{
	(void)call;
	if (!ret)
		(void)normal.rpma_peer_cfg_get_direct_write_to_pmem(pcfg->normal,
								    &conn->conn.has_direct_write);
}
