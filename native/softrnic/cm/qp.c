/* SPDX-License-Identifier: BSD-3-Clause */
/* qp.c -- the verbs objects that belong to an id. */
#include "cm.h"

#include <string.h>

/* ---- completion queues and their channels ---- */

static void
destroy_cqs(struct rdma_cm_id *id)
{
	struct ibv_cq *send_cq = id->send_cq, *recv_cq = id->recv_cq;
	struct ibv_comp_channel *send_channel = id->send_cq_channel;
	struct ibv_comp_channel *recv_channel = id->recv_cq_channel;
	id->send_cq = id->recv_cq = NULL;
	id->send_cq_channel = id->recv_cq_channel = NULL;
	if (recv_cq)
		ibv_destroy_cq(recv_cq);
	if (send_cq && send_cq != recv_cq)
		ibv_destroy_cq(send_cq);
	if (recv_channel)
		ibv_destroy_comp_channel(recv_channel);
	if (send_channel && send_channel != recv_channel)
		ibv_destroy_comp_channel(send_channel);
}

static int
create_cq(struct rdma_cm_id *id, uint32_t size, struct ibv_cq **cq,
	  struct ibv_comp_channel **channel)
{
	*channel = ibv_create_comp_channel(id->verbs);
	if (*channel)
		*cq = ibv_create_cq(id->verbs, (int)size, id, *channel, 0);
	return *cq ? 0 : -1;
}

/* Those that neither the program nor the id has, for as many requests. 0, or -1 with errno. */
static int
create_cqs(struct rdma_cm_id *id, uint32_t send_size, uint32_t recv_size)
{
	if (recv_size && create_cq(id, recv_size, &id->recv_cq, &id->recv_cq_channel))
		goto failed;
	if (send_size && create_cq(id, send_size, &id->send_cq, &id->send_cq_channel))
		goto failed;
	return 0;
failed:;
	int failure = errno;
	destroy_cqs(id);
	return failed_with(failure);
}

/* ---- queue pairs ---- */

SOFTRNIC_EXPORT int
rdma_create_qp_ex(struct rdma_cm_id *id, struct ibv_qp_init_attr_ex *attr)
{
	if (cm_usable())
		return -1;
	if (id->qp || !id->verbs)
		return failed_with(EINVAL);
	if (!(attr->comp_mask & IBV_QP_INIT_ATTR_PD) || !attr->pd) {
		attr->comp_mask |= IBV_QP_INIT_ATTR_PD;
		attr->pd = id->pd;
	}
	if (attr->pd->context != id->verbs ||
	    (id->recv_cq && attr->recv_cq && id->recv_cq != attr->recv_cq) ||
	    (id->send_cq && attr->send_cq && id->send_cq != attr->send_cq))
		return failed_with(EINVAL);
	bool has_send_cq = attr->send_cq || id->send_cq;
	bool has_recv_cq = attr->recv_cq || id->recv_cq;
	if (create_cqs(id, has_send_cq ? 0 : attr->cap.max_send_wr,
		       has_recv_cq ? 0 : attr->cap.max_recv_wr))
		return -1;
	if (!attr->send_cq)
		attr->send_cq = id->send_cq;
	if (!attr->recv_cq)
		attr->recv_cq = id->recv_cq;
	if (!attr->srq)
		attr->srq = id->srq;
	struct ibv_qp *qp = ibv_create_qp_ex(id->verbs, attr);
	struct ibv_qp_attr state = {.qp_state = IBV_QPS_INIT};
	int ret = qp ? ibv_modify_qp(qp, &state, IBV_QP_STATE) : errno;
	if (ret) {
		if (qp)
			ibv_destroy_qp(qp);
		destroy_cqs(id);
		return failed_with(ret);
	}
	id->pd = qp->pd;
	id->qp = qp;
	id_tell_ack_timeout(to_id(id));
	return 0;
}

