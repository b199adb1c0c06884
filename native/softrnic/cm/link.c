/* SPDX-License-Identifier: BSD-3-Clause */
/* link.c -- a TCP connection during MPA's handshake, of either side. */
#include "cm.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what the environment says ---- */

static pthread_once_t environment_once = PTHREAD_ONCE_INIT;
static int64_t handshake_limit = HANDSHAKE_MS, silence_limit = SILENCE_MS;
static enum { CRC_AS_NEEDED, CRC_NEVER, CRC_ALWAYS } crc_wish;

static void
read_environment(void)
{
	const char *limit = secure_getenv("SOFTRNIC_HANDSHAKE_MS");
	const char *silence = secure_getenv("SOFTRNIC_SILENCE_MS");
	const char *crc = secure_getenv("SOFTRNIC_CRC");
	if (limit && atoi(limit) > 0)
		handshake_limit = atoi(limit);
	if (silence && atoi(silence) > 0)
		silence_limit = atoi(silence);
	if (crc && *crc)
		crc_wish = strcmp(crc, "0") ? CRC_ALWAYS : CRC_NEVER;
}

int64_t
handshake_ms(void)
{
	pthread_once(&environment_once, read_environment);
	return handshake_limit;
}

int64_t
silence_ms(void)
{
	pthread_once(&environment_once, read_environment);
	return silence_limit;
}

bool
link_wants_crc(const struct rdma_addr *address)
{
	pthread_once(&environment_once, read_environment);
	if (crc_wish != CRC_AS_NEEDED)
		return crc_wish == CRC_ALWAYS;
	return !address_is_same(&address->src_addr, &address->dst_addr) &&
	       !address_is_local(&address->dst_addr);
}

/* ---- the socket ---- */

/* Read on, so that the peer gets no reset before it has read its rejection. */
static void
linger(struct link *link)
{
	uint8_t unwanted[MPA_FRAME_MAX];
	ssize_t got = uncancelled_recv(link->source.fd, unwanted, sizeof(unwanted));
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
		link_close(link);
}

static void
ready(struct source *source, uint32_t events)
{
	struct link *link = (struct link *)source;
	pthread_mutex_lock(&cm_lock);
	switch (link->phase) {
	case LINK_CONNECTING:
	case LINK_AWAITS_REPLY:
	case LINK_RESPONDED:
		connect_ready(link, events);
		break;
	case LINK_AWAITS_REQUEST:
	case LINK_PARKED:
	case LINK_REQUESTED:
		request_ready(link, events);
		break;
	case LINK_LINGERS:
		linger(link);
		break;
	case LINK_REFUSED:
	case LINK_DONE:
		break;
	}
	pthread_mutex_unlock(&cm_lock);
}

static void
expired(struct source *source)
{
	struct link *link = (struct link *)source;
	pthread_mutex_lock(&cm_lock);
	/* It may have been put off at the last moment. */
	if (link->deadline && link->deadline <= engine_now()) {
		if (link->phase == LINK_CONNECTING || link->phase == LINK_REFUSED ||
		    link->phase == LINK_AWAITS_REPLY)
			connect_expired(link);
		else if (link->phase == LINK_AWAITS_REQUEST || link->phase == LINK_PARKED)
			request_expired(link);
		else if (link->phase == LINK_LINGERS)
			link_close(link);
	}
	pthread_mutex_unlock(&cm_lock);
}

static void
release(struct source *source)
{
	if (source->fd >= 0) { /* never served */
		engine_forget_fd(source->fd);
		uncancelled_close(source->fd);
	}
	free((struct link *)source);
}

struct link *
link_new(int fd)
{
	struct link *link = calloc(1, sizeof(*link));
	if (!link) {
		engine_forget_fd(fd);
		uncancelled_close(fd);
		return NULL;
	}
	source_init(&link->source, fd, ready, expired, release);
	return link;
}

