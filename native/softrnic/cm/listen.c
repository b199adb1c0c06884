/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * listen.c -- the passive side of MPA's handshake, up to the connection request.
 *
 * The backlog limits the requests in line, as the kernel's does: those that the program has got do
 * not count, since it may well want several before it answers. Requests beyond it are parked, and
 * still half open: their peers wait, but not longer than a handshake may take.
 */
#include "cm.h"

#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#define ACCEPTED_AT_ONCE 16

/* ---- half-open connections ---- */

static void
rest(struct listener *listener, int64_t ms)
{
	listener->rests = true;
	(void)engine_change(&listener->source, 0, EPOLLIN);
	engine_set_deadline(&listener->source, ms ? engine_now() + ms * 1000000 : 0);
}

static void
go_on(struct listener *listener)
{
	if (listener->rests && listener->id && listener->half_open < HALF_OPEN_MAX) {
		listener->rests = false;
		engine_set_deadline(&listener->source, 0);
		(void)engine_change(&listener->source, EPOLLIN, 0);
	}
}

static void
enter(struct listener *listener, struct link *link)
{
	link->listener = listener;
	link->next = NULL;
	link->previous = listener->last;
	if (listener->last)
		listener->last->next = link;
	else
		listener->first = link;
	listener->last = link;
	listener->half_open++;
}

void
listener_leave(struct link *link)
{
	struct listener *listener = link->listener;
	if (!listener)
		return;
	if (link->previous)
		link->previous->next = link->next;
	else
		listener->first = link->next;
	if (link->next)
		link->next->previous = link->previous;
	else
		listener->last = link->previous;
	link->listener = NULL;
	listener->half_open--;
	go_on(listener);
}

/* Drop what is half open; a complete request gets an answer. */
static void
drop(struct link *link)
{
	if (link->phase == LINK_PARKED) {
		link_reject(link, NULL, 0);
	} else {
		link_close(link);
		source_put(&link->source);
	}
}

/* ---- requests ---- */

static int
set_addresses(struct cm_id *id, int fd)
{
	struct rdma_addr *route = &id->id.route.addr;
	socklen_t own = sizeof(route->src_storage), peer = sizeof(route->dst_storage);
	if (getsockname(fd, &route->src_addr, &own) < 0 ||
	    getpeername(fd, &route->dst_addr, &peer) < 0)
		return errno;
	address_unmap(&route->src_storage);
	address_unmap(&route->dst_storage);
	route_set_gids(&id->id.route);
	return id_set_device(id);
}

static uint8_t
reported(const struct mpa_frame *frame, unsigned value)
{
	if (!frame->enhanced || value > DEVICE_RD_ATOMIC_MAX)
		value = DEVICE_RD_ATOMIC_MAX;
	return (uint8_t)value;
}

/* A new id for the program to accept or reject. False: there is no memory for it. */
static bool
tell(struct link *link)
{
	struct listener *listener = link->listener;
	struct cm_id *owner = listener->id;
	struct cm_id *id = id_new(owner->id.context, owner->id.ps, owner->id.qp_type);
	struct event *event = id ? event_new(owner, RDMA_CM_EVENT_CONNECT_REQUEST, 0) : NULL;
	if (!event || set_addresses(id, link->source.fd) || link_serve(link, EPOLLRDHUP, 0)) {
		free(event);
		if (id)
			id_free(id);
		return false;
	}
	/* What the peer can answer, this side may ask for; and the other way round. */
	id->initiator_depth = reported(&link->peer, link->peer.ird);
	id->responder_resources = reported(&link->peer, link->peer.ord);
	event_set_conn(event, &link->peer, id->responder_resources, id->initiator_depth);
	event->event.id = &id->id;
	event->event.listen_id = &owner->id;
	id->state = ID_REQUESTED;
	id->link = link;
	link->id = id;
	link->phase = LINK_REQUESTED;
	listener->queued++;
	listener_leave(link);
	event_post(event);
	return true;
}

static void
requested(struct link *link)
{
	struct listener *listener = link->listener;
	if (link->peer.markers) {
		link_reject(link, NULL, 0); /* this device has none to offer */
	} else if (listener->queued >= listener->backlog) {
		link->phase = LINK_PARKED;
		(void)engine_change(&link->source, EPOLLRDHUP, EPOLLIN);
	} else if (!tell(link)) {
		link_reject(link, NULL, 0);
	}
}

