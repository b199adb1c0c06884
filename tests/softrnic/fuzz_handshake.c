/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_handshake.c -- arbitrary bytes for MPA's handshake, cut anywhere, of either side.
 *
 * Compiled and linked as fuzz_receiver.c is, with another list of wrapped functions: the peer is
 * fake, no thread runs, and time passes when the input says so. The program answers to events as
 * the input likes; what it is told has to fit what it did.
 */
#include "cm/cm.h"
#include "fuzz_peer.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t __wrap_send(int fd, const void *bytes, size_t size, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size);
int __real_connect(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags);
int __wrap_getpeername(int fd, struct sockaddr *address, socklen_t *size);
int64_t __wrap_engine_now(void);
int64_t __real_engine_now(void);

/* ---- the fake peer ---- */

static struct {
	uint8_t bytes[8192];
	size_t start, end, cut;
	bool is_over, is_reset, refuses, takes_nothing;
	unsigned calls; /* that wait to be accepted */
	int64_t passed; /* time */
} peer;

ssize_t
__wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	size_t left = peer.end - peer.start;
	(void)fd, (void)flags;
	if (peer.is_reset || (!left && !peer.is_over)) {
		errno = peer.is_reset ? ECONNRESET : EAGAIN;
		return -1;
	}
	if (peer.cut && left > peer.cut)
		left = peer.cut;
	size_t got = receive_into(message, peer.bytes + peer.start, left);
	peer.start += got;
	return (ssize_t)got;
}

/* What is sent has to be a frame. */
ssize_t
__wrap_send(int fd, const void *bytes, size_t size, int flags)
{
	struct mpa_frame frame;
	(void)fd, (void)flags;
	REQUIRE(mpa_decode(bytes, size, true, &frame) == (int)size ||
		mpa_decode(bytes, size, false, &frame) == (int)size);
	if (peer.takes_nothing) {
		errno = EPIPE;
		return -1;
	}
	return (ssize_t)size;
}

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	size_t size = 0;
	(void)fd, (void)flags;
	for (size_t i = 0; i < message->msg_iovlen; i++)
		size += message->msg_iov[i].iov_len;
	return (ssize_t)size;
}

int
__wrap_connect(int fd, const struct sockaddr *address, socklen_t size)
{
	int type;
	socklen_t type_size = sizeof(type);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) || type != SOCK_STREAM)
		return __real_connect(fd, address, size);
	if (!peer.refuses)
		return 0;
	peer.refuses = false;
	errno = ECONNREFUSED;
	return -1;
}

int
__wrap_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
	(void)fd, (void)address, (void)size, (void)flags;
	if (!peer.calls) {
		errno = EAGAIN;
		return -1;
	}
	peer.calls--;
	return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

int
__wrap_getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
	struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_port = htons(7471)};
	(void)fd;
	loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	memcpy(address, &loopback, sizeof(loopback));
	*size = sizeof(loopback);
	return 0;
}

int64_t
__wrap_engine_now(void)
{
	return __real_engine_now() + peer.passed;
}

/* ---- the input ---- */

static void
push(const void *bytes, size_t size)
{
	if (size > sizeof(peer.bytes) - peer.end)
		return;
	memcpy(peer.bytes + peer.end, bytes, size);
	peer.end += size;
}

static void
push_raw(void)
{
	size_t size = take(1);
	if (size > input.size)
		size = input.size;
	push(input.bytes, size);
	input.bytes += size;
	input.size -= size;
}

/* A good frame, and then perhaps one byte of it not. */
static void
push_frame(void)
{
	static const uint8_t data[MPA_PRIVATE_DATA_MAX];
	uint8_t bytes[MPA_FRAME_MAX];
	uint32_t flags = take(2);
	struct mpa_frame frame = {.is_reply = flags & 1,
				  .revision = flags & 2 ? 1 : 2,
				  .markers = (flags & 0x1c) == 0x1c,
				  .crc = flags & 0x20,
				  .rejected = flags & 1 && flags & 0x40,
				  .private_size = (uint16_t)(flags & 0x80 ? take(2) % 509 : 0),
				  .private_data = data};
	if (frame.revision == 2 && flags & 0x100) {
		frame.enhanced = true;
		frame.peer_to_peer = flags & 0x200;
		frame.rtr_send = flags & 0x400;
		frame.rtr_write = flags & 0x800;
		frame.rtr_read = flags & 0x1000;
		frame.ird = take(2) & MPA_RD_MAX;
		frame.ord = take(2) & MPA_RD_MAX;
	}
	size_t size = mpa_encode(bytes, &frame);
	if (size && flags & 0x2000)
		bytes[take(2) % size] ^= (uint8_t)take(1);
	push(bytes, size);
}