int
link_serve(struct link *link, uint32_t events, int64_t timeout_ms)
{
	int ret = link->source.slot ? engine_change(&link->source, events, ~events)
				    : engine_add(&link->source, events);
	link->deadline = timeout_ms ? engine_now() + timeout_ms * 1000000 : 0;
	if (!ret)
		engine_set_deadline(&link->source, link->deadline);
	return ret;
}

int
link_take_fd(struct link *link)
{
	int fd = link->source.fd;
	engine_remove(&link->source);
	engine_forget_fd(fd);
	link->source.fd = -1;
	link->phase = LINK_DONE;
	return fd;
}

void
link_close(struct link *link)
{
	listener_leave(link);
	connect_leave_line(link);
	link->id = NULL;
	if (link->source.fd >= 0)
		uncancelled_close(link_take_fd(link));
}

/* ---- frames ---- */

int
link_receive(struct link *link, bool expect_reply)
{
	size_t room = sizeof(link->in) - link->filled;
	ssize_t got = uncancelled_recv(link->source.fd, link->in + link->filled, room);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (got == 0)
		return -ECONNRESET;
	link->filled += (size_t)got;
	int size = mpa_decode(link->in, link->filled, expect_reply, &link->peer);
	if (size < 0)
		return -EPROTO;
	link->frame_size = (size_t)size;
	return size > 0;
}

int
link_send(struct link *link, const struct mpa_frame *frame)
{
	uint8_t bytes[MPA_FRAME_MAX];
	size_t size = mpa_encode(bytes, frame);
	if (!size)
		return EMSGSIZE;
	ssize_t sent = uncancelled_send(link->source.fd, bytes, size);
	if (sent < 0)
		return errno;
	return (size_t)sent == size ? 0 : ENOBUFS;
}

/* ---- saying no ---- */

void
link_reject(struct link *link, const void *private_data, size_t size)
{
	struct mpa_frame reply = {
		.is_reply = true,
		.revision = link->peer.revision,
		.crc = link->peer.crc,
		.rejected = true,
		.enhanced = link->peer.enhanced,
		.ird = link->peer.ord,
		.ord = link->peer.ird,
		.private_size = (uint16_t)size,
		.private_data = private_data,
	};
	bool lingers = !link->is_gone && link_send(link, &reply) == 0 &&
		       shutdown(link->source.fd, SHUT_WR) == 0;
	link->id = NULL;
	if (lingers) {
		link->phase = LINK_LINGERS;
		lingers = link_serve(link, EPOLLIN | EPOLLRDHUP, LINGER_MS) == 0;
	}
	if (!lingers)
		link_close(link);
	source_put(&link->source);
}

/* ---- giving it away, or not ---- */

void
link_give_up_qp(const struct link *link, struct cm_id *id)
{
	if (!link->is_qp_of_id)
		return;
	uint32_t qp_num = link->qp_num;
	id_leave_lock(id);
	struct ibv_qp *qp = qp_find(qp_num);
	if (qp) {
		qp_disconnect(qp);
		qp_put(qp);
	}
	id_take_lock(id);
}

int
link_join(struct link *link, uint32_t qp_num, bool awaits_first)
{
	struct cm_id *id = link->id;
	struct stream_setup setup = {
		.fd = link_take_fd(link),
		.crc = link->crc,
		.ird = id->ird,
		.ord = id->ord,
		.rtr = link->rtr,
		.acknowledges = link->acknowledges,
		.awaits_first = awaits_first,
		.received = link->in + link->frame_size,
		.received_size = link->filled - link->frame_size,
		.events = {id, stream_established, stream_ended},
	};
	id->is_joining = true;
	id_leave_lock(id);
	struct ibv_qp *qp = qp_find(qp_num);
	int ret = qp ? qp_connect(qp, &setup) : EINVAL;
	if (ret) {
		uncancelled_close(setup.fd);
		if (qp)
			qp_put(qp);
	}
	id_take_lock(id);
	id->is_joining = false;
	if (!ret)
		id->qp = qp;
	return ret;
}
