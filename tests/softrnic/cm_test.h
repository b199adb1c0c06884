/* SPDX-License-Identifier: BSD-3-Clause */
/* cm_test.h -- what the tests of the connection manager share: addresses, ids, events in time. */
#ifndef SOFTRNIC_CM_TEST_H
#define SOFTRNIC_CM_TEST_H

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

/* What takes longer than this does not come any more. */
#define PATIENCE_MS 10000

#define RUN(test)                                                                                  \
	do {                                                                                       \
		int fds = count_fds();                                                             \
		if (getenv("CM_TEST_VERBOSE"))                                                     \
			fprintf(stderr, "%s\n", #test);                                            \
		test();                                                                            \
		check_fds(#test, fds);                                                             \
	} while (0)

static inline int
count_entries(const char *path)
{
	DIR *folder = opendir(path);
	int count = 0;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static inline int
count_fds(void)
{
	return count_entries("/proc/self/fd");
}

static inline void
sleep_ms(int ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

/* Streams and rejected connections linger for up to a second. */
static inline void
check_fds(const char *test, int before)
{
	int now = count_fds();
	for (int waited = 0; now > before && waited < 3000; waited += 20) {
		sleep_ms(20);
		now = count_fds();
	}
	if (now > before) {
		failures++;
		printf("%s: %d file descriptors more than before\n", test, now - before);
	}
}

static inline void
give_up(int line, const char *what)
{
	printf("line %d: %s: %s\n", line, what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

/* What has to work for the test to make sense. */
#define MUST(call)                                                                                 \
	do {                                                                                       \
		if (!(call))                                                                       \
			give_up(__LINE__, #call);                                                  \
	} while (0)

#define CHECK_FAILS(call, error)                                                                   \
	do {                                                                                       \
		errno = 0;                                                                         \
		CHECK(call, -1);                                                                   \
		CHECK(errno, error);                                                               \
	} while (0)

/* ---- addresses ---- */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage storage;
};

static inline socklen_t
size_of(const union address *address)
{
	return address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
}

/* Of the loopback interface, or any; in host byte order. */
static inline union address
address_of(const char *text, int port)
{
	union address address;
	memset(&address, 0, sizeof(address));
	if (inet_pton(AF_INET, text, &address.v4.sin_addr) == 1) {
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = htons((uint16_t)port);
	} else {
		MUST(inet_pton(AF_INET6, text, &address.v6.sin6_addr) == 1);
		address.v6.sin6_family = AF_INET6;
		address.v6.sin6_port = htons((uint16_t)port);
	}
	return address;
}

/* ---- events ---- */

static inline bool
is_readable(int fd, int ms)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	return poll(&pollfd, 1, ms) == 1;
}

#define GET(channel, type) get(__LINE__, channel, type)

/* The next event, which has to be this one; to be acknowledged. */
static inline struct rdma_cm_event *
get(int line, struct rdma_event_channel *channel, enum rdma_cm_event_type type)
{
	struct rdma_cm_event *event = NULL;
	errno = ETIMEDOUT;
	if (!is_readable(channel->fd, PATIENCE_MS) || rdma_get_cm_event(channel, &event))
		give_up(line, rdma_event_str(type));
	if (event->event != type) {
		printf("line %d: %s with status %d instead of %s\n", line,
		       rdma_event_str(event->event), event->status, rdma_event_str(type));
		fflush(stdout);
		_exit(1);
	}
	return event;
}

#define EXPECT(id, type, status) expect(__LINE__, id, type, status)

/* The next event on an id's channel: for this id, with this status. */
static inline void
expect(int line, struct rdma_cm_id *id, enum rdma_cm_event_type type, int status)
{
	struct rdma_cm_event *event = get(line, id->channel, type);
	check(line, "the event's id", event->id == id, 1);
	check(line, "status", event->status, status);
	check(line, "ack", rdma_ack_cm_event(event), 0);
}

/* ---- ids ---- */

static inline struct rdma_event_channel *
new_channel(void)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();
	MUST(channel);
	return channel;
}

static inline struct rdma_cm_id *
new_id(struct rdma_event_channel *channel)
{
	struct rdma_cm_id *id;
	MUST(!rdma_create_id(channel, &id, NULL, RDMA_PS_TCP));
	return id;
}

/* On a port of its own. */
static inline struct rdma_cm_id *
new_listener(struct rdma_event_channel *channel, const char *address, int backlog)
{
	struct rdma_cm_id *id = new_id(channel);
	union address own = address_of(address, 0);
	MUST(!rdma_bind_addr(id, &own.any));
	MUST(!rdma_listen(id, backlog));
	return id;
}

static inline void
add_qp(struct rdma_cm_id *id)
{
	struct ibv_qp_init_attr attr = {
		.cap = {.max_send_wr = 4,
			.max_recv_wr = 4,
			.max_send_sge = 1,
			.max_recv_sge = 1,
			.max_inline_data = 16},
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
	};
	MUST(!rdma_create_qp(id, NULL, &attr));
}

static inline enum ibv_qp_state
state_of(const struct rdma_cm_id *id)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;
	MUST(!ibv_query_qp(id->qp, &attr, IBV_QP_STATE, &init));
	return attr.qp_state;
}

/* With its route resolved, and a queue pair. */
static inline struct rdma_cm_id *
new_active(struct rdma_event_channel *channel, const char *address, int port)
{
	struct rdma_cm_id *id = new_id(channel);
	union address target = address_of(address, port);
	MUST(!rdma_resolve_addr(id, NULL, &target.any, 1000));
	EXPECT(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	MUST(!rdma_resolve_route(id, 1000));
	EXPECT(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
	add_qp(id);
	return id;
}

static inline struct rdma_conn_param
param_of(const void *private_data, size_t size)
{
	return (struct rdma_conn_param){
		.private_data = private_data,
		.private_data_len = (uint8_t)size,
		.responder_resources = 4,
		.initiator_depth = 2,
	};
}

static inline void
start_connecting(struct rdma_cm_id *id)
{
	struct rdma_conn_param param = param_of(NULL, 0);
	MUST(!rdma_connect(id, &param));
}

/* The next connection request, with a queue pair. */
static inline struct rdma_cm_id *
next_request(struct rdma_cm_id *listener)
{
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *id = event->id;
	CHECK(event->listen_id == listener, 1);
	CHECK(event->status, 0);
	CHECK(rdma_ack_cm_event(event), 0);
	add_qp(id);
	return id;
}

static inline void
destroy(struct rdma_cm_id *id)
{
	if (id->qp)
		rdma_destroy_qp(id);
	CHECK(rdma_destroy_id(id), 0);
}

static inline void
destroy_with_channel(struct rdma_cm_id *id)
{
	struct rdma_event_channel *channel = id->channel;
	destroy(id);
	rdma_destroy_event_channel(channel);
}

static inline void
check_conn(const struct rdma_cm_event *event, const char *data, size_t size, int responder,
	   int initiator)
{
	const struct rdma_conn_param *conn = &event->param.conn;
	CHECK(conn->private_data_len, size);
	CHECK(size && memcmp(conn->private_data, data, size), 0);
	CHECK(conn->responder_resources, responder);
	CHECK(conn->initiator_depth, initiator);
}

/* One message from the one to the other. */
static inline void
check_traffic(struct rdma_cm_id *from, struct rdma_cm_id *to)
{
	char sent[] = "a message", got[sizeof(sent)] = "";
	struct ibv_mr *from_mr = rdma_reg_msgs(from, sent, sizeof(sent));
	struct ibv_mr *to_mr = rdma_reg_msgs(to, got, sizeof(got));
	struct ibv_wc wc;

	MUST(from_mr && to_mr);
	CHECK(rdma_post_recv(to, NULL, got, sizeof(got), to_mr), 0);
	CHECK(rdma_post_send(from, NULL, sent, sizeof(sent), from_mr, 0), 0);
	CHECK(rdma_get_recv_comp(to, &wc), 1);
	CHECK(wc.status, IBV_WC_SUCCESS);
	CHECK(rdma_get_send_comp(from, &wc), 1);
	CHECK(wc.status, IBV_WC_SUCCESS);
	CHECK(strcmp(got, sent), 0);
	rdma_dereg_mr(from_mr);
	rdma_dereg_mr(to_mr);
}

/* A listener, and whether it serves still. */
static inline void
check_it_serves(struct rdma_cm_id *listener)
{
	struct rdma_cm_id *active =
		new_active(new_channel(), "127.0.0.1", ntohs(rdma_get_src_port(listener)));
	start_connecting(active);
	struct rdma_cm_id *passive = next_request(listener);
	CHECK(rdma_accept(passive, NULL), 0);
	EXPECT(active, RDMA_CM_EVENT_ESTABLISHED, 0);
	EXPECT(passive, RDMA_CM_EVENT_ESTABLISHED, 0);
	destroy_with_channel(active);
	EXPECT(passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy(passive);
}

/* Two connected ids, each on a channel of its own, and what they met through. */
struct pair {
	struct rdma_cm_id *active, *passive, *listener;
};

static inline struct pair
new_pair(const char *address)
{
	struct pair pair;
	pair.listener = new_listener(new_channel(), address, 0);
	pair.active = new_active(new_channel(), address, ntohs(rdma_get_src_port(pair.listener)));
	start_connecting(pair.active);
	pair.passive = next_request(pair.listener);
	MUST(!rdma_migrate_id(pair.passive, new_channel()));
	MUST(!rdma_accept(pair.passive, NULL));
	EXPECT(pair.active, RDMA_CM_EVENT_ESTABLISHED, 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_ESTABLISHED, 0);
	return pair;
}

static inline void
destroy_pair(struct pair *pair)
{
	destroy_with_channel(pair->active);
	destroy_with_channel(pair->passive);
	destroy_with_channel(pair->listener);
}

#endif