/* ---- the program ---- */

static struct rdma_event_channel *channel;
static struct rdma_cm_id *ids[16];
static enum { FREE, LISTENS, CONNECTS, ASKED, ACCEPTED, OVER } states[16];

static unsigned
index_of(const struct rdma_cm_id *id)
{
	unsigned i = 0;
	while (i < 16 && ids[i] != id)
		i++;
	return i;
}

static void
add_qp(struct rdma_cm_id *id)
{
	struct ibv_qp_init_attr attr = {
		.cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1},
		.qp_type = IBV_QPT_RC,
	};
	REQUIRE(rdma_create_qp(id, NULL, &attr) == 0);
}

static void
destroy(unsigned i)
{
	if (!ids[i])
		return;
	if (ids[i]->qp) {
		/* Not to wait for its peer. */
		struct ibv_qp *qp = qp_find(ids[i]->qp->qp_num);
		struct ibv_qp_attr reset = {.qp_state = IBV_QPS_RESET};
		REQUIRE(qp && ibv_modify_qp(qp, &reset, IBV_QP_STATE) == 0);
		qp_put(qp);
		rdma_destroy_qp(ids[i]);
	}
	REQUIRE(rdma_destroy_id(ids[i]) == 0);
	ids[i] = NULL;
	states[i] = FREE;
}

static void
handle_event(void)
{
	struct rdma_cm_event *event;
	if (rdma_get_cm_event(channel, &event)) {
		REQUIRE(errno == EAGAIN);
		return;
	}
	struct rdma_cm_id *id = event->id;
	unsigned i = index_of(id);
	const struct rdma_conn_param *conn = &event->param.conn;
	static volatile uint8_t looked_at;
	for (unsigned j = 0; j < conn->private_data_len; j++)
		looked_at = ((const uint8_t *)conn->private_data)[j];
	(void)looked_at;
	switch (event->event) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		REQUIRE(i == 16 && event->status == 0 &&
			states[index_of(event->listen_id)] == LISTENS);
		i = index_of(NULL);
		if (i == 16) {
			rdma_ack_cm_event(event);
			REQUIRE(rdma_destroy_id(id) == 0);
			return;
		}
		ids[i] = id;
		states[i] = ASKED;
		break;
	case RDMA_CM_EVENT_ADDR_RESOLVED:
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		REQUIRE(i < 16 && (states[i] == CONNECTS || states[i] == ACCEPTED));
		REQUIRE(event->status == 0);
		break;
	case RDMA_CM_EVENT_REJECTED:
	case RDMA_CM_EVENT_UNREACHABLE:
		REQUIRE(i < 16 && states[i] == CONNECTS && event->status < 0);
		states[i] = OVER;
		break;
	case RDMA_CM_EVENT_CONNECT_ERROR:
		REQUIRE(i < 16 && (states[i] == CONNECTS || states[i] == ACCEPTED));
		REQUIRE(event->status < 0);
		states[i] = OVER;
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		REQUIRE(i < 16 && (states[i] == CONNECTS || states[i] == ACCEPTED));
		states[i] = OVER;
		break;
	default:
		REQUIRE(false);
	}
	rdma_ack_cm_event(event);
}

static void
begin_listening(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	unsigned i = index_of(NULL);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (i == 16)
		return;
	REQUIRE(rdma_create_id(channel, &ids[i], NULL, RDMA_PS_TCP) == 0);
	REQUIRE(rdma_bind_addr(ids[i], (struct sockaddr *)&address) == 0);
	REQUIRE(rdma_listen(ids[i], (int)(take(1) & 3)) == 0);
	states[i] = LISTENS;
}

