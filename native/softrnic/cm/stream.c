/* SPDX-License-Identifier: BSD-3-Clause */
/* stream.c -- what becomes of a connection once it is a queue pair's. */
#include "cm.h"

void
stream_established(void *argument)
{
	struct cm_id *id = argument;
	pthread_mutex_lock(&cm_lock);
	id->is_established = true;
	if (!id->is_joining && id->state == ID_ACCEPTED)
		stream_joined(id);
	pthread_mutex_unlock(&cm_lock);
}

void
stream_ended(void *argument)
{
	struct cm_id *id = argument;
	pthread_mutex_lock(&cm_lock);
	id->has_ended = true;
	if (!id->is_joining)
		stream_joined(id);
	pthread_mutex_unlock(&cm_lock);
}

void
stream_joined(struct cm_id *id)
{
	if (id->state == ID_ACCEPTED && id->is_established) {
		first_forget(id);
		id->state = ID_CONNECTED;
		struct event *event = event_new(id, RDMA_CM_EVENT_ESTABLISHED, 0);
		if (event)
			event_set_conn(event, NULL, id->ird, id->ord);
		event_post(event);
	}
	if (!id->has_ended)
		return;
	if (id->state == ID_ACCEPTED) {
		/* The initiator has never taken the connection up: it was none. */
		first_forget(id);
		id->state = ID_OVER;
		event_tell(id, RDMA_CM_EVENT_CONNECT_ERROR,
			   id->first_missed ? -ETIMEDOUT : -ECONNRESET);
	} else if (id->state == ID_CONNECTED || id->state == ID_DISCONNECTING) {
		id->state = ID_OVER;
		event_tell(id, RDMA_CM_EVENT_DISCONNECTED, 0);
	}
}

void
stream_end(struct cm_id *id)
{
	struct ibv_qp *qp = id->qp;
	id_leave_lock(id);
	struct ibv_qp *found = qp_find(qp->qp_num);
	bool is_there = found == qp;
	if (is_there)
		qp_disconnect(qp);
	if (found)
		qp_put(found);
	id_take_lock(id);
	if (!is_there) {
		id->has_ended = true;
		stream_joined(id);
	}
}

SOFTRNIC_EXPORT int
rdma_disconnect(struct rdma_cm_id *public)
{
	struct cm_id *id = to_id(public);
	bool event_comes = true;
	int ret = 0;
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	id_settle(id);
	switch (id->state) {
	case ID_ACCEPTED:
	case ID_CONNECTED:
		first_forget(id);
		id->state = ID_DISCONNECTING;
		stream_end(id);
		break;
	case ID_DISCONNECTING:
		break;
	case ID_CONNECTING:
	case ID_RESPONDED:
		/* The handshake ends here, and says so. */
		link_close(id->link);
		id->state = ID_OVER;
		link_give_up_qp(id->link, id);
		event_tell(id, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNABORTED);
		break;
	case ID_REQUESTED:
		event_comes = false;
		break;
	case ID_OVER:
		/* The peer was first; the event may be in line, or acknowledged long ago. */
		event_comes = id->queued;
		break;
	default:
		ret = EINVAL;
		break;
	}
	pthread_mutex_unlock(&cm_lock);
	if (ret)
		return failed_with(ret);
	return event_comes ? id_complete(id) : 0;
}
