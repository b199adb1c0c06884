/* SPDX-License-Identifier: BSD-3-Clause */
/* id.c -- the life of an id: created, given a channel and a device, migrated, destroyed. */
#include "cm.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
cm_usable(void)
{
	int ret = engine_usable();
	return ret ? failed_with(ret) : 0;
}

/* ---- creation ---- */

struct cm_id *
id_new(void *context, enum rdma_port_space port_space, enum ibv_qp_type qp_type)
{
	struct cm_id *id = calloc(1, sizeof(*id));
	if (!id)
		return NULL;
	id->spare = calloc(1, sizeof(*id->spare));
	if (!id->spare) {
		free(id);
		return NULL;
	}
	pthread_cond_init(&id->changed, NULL);
	id->fd = -1;
	id->id.context = context;
	id->id.ps = port_space;
	id->id.qp_type = qp_type;
	return id;
}

void
id_free(struct cm_id *id)
{
	if (id->link)
		connect_abandon(id);
	if (id->fd >= 0) {
		engine_forget_fd(id->fd);
		uncancelled_close(id->fd);
	}
	if (id->id.channel)
		channel_put((struct channel *)id->id.channel);
	pthread_cond_destroy(&id->changed);
	free(id->spare);
	free(id->qp_init_attr);
	free(id->connect_data);
	free(id);
}

int
id_set_channel(struct cm_id *id, struct channel *channel)
{
	id->is_sync = !channel;
	if (channel)
		channel_get(channel);
	else
		channel = channel_new();
	if (!channel)
		return errno;
	id->id.channel = &channel->channel;
	return 0;
}

int
id_set_device(struct cm_id *id)
{
	if (id->id.verbs)
		return 0;
	struct ibv_context *context = device_shared_context();
	if (!context)
		return errno;
	struct ibv_pd *pd = device_shared_pd();
	if (!pd)
		return errno;
	id->id.verbs = context;
	if (!id->id.pd)
		id->id.pd = pd;
	id->id.port_num = 1;
	return 0;
}

SOFTRNIC_EXPORT int
rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **out, void *context,
	       enum rdma_port_space port_space)
{
	if (cm_usable())
		return -1;
	/* Datagrams are not iWARP's. */
	if (port_space != RDMA_PS_TCP && port_space != RDMA_PS_IB)
		return failed_with(EPROTONOSUPPORT);
	struct cm_id *id = id_new(context, port_space, IBV_QPT_RC);
	if (!id)
		return failed_with(ENOMEM);
	pthread_mutex_lock(&cm_lock);
	int ret = id_set_channel(id, (struct channel *)channel);
	if (ret)
		id_free(id);
	pthread_mutex_unlock(&cm_lock);
	if (ret)
		return failed_with(ret);
	*out = &id->id;
	return 0;
}

/* ---- with and without the lock ---- */

void
id_settle(struct cm_id *id)
{
	while (id->busy)
		uncancelled_cond_wait(&id->changed, &cm_lock);
}

void
id_leave_lock(struct cm_id *id)
{
	id->busy++;
	pthread_mutex_unlock(&cm_lock);
}

void
id_take_lock(struct cm_id *id)
{
	pthread_mutex_lock(&cm_lock);
	id->busy--;
	pthread_cond_broadcast(&id->changed);
}

/* ---- synchronous calls ---- */

int
id_complete(struct cm_id *id)
{
	if (!id->is_sync)
		return 0;
	if (id->id.event) {
		rdma_ack_cm_event(id->id.event);
		id->id.event = NULL;
	}
	if (rdma_get_cm_event(id->id.channel, &id->id.event))
		return -1;
	int status = id->id.event->status;
	if (!status)
		return 0;
	if (id->id.event->event == RDMA_CM_EVENT_REJECTED)
		return failed_with(ECONNREFUSED);
	return failed_with(status < 0 ? -status : status);
}

/* ---- the end ---- */

/* Connection requests that the program has not got are nobody's. */
static void
free_events(struct event *events)
{
	while (events) {
		struct event *event = events;
		events = event->next;
		if (event->event.event == RDMA_CM_EVENT_CONNECT_REQUEST)
			id_free(to_id(event->event.id));
		free(event);
	}
}

