/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * events.c -- event channels, and the events on them.
 *
 * A channel's fd is an eventfd that counts like a semaphore: one for each event in line. So read(),
 * poll(), epoll and O_NONBLOCK do what they do with the kernel's. Whoever takes an event back takes
 * its count back as well, but never waits for it: the count may be in the hands of a reader, who
 * then finds the line empty and goes on waiting.
 */
#include "cm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

pthread_mutex_t cm_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- channels ---- */

/* A thread in rdma_get_cm_event(). */
struct reader {
	struct channel *channel;
	bool is_heir; /* the program has destroyed the channel, whose end is up to this one */
	struct reader *next;
};

static struct reader *readers;

static struct reader *
reader_of(const struct channel *channel)
{
	struct reader *reader = readers;
	while (reader && reader->channel != channel)
		reader = reader->next;
	return reader;
}

struct channel *
channel_new(void)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	if (!channel)
		return NULL;
	channel->channel.fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
	if (channel->channel.fd < 0) {
		free(channel);
		return NULL;
	}
	channel->users = 1;
	channel->last = &channel->first;
	return channel;
}

void
channel_get(struct channel *channel)
{
	channel->users++;
}

void
channel_put(struct channel *channel)
{
	if (--channel->users)
		return;
	if (channel->channel.fd >= 0)
		uncancelled_close(channel->channel.fd);
	free(channel);
}

static void
end_channel(struct channel *channel)
{
	uncancelled_close(channel->channel.fd);
	/* Ids should have gone before. Those that have not must find something. */
	channel->channel.fd = -1;
	channel_put(channel);
}

/* Also of a thread that is cancelled. */
static void
leave(void *opaque)
{
	struct reader *self = opaque, **link = &readers;
	pthread_mutex_lock(&cm_lock);
	while (*link != self)
		link = &(*link)->next;
	*link = self->next;
	if (self->is_heir) {
		struct reader *other = reader_of(self->channel);
		if (other)
			other->is_heir = true;
		else
			end_channel(self->channel);
	}
	pthread_mutex_unlock(&cm_lock);
}

SOFTRNIC_EXPORT struct rdma_event_channel *
rdma_create_event_channel(void)
{
	if (cm_usable())
		return NULL;
	struct channel *channel = channel_new();
	return channel ? &channel->channel : NULL;
}

SOFTRNIC_EXPORT void
rdma_destroy_event_channel(struct rdma_event_channel *public)
{
	struct channel *channel = (struct channel *)public;
	if (engine_usable()) {
		uncancelled_close(channel->channel.fd);
		return; /* a forked child: the lock may be held by nobody that lives */
	}
	pthread_mutex_lock(&cm_lock);
	struct reader *reader = reader_of(channel);
	/*
	 * As with a kernel's, a thread that waits for an event, or has just been woken by one that
	 * has gone with its id, goes on waiting.
	 */
	if (reader)
		reader->is_heir = true;
	else
		end_channel(channel);
	pthread_mutex_unlock(&cm_lock);
}

/* ---- making and queueing events ---- */

struct event *
event_new(struct cm_id *owner, enum rdma_cm_event_type type, int status)
{
	struct event *event = calloc(1, sizeof(*event));
	if (!event) {
		event = owner->spare;
		owner->spare = NULL;
	}
	if (!event)
		return NULL;
	event->event.id = &owner->id;
	event->event.event = type;
	event->event.status = status;
	event->owner = owner;
	return event;
}

void
event_set_conn(struct event *event, const struct mpa_frame *frame, unsigned ird, unsigned ord)
{
	struct rdma_conn_param *conn = &event->event.param.conn;
	conn->responder_resources = (uint8_t)ird;
	conn->initiator_depth = (uint8_t)ord;
	if (!frame || !frame->private_size)
		return;
	unsigned size = frame->private_size;
	if (size > PRIVATE_DATA_MAX)
		size = PRIVATE_DATA_MAX;
	memcpy(event->private_data, frame->private_data, size);
	conn->private_data = event->private_data;
	conn->private_data_len = (uint8_t)size;
}

void
event_post(struct event *event)
{
	if (!event)
		return;
	struct channel *channel = (struct channel *)event->owner->id.channel;
	event->next = NULL;
	*channel->last = event;
	channel->last = &event->next;
	event->owner->queued++;
	if (channel->channel.fd >= 0)
		uncancelled_event_add(channel->channel.fd);
}

void
event_tell(struct cm_id *owner, enum rdma_cm_event_type type, int status)
{
	event_post(event_new(owner, type, status));
}

