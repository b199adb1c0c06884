/* SPDX-License-Identifier: BSD-3-Clause */
/* unsupported.c -- what iWARP, or this device, does not have. */
#include "cm.h"

/* ---- multicast: there are no datagrams ---- */

SOFTRNIC_EXPORT int
rdma_join_multicast(struct rdma_cm_id *id, struct sockaddr *address, void *context)
{
	(void)id, (void)context;
	return failed_with(address_size(address) ? EOPNOTSUPP : EINVAL);
}

SOFTRNIC_EXPORT int
rdma_join_multicast_ex(struct rdma_cm_id *id, struct rdma_cm_join_mc_attr_ex *attr, void *context)
{
	(void)id, (void)attr, (void)context;
	return failed_with(EOPNOTSUPP);
}

SOFTRNIC_EXPORT int
rdma_leave_multicast(struct rdma_cm_id *id, struct sockaddr *address)
{
	(void)id;
	return failed_with(address_size(address) ? EADDRNOTAVAIL : EINVAL);
}

/* ---- events of the queue pair: connections here form by themselves ---- */

SOFTRNIC_EXPORT int
rdma_notify(struct rdma_cm_id *public, enum ibv_event_type event)
{
	(void)event;
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	bool is_connection = to_id(public)->state >= ID_CONNECTING;
	pthread_mutex_unlock(&cm_lock);
	return is_connection ? 0 : failed_with(EINVAL);
}

/* ---- enhanced connection establishment: options of vendors, of which MPA tells nothing ---- */

SOFTRNIC_EXPORT int
rdma_set_local_ece(struct rdma_cm_id *id, struct ibv_ece *ece)
{
	if (!id || id->qp || !ece || !ece->vendor_id || ece->comp_mask)
		return failed_with(EINVAL);
	return 0;
}

SOFTRNIC_EXPORT int
rdma_get_remote_ece(struct rdma_cm_id *id, struct ibv_ece *ece)
{
	if (!id || id->qp || !ece)
		return failed_with(EINVAL);
	*ece = (struct ibv_ece){0};
	return 0;
}
