/* SPDX-License-Identifier: BSD-3-Clause */
/* accept.c -- what the program says to a connection request. */
#include "cm.h"

static uint8_t
bounded(unsigned asked, unsigned request)
{
	if (asked == UINT8_MAX) /* RDMA_MAX_RESP_RES, RDMA_MAX_INIT_DEPTH: as the peer likes it */
		asked = request;
	return (uint8_t)(asked > DEVICE_RD_ATOMIC_MAX ? DEVICE_RD_ATOMIC_MAX : asked);
}

static struct mpa_frame
reply_to(struct link *link, struct cm_id *id, const struct rdma_conn_param *param)
{
	const struct mpa_frame *peer = &link->peer;
	struct mpa_frame reply = {.is_reply = true, .revision = peer->revision};
	id->responder_resources =
		bounded(param ? param->responder_resources : UINT8_MAX, id->responder_resources);
	id->initiator_depth =
		bounded(param ? param->initiator_depth : UINT8_MAX, id->initiator_depth);
	/* No more than the peer can use, or take. */
	id->ird = rd_lower(id->responder_resources, peer->enhanced ? peer->ord : MPA_RD_MAX,
			   MPA_RD_MAX);
	id->ord =
		rd_lower(id->initiator_depth, peer->enhanced ? peer->ird : MPA_RD_MAX, MPA_RD_MAX);
	link->crc = reply.crc = peer->crc || link_wants_crc(&id->id.route.addr);
	if (peer->enhanced) {
		reply.enhanced = true;
		reply.ird = id->ird;
		reply.ord = id->ord;
	}
	if (peer->enhanced && peer->peer_to_peer) {
		/* One of those offered; who offers all is one of us, and is told so. */
		link->acknowledges = mpa_has_all_rtr(peer);
		reply.rtr_write = peer->rtr_write;
		reply.rtr_read = peer->rtr_read && (!reply.rtr_write || link->acknowledges);
		reply.rtr_send = peer->rtr_send &&
				 ((!reply.rtr_write && !reply.rtr_read) || link->acknowledges);
		reply.peer_to_peer = reply.rtr_write || reply.rtr_read || reply.rtr_send;
	}
	if (param) {
		reply.private_size = param->private_data_len;
		reply.private_data = param->private_data;
	}
	return reply;
}

/*
 * 0 or an errno. A peer that has not waited for the answer is no mistake of the program: as with
 * InfiniBand an event tells of it, CONNECT_ERROR.
 */
static int
accept_id(struct cm_id *id, const struct rdma_conn_param *param, uint32_t qp_num)
{
	struct link *link = id->link;
	if (id->state != ID_REQUESTED)
		return EINVAL;
	struct mpa_frame reply = reply_to(link, id, param);
	link->qp_num = qp_num;
	link->is_qp_of_id = id->id.qp;
	if (link->is_gone || link_send(link, &reply)) {
		link_close(link);
		id->state = ID_OVER;
		link_give_up_qp(link, id);
		event_tell(id, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET);
		return 0;
	}
	int ret = link_join(link, qp_num, reply.peer_to_peer);
	if (ret) {
		id->state = ID_OVER;
		link_give_up_qp(link, id);
		return ret;
	}
	id->state = ID_ACCEPTED;
	if (reply.peer_to_peer)
		first_expect(id);
	else
		id->is_established = true;
	stream_joined(id);
	return 0;
}

SOFTRNIC_EXPORT int
rdma_accept(struct rdma_cm_id *public, struct rdma_conn_param *param)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	uint32_t qp_num;
	int ret = conn_param_check(id, param, true, &qp_num);
	if (!ret) {
		pthread_mutex_lock(&cm_lock);
		ret = accept_id(id, param, qp_num);
		pthread_mutex_unlock(&cm_lock);
	}
	return ret ? failed_with(ret) : id_complete(id);
}

SOFTRNIC_EXPORT int
rdma_reject(struct rdma_cm_id *public, const void *private_data, uint8_t size)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	bool may = id->state == ID_REQUESTED;
	if (may) {
		struct link *link = id->link;
		id->link = NULL;
		id->state = ID_OVER;
		link_reject(link, private_data, private_data ? size : 0);
	}
	pthread_mutex_unlock(&cm_lock);
	return may ? 0 : failed_with(EINVAL);
}

SOFTRNIC_EXPORT int
rdma_reject_ece(struct rdma_cm_id *id, const void *private_data, uint8_t size)
{
	return rdma_reject(id, private_data, size);
}