SOFTRNIC_EXPORT int
rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	struct ibv_qp_init_attr_ex extended = {
		.qp_context = attr->qp_context,
		.send_cq = attr->send_cq,
		.recv_cq = attr->recv_cq,
		.srq = attr->srq,
		.cap = attr->cap,
		.qp_type = attr->qp_type,
		.sq_sig_all = attr->sq_sig_all,
		.comp_mask = IBV_QP_INIT_ATTR_PD,
		.pd = pd,
	};
	int ret = rdma_create_qp_ex(id, &extended);
	/* What it has got, which is what rdma-core tells even when it fails. */
	attr->send_cq = extended.send_cq;
	attr->recv_cq = extended.recv_cq;
	attr->srq = extended.srq;
	attr->cap = extended.cap;
	return ret;
}

SOFTRNIC_EXPORT void
rdma_destroy_qp(struct rdma_cm_id *id)
{
	if (cm_usable())
		return;
	if (id->qp)
		ibv_destroy_qp(id->qp);
	id->qp = NULL;
	destroy_cqs(id);
}

/*
 * For programs that move their queue pairs through the states by themselves. There is nothing to
 * tell the device: the stream comes with rdma_accept() or rdma_establish().
 */
SOFTRNIC_EXPORT int
rdma_init_qp_attr(struct rdma_cm_id *public, struct ibv_qp_attr *attr, int *mask)
{
	struct cm_id *id = to_id(public);
	enum ibv_qp_state state = attr->qp_state;
	if (cm_usable())
		return -1;
	if (!public->verbs ||
	    (state != IBV_QPS_INIT && state != IBV_QPS_RTR && state != IBV_QPS_RTS))
		return failed_with(EINVAL);
	memset(attr, 0, sizeof(*attr));
	attr->qp_state = state;
	attr->cur_qp_state = state;
	attr->port_num = public->port_num;
	attr->qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
				IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
	attr->max_rd_atomic = (uint8_t)rd_lower(id->initiator_depth, 0, 0);
	attr->max_dest_rd_atomic = (uint8_t)rd_lower(id->responder_resources, 0, 0);
	*mask = IBV_QP_STATE;
	if (state == IBV_QPS_INIT)
		*mask |= IBV_QP_ACCESS_FLAGS | IBV_QP_PORT | IBV_QP_PKEY_INDEX;
	else if (state == IBV_QPS_RTR)
		*mask |= IBV_QP_MAX_DEST_RD_ATOMIC;
	else
		*mask |= IBV_QP_MAX_QP_RD_ATOMIC;
	return 0;
}

/* ---- shared receive queues ---- */

SOFTRNIC_EXPORT int
rdma_create_srq_ex(struct rdma_cm_id *id, struct ibv_srq_init_attr_ex *attr)
{
	if (cm_usable())
		return -1;
	if (!(attr->comp_mask & IBV_SRQ_INIT_ATTR_TYPE) || !id->verbs)
		return failed_with(EINVAL);
	if (attr->srq_type != IBV_SRQT_BASIC)
		return failed_with(EOPNOTSUPP);
	if (!(attr->comp_mask & IBV_SRQ_INIT_ATTR_PD) || !attr->pd) {
		attr->comp_mask |= IBV_SRQ_INIT_ATTR_PD;
		attr->pd = id->pd;
	}
	struct ibv_srq *srq = ibv_create_srq_ex(id->verbs, attr);
	if (!srq)
		return -1;
	id->srq = srq;
	return 0;
}

SOFTRNIC_EXPORT int
rdma_create_srq(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_srq_init_attr *attr)
{
	struct ibv_srq_init_attr_ex extended = {
		.srq_context = attr->srq_context,
		.attr = attr->attr,
		.comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_PD,
		.srq_type = IBV_SRQT_BASIC,
		.pd = pd,
	};
	int ret = rdma_create_srq_ex(id, &extended);
	attr->attr = extended.attr;
	return ret;
}

SOFTRNIC_EXPORT void
rdma_destroy_srq(struct rdma_cm_id *id)
{
	if (cm_usable())
		return;
	if (id->srq)
		ibv_destroy_srq(id->srq);
	id->srq = NULL;
	destroy_cqs(id);
}