struct event *
events_withdraw(struct cm_id *owner)
{
	struct channel *channel = (struct channel *)owner->id.channel;
	struct event *withdrawn = NULL, **end = &withdrawn;
	if (!channel)
		return NULL;
	for (struct event **at = &channel->first; *at;) {
		struct event *event = *at;
		if (event->owner != owner) {
			at = &event->next;
			continue;
		}
		*at = event->next;
		event->next = NULL;
		*end = event;
		end = &event->next;
		owner->queued--;
		if (channel->channel.fd >= 0)
			(void)uncancelled_event_take(channel->channel.fd);
	}
	channel->last = &channel->first;
	while (*channel->last)
		channel->last = &(*channel->last)->next;
	return withdrawn;
}

/* ---- getting and acknowledging them ---- */

/* The new id of a connection request takes the channel that its listener has by now. */
static int
adopt(struct event *event)
{
	struct cm_id *listener = event->owner, *id = to_id(event->event.id);
	listener_took(listener->listener);
	struct channel *channel = (struct channel *)listener->id.channel;
	return id_set_channel(id, listener->is_sync ? NULL : channel);
}

static struct event *
take_first(struct channel *channel)
{
	struct event *event = channel->first;
	if (!event)
		return NULL;
	channel->first = event->next;
	if (!channel->first)
		channel->last = &channel->first;
	event->owner->queued--;
	if (event->event.event == RDMA_CM_EVENT_CONNECT_REQUEST && adopt(event)) {
		id_free(to_id(event->event.id)); /* which rejects it */
		free(event);
		return NULL;
	}
	event->owner->taken++;
	return event;
}

SOFTRNIC_EXPORT int
rdma_get_cm_event(struct rdma_event_channel *public, struct rdma_cm_event **out)
{
	struct channel *channel = (struct channel *)public;
	if (cm_usable())
		return -1;
	if (!out)
		return failed_with(EINVAL);
	struct reader self = {.channel = channel};
	struct event *volatile event = NULL;
	pthread_mutex_lock(&cm_lock);
	self.next = readers;
	readers = &self;
	pthread_mutex_unlock(&cm_lock);
	pthread_cleanup_push(leave, &self);
	uint64_t count;
	while (!event && read(channel->channel.fd, &count, sizeof(count)) >= 0) {
		pthread_mutex_lock(&cm_lock);
		event = take_first(channel);
		pthread_mutex_unlock(&cm_lock);
	}
	pthread_cleanup_pop(0);
	int failure = errno;
	leave(&self);
	if (!event)
		return failed_with(failure);
	*out = &event->event;
	return 0;
}

SOFTRNIC_EXPORT int
rdma_ack_cm_event(struct rdma_cm_event *public)
{
	struct event *event = (struct event *)public;
	if (!event)
		return failed_with(EINVAL);
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	event->owner->taken--;
	pthread_cond_broadcast(&event->owner->changed);
	pthread_mutex_unlock(&cm_lock);
	free(event);
	return 0;
}

SOFTRNIC_EXPORT const char *
rdma_event_str(enum rdma_cm_event_type event)
{
#define NAMED(name)                                                                                \
	case name:                                                                                 \
		return #name
	switch (event) {
		NAMED(RDMA_CM_EVENT_ADDR_RESOLVED);
		NAMED(RDMA_CM_EVENT_ADDR_ERROR);
		NAMED(RDMA_CM_EVENT_ROUTE_RESOLVED);
		NAMED(RDMA_CM_EVENT_ROUTE_ERROR);
		NAMED(RDMA_CM_EVENT_CONNECT_REQUEST);
		NAMED(RDMA_CM_EVENT_CONNECT_RESPONSE);
		NAMED(RDMA_CM_EVENT_CONNECT_ERROR);
		NAMED(RDMA_CM_EVENT_UNREACHABLE);
		NAMED(RDMA_CM_EVENT_REJECTED);
		NAMED(RDMA_CM_EVENT_ESTABLISHED);
		NAMED(RDMA_CM_EVENT_DISCONNECTED);
		NAMED(RDMA_CM_EVENT_DEVICE_REMOVAL);
		NAMED(RDMA_CM_EVENT_MULTICAST_JOIN);
		NAMED(RDMA_CM_EVENT_MULTICAST_ERROR);
		NAMED(RDMA_CM_EVENT_ADDR_CHANGE);
		NAMED(RDMA_CM_EVENT_TIMEWAIT_EXIT);
	default:
		return "UNKNOWN EVENT";
	}
#undef NAMED
}