void
listener_took(struct listener *listener)
{
	listener->queued--;
	for (struct link *link = listener->first; link; link = link->next) {
		if (link->phase == LINK_PARKED) {
			requested(link);
			break;
		}
	}
}

void
request_ready(struct link *link, uint32_t events)
{
	if (link->phase == LINK_AWAITS_REQUEST) {
		int ret = link_receive(link, false);
		/* Nothing may follow the request before it is answered. */
		if (ret < 0 || (ret > 0 && link->filled > link->frame_size))
			drop(link);
		else if (ret > 0)
			requested(link);
	} else if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
		link->is_gone = true;
		if (link->phase == LINK_PARKED)
			drop(link);
		else
			engine_remove(&link->source); /* rdma_accept() finds out */
	}
}

void
request_expired(struct link *link)
{
	drop(link);
}

/* ---- the listening socket ---- */

static void
admit(struct listener *listener, int fd)
{
	socket_prepare(fd);
	engine_close_in_child(fd);
	struct link *link = link_new(fd);
	if (!link)
		return;
	link->phase = LINK_AWAITS_REQUEST;
	enter(listener, link);
	if (link_serve(link, EPOLLIN, handshake_ms()))
		drop(link);
}

static void
accept_some(struct listener *listener)
{
	for (int i = 0; i < ACCEPTED_AT_ONCE; i++) {
		if (listener->half_open >= HALF_OPEN_MAX) {
			rest(listener, 0); /* until one of them leaves */
			return;
		}
		int fd = uncancelled_accept(listener->source.fd, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			admit(listener, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			rest(listener, REST_MS);
		if (errno != EINTR && errno != ECONNABORTED)
			return; /* nobody is there, or one that had trouble on its way */
	}
}

static void
ready(struct source *source, uint32_t events)
{
	struct listener *listener = (struct listener *)source;
	(void)events;
	pthread_mutex_lock(&cm_lock);
	if (listener->id && !listener->rests)
		accept_some(listener);
	pthread_mutex_unlock(&cm_lock);
}

static void
expired(struct source *source)
{
	pthread_mutex_lock(&cm_lock);
	go_on((struct listener *)source);
	pthread_mutex_unlock(&cm_lock);
}

static void
release(struct source *source)
{
	free((struct listener *)source);
}

/* ---- its life ---- */

/* 0 or an errno. */
static int
listen_id(struct cm_id *id, int backlog)
{
	struct rdma_addr *route = &id->id.route.addr;
	if (id->state == ID_IDLE) {
		/* As if bound to any address, and any port. */
		route->src_sin = (struct sockaddr_in){.sin_family = AF_INET};
		id->fd = socket_bound(id, &route->src_addr);
		socklen_t size = sizeof(route->src_storage);
		if (id->fd < 0 || getsockname(id->fd, &route->src_addr, &size) < 0)
			return errno;
		id->state = ID_BOUND;
	}
	if (id->state != ID_BOUND)
		return EINVAL;
	int on = 1;
	/* From now on what is in TIME_WAIT must not keep the next one from this port. */
	if (setsockopt(id->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    listen(id->fd, SOMAXCONN) < 0)
		return errno;
	struct listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return ENOMEM;
	source_init(&listener->source, id->fd, ready, expired, release);
	listener->backlog = backlog > 0 && backlog < BACKLOG_MAX ? (unsigned)backlog : BACKLOG_MAX;
	listener->id = id;
	int ret = engine_add(&listener->source, EPOLLIN);
	if (ret) {
		source_put(&listener->source);
		return ret;
	}
	id->fd = -1;
	id->listener = listener;
	id->state = ID_LISTENING;
	return 0;
}

SOFTRNIC_EXPORT int
rdma_listen(struct rdma_cm_id *public, int backlog)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	int ret = listen_id(id, backlog);
	pthread_mutex_unlock(&cm_lock);
	return ret ? failed_with(ret) : 0;
}

void
listener_close(struct listener *listener)
{
	int fd = listener->source.fd;
	listener->id = NULL;
	engine_remove(&listener->source);
	engine_forget_fd(fd);
	uncancelled_close(fd);
	while (listener->first) {
		if (listener->first->phase == LINK_LINGERS)
			listener_leave(listener->first);
		else
			drop(listener->first);
	}
}
