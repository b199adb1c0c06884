/* SPDX-License-Identifier: BSD-3-Clause */
/* endpoint.c -- synchronous endpoints: an id with a queue pair, in one call. */
#include "cm.h"

#include <stdlib.h>
#include <string.h>

#define RESOLVE_MS 2000

/* What the ids of rdma_get_request() get is kept for them. */
static int
prepare_passive(struct cm_id *id, const struct rdma_addrinfo *info, struct ibv_pd *pd,
		const struct ibv_qp_init_attr *attr)
{
	if (rdma_bind_addr(&id->id, info->ai_src_addr))
		return -1;
	if (pd)
		id->id.pd = pd;
	if (!attr)
		return 0;
	id->qp_init_attr = malloc(sizeof(*id->qp_init_attr));
	if (!id->qp_init_attr)
		return failed_with(ENOMEM);
	*id->qp_init_attr = *attr;
	id->qp_init_attr->qp_type = info->ai_qp_type;
	return 0;
}

static int
prepare_active(struct cm_id *id, const struct rdma_addrinfo *info, struct ibv_pd *pd,
	       struct ibv_qp_init_attr *attr)
{
	if (rdma_resolve_addr(&id->id, info->ai_src_addr, info->ai_dst_addr, RESOLVE_MS) ||
	    rdma_resolve_route(&id->id, RESOLVE_MS))
		return -1;
	if (attr) {
		attr->qp_type = info->ai_qp_type;
		if (rdma_create_qp(&id->id, pd, attr))
			return -1;
	}
	if (info->ai_connect_len) {
		id->connect_data = malloc(info->ai_connect_len);
		if (!id->connect_data)
			return failed_with(ENOMEM);
		memcpy(id->connect_data, info->ai_connect, info->ai_connect_len);
		id->connect_size = info->ai_connect_len;
	}
	return 0;
}

SOFTRNIC_EXPORT int
rdma_create_ep(struct rdma_cm_id **out, struct rdma_addrinfo *info, struct ibv_pd *pd,
	       struct ibv_qp_init_attr *attr)
{
	struct rdma_cm_id *public;
	if (info->ai_qp_type && info->ai_qp_type != IBV_QPT_RC)
		return failed_with(EPROTONOSUPPORT);
	if (rdma_create_id(NULL, &public, NULL, info->ai_port_space))
		return -1;
	struct cm_id *id = to_id(public);
	int ret = info->ai_flags & RAI_PASSIVE ? prepare_passive(id, info, pd, attr)
					       : prepare_active(id, info, pd, attr);
	if (ret) {
		int failure = errno;
		rdma_destroy_ep(public);
		return failed_with(failure);
	}
	*out = public;
	return 0;
}

SOFTRNIC_EXPORT void
rdma_destroy_ep(struct rdma_cm_id *id)
{
	if (id->qp)
		rdma_destroy_qp(id);
	if (id->srq)
		rdma_destroy_srq(id);
	rdma_destroy_id(id);
}

SOFTRNIC_EXPORT int
rdma_get_request(struct rdma_cm_id *public, struct rdma_cm_id **out)
{
	struct cm_id *listener = to_id(public);
	struct rdma_cm_event *event;
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	bool may = listener->is_sync && listener->state == ID_LISTENING;
	pthread_mutex_unlock(&cm_lock);
	if (!may)
		return failed_with(EINVAL);
	if (public->event) {
		rdma_ack_cm_event(public->event);
		public->event = NULL;
	}
	if (rdma_get_cm_event(public->channel, &event))
		return -1;
	if (event->event != RDMA_CM_EVENT_CONNECT_REQUEST) {
		int failure = event->status ? abs(event->status) : EINVAL;
		public->event = event;
		return failed_with(failure);
	}
	struct rdma_cm_id *id = event->id;
	if (listener->qp_init_attr) {
		struct ibv_qp_init_attr attr = *listener->qp_init_attr;
		if (rdma_create_qp(id, public->pd, &attr)) {
			/* Nobody else can: turn the peer away. */
			int failure = errno;
			rdma_destroy_id(id);
			rdma_ack_cm_event(event);
			return failed_with(failure);
		}
	}
	id->event = event;
	*out = id;
	return 0;
}