SOFTRNIC_EXPORT int
rdma_destroy_id(struct rdma_cm_id *public)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	id_settle(id);
	if (id->link)
		connect_abandon(id);
	first_forget(id);
	id->state = ID_OVER;
	if (id->listener)
		listener_close(id->listener);
	if (id->qp && !id->has_ended) /* else its queue pair may serve another id by now */
		stream_end(id);
	pthread_mutex_unlock(&cm_lock);

	if (id->qp) {
		qp_forget_events(id->qp, id);
		qp_put(id->qp);
	}
	if (id->id.event)
		rdma_ack_cm_event(id->id.event);

	pthread_mutex_lock(&cm_lock);
	free_events(events_withdraw(id));
	while (id->taken)
		uncancelled_cond_wait(&id->changed, &cm_lock);
	struct listener *listener = id->listener;
	id->listener = NULL;
	id_free(id);
	pthread_mutex_unlock(&cm_lock);
	if (listener)
		source_put(&listener->source);
	return 0;
}

/* ---- migration ---- */

SOFTRNIC_EXPORT int
rdma_migrate_id(struct rdma_cm_id *public, struct rdma_event_channel *target)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	if (id->is_sync && !target)
		return failed_with(EINVAL);
	if (id->is_sync && id->id.event) {
		rdma_ack_cm_event(id->id.event);
		id->id.event = NULL;
	}
	pthread_mutex_lock(&cm_lock);
	struct channel *from = (struct channel *)id->id.channel;
	struct event *events = events_withdraw(id);
	bool was_sync = id->is_sync;
	int ret = id_set_channel(id, (struct channel *)target);
	if (ret)
		id->is_sync = was_sync;
	else
		channel_put(from);
	while (events) {
		struct event *event = events;
		events = event->next;
		event_post(event);
	}
	/* What the program has got belongs to the old channel: be done with it first. */
	while (!ret && id->taken)
		uncancelled_cond_wait(&id->changed, &cm_lock);
	pthread_mutex_unlock(&cm_lock);
	return ret ? failed_with(ret) : 0;
}

/* ---- options ---- */

void
id_tell_ack_timeout(struct cm_id *id)
{
	struct ibv_qp_attr attr = {.timeout = id->ack_timeout};
	if (id->id.qp && id->has_ack_timeout)
		(void)ibv_modify_qp(id->id.qp, &attr, IBV_QP_TIMEOUT);
}

SOFTRNIC_EXPORT int
rdma_set_option(struct rdma_cm_id *public, int level, int name, void *value, size_t size)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	if (level != RDMA_OPTION_ID)
		return failed_with(ENOSYS);
	bool is_byte = name == RDMA_OPTION_ID_TOS || name == RDMA_OPTION_ID_ACK_TIMEOUT;
	bool is_int = name == RDMA_OPTION_ID_REUSEADDR || name == RDMA_OPTION_ID_AFONLY;
	if (!is_byte && !is_int)
		return failed_with(ENOSYS);
	if (!value || size != (is_byte ? sizeof(uint8_t) : sizeof(int)))
		return failed_with(EINVAL);
	uint8_t byte = 0;
	int number = 0;
	if (is_byte)
		memcpy(&byte, value, sizeof(byte));
	else
		memcpy(&number, value, sizeof(number));
	int ret = 0;
	pthread_mutex_lock(&cm_lock);
	switch (name) {
	case RDMA_OPTION_ID_TOS:
		id->has_tos = true;
		id->tos = byte;
		if (id->fd >= 0)
			socket_set_tos(id->fd, id->id.route.addr.src_addr.sa_family, byte);
		break;
	case RDMA_OPTION_ID_REUSEADDR:
		/* Taken back at any time, given before the address only. */
		if (number && id->state != ID_IDLE)
			ret = EINVAL;
		else
			id->reuses_address = number;
		break;
	case RDMA_OPTION_ID_AFONLY:
		if (id->state != ID_IDLE)
			ret = EINVAL;
		else
			id->v6_only = number;
		break;
	default:
		id->has_ack_timeout = true;
		id->ack_timeout = byte;
		break;
	}
	pthread_mutex_unlock(&cm_lock);
	if (name == RDMA_OPTION_ID_ACK_TIMEOUT)
		id_tell_ack_timeout(id);
	return ret ? failed_with(ret) : 0;
}

SOFTRNIC_EXPORT struct ibv_context **
rdma_get_devices(int *count)
{
	struct ibv_context **list = NULL;
	struct ibv_context *context = cm_usable() ? NULL : device_shared_context();
	if (context)
		list = calloc(2, sizeof(*list));
	if (list)
		list[0] = context;
	if (count)
		*count = list ? 1 : 0;
	return list;
}

SOFTRNIC_EXPORT void
rdma_free_devices(struct ibv_context **list)
{
	free(list);
}