static void
begin_connecting(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7471)};
	static const uint8_t data[255];
	struct rdma_conn_param param = {.private_data = data,
					.private_data_len = (uint8_t)take(1),
					.responder_resources = (uint8_t)(take(1) & 127),
					.initiator_depth = (uint8_t)(take(1) & 127)};
	unsigned i = index_of(NULL);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (i == 16)
		return;
	REQUIRE(rdma_create_id(channel, &ids[i], NULL, RDMA_PS_TCP) == 0);
	REQUIRE(rdma_resolve_addr(ids[i], NULL, (struct sockaddr *)&address, 1) == 0);
	REQUIRE(rdma_resolve_route(ids[i], 1) == 0);
	add_qp(ids[i]);
	REQUIRE(rdma_connect(ids[i], &param) == 0);
	states[i] = CONNECTS;
}

static void
answer(unsigned i)
{
	uint32_t choice = take(1);
	if (!ids[i] || states[i] != ASKED)
		return;
	if (choice & 1) {
		static const uint8_t data[255];
		REQUIRE(rdma_reject(ids[i], data, (uint8_t)choice) == 0);
		states[i] = OVER;
		return;
	}
	add_qp(ids[i]);
	struct rdma_conn_param param = {.responder_resources = (uint8_t)(choice >> 1),
					.initiator_depth = (uint8_t)(choice >> 2)};
	states[i] = ACCEPTED;
	REQUIRE(rdma_accept(ids[i], choice & 2 ? &param : NULL) == 0);
}

/* ---- what the engine does elsewhere ---- */

static void
ready(struct source *source, uint32_t events)
{
	source_get(source);
	source->ready(source, events);
	source_put(source);
}

static void
expire(struct source *source)
{
	source_get(source);
	if (source->expired)
		source->expired(source);
	source_put(source);
}

/* The link of an id, or the first, second... half-open one of its listener. */
static struct source *
source_of(unsigned i, unsigned which)
{
	struct cm_id *id = to_id(ids[i]);
	if (id->link)
		return &id->link->source;
	struct link *link = id->listener ? id->listener->first : NULL;
	while (link && which--)
		link = link->next;
	if (link)
		return &link->source;
	return id->listener ? &id->listener->source : NULL;
}

static void
step(void)
{
	uint32_t what = take(1);
	unsigned i = what >> 4;
	struct source *source = NULL;
	switch (what & 15) {
	case 0:
	case 1:
		push_raw();
		break;
	case 2:
	case 3:
		push_frame();
		break;
	case 4:
		begin_listening();
		break;
	case 5:
		begin_connecting();
		break;
	case 6:
		handle_event();
		break;
	case 7:
		answer(i);
		break;
	case 8:
		peer.calls = i % 4 + 1;
		if (ids[i % 4] && to_id(ids[i % 4])->listener)
			ready(&to_id(ids[i % 4])->listener->source, EPOLLIN);
		break;
	case 9:
	case 10:
		source = ids[i] ? source_of(i, take(1) & 3) : NULL;
		if (source)
			ready(source, EPOLLIN | EPOLLOUT |
					      (peer.is_over || peer.is_reset ? EPOLLRDHUP : 0));
		break;
	case 11:
		peer.passed += (int64_t)i * 5000000000;
		source = ids[i] ? source_of(i, take(1) & 3) : NULL;
		if (source)
			expire(source);
		break;
	case 12:
		peer.cut = take(1);
		break;
	case 13:
		peer.is_over = i & 1;
		peer.is_reset = i & 2;
		peer.refuses = i & 4;
		peer.takes_nothing = i & 8;
		break;
	case 14:
		if (ids[i] && states[i] != FREE) {
			int ret = rdma_disconnect(ids[i]);
			REQUIRE(ret == 0 || errno == EINVAL);
		}
		break;
	default:
		destroy(i);
		break;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	memset(&peer, 0, sizeof(peer));
	channel = rdma_create_event_channel();
	REQUIRE(channel && fcntl(channel->fd, F_SETFL, O_NONBLOCK) == 0);
	input.bytes = data;
	input.size = size;
	while (input.size)
		step();
	for (unsigned i = 0; i < 40; i++)
		handle_event();
	/* Rejected ones that linger are closed by their peers. */
	peer.is_reset = true;
	for (unsigned i = 0; i < 16; i++) {
		while (ids[i] && to_id(ids[i])->listener && to_id(ids[i])->listener->first)
			ready(&to_id(ids[i])->listener->first->source, EPOLLIN | EPOLLRDHUP);
		destroy(i);
	}
	rdma_destroy_event_channel(channel);
	for (int i = 0; i < 4; i++)
		(void)engine_poll();
	int fd = dup(0);
	REQUIRE(fd >= 0 && fd < 200);
	close(fd);
	return 0;
}
