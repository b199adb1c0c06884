/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cm_test.c -- the connection manager through its public functions, both sides in one process:
 * addresses, options, connections, channels.
 *
 * tests/unit/test_softrnic_cm.py runs it, and again with sanitizers.
 */
#include "cm_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>

/* ---- ids and addresses ---- */

static void
test_binding(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel), *other = new_id(channel);
	union address address = address_of("127.0.0.1", 0);

	CHECK_FAILS(rdma_create_id(channel, &id, NULL, RDMA_PS_UDP), EPROTONOSUPPORT);
	CHECK(id->verbs == NULL, 1);
	CHECK(rdma_bind_addr(id, &address.any), 0);
	CHECK(id->verbs != NULL, 1);
	CHECK(id->pd != NULL, 1);
	CHECK(id->port_num, 1);
	CHECK(rdma_get_src_port(id) != 0, 1);
	CHECK(id->route.addr.src_sin.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	CHECK(id->route.addr.addr.ibaddr.sgid.raw[10], 0xff);
	CHECK(id->route.addr.addr.ibaddr.sgid.raw[12], 127);
	CHECK_FAILS(rdma_bind_addr(id, &address.any), EINVAL);

	address.v4.sin_port = rdma_get_src_port(id);
	CHECK_FAILS(rdma_bind_addr(other, &address.any), EADDRINUSE);
	CHECK(rdma_listen(id, 1), 0);
	CHECK_FAILS(rdma_listen(id, 1), EINVAL);
	CHECK_FAILS(rdma_bind_addr(other, &address.any), EADDRINUSE);
	address = address_of("8.8.8.8", 0);
	CHECK_FAILS(rdma_bind_addr(other, &address.any), EADDRNOTAVAIL);
	address.any.sa_family = AF_UNIX;
	CHECK_FAILS(rdma_bind_addr(other, &address.any), EINVAL);
	address = address_of("::", 0);
	CHECK(rdma_bind_addr(other, &address.any), 0);
	CHECK(other->verbs == NULL, 1);
	CHECK(rdma_get_src_port(other) != 0, 1);
	destroy(id);
	destroy(other);

	/* Without an address, a listener takes any. */
	id = new_id(channel);
	CHECK(rdma_listen(id, 0), 0);
	CHECK(rdma_get_src_port(id) != 0, 1);
	destroy(id);
	rdma_destroy_event_channel(channel);
}

static void
test_resolving(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	union address target = address_of("::1", 7471), source = address_of("127.0.0.1", 0);

	CHECK_FAILS(rdma_resolve_route(id, 100), EINVAL);
	CHECK_FAILS(rdma_resolve_addr(id, &source.any, &target.any, 100), EINVAL);
	destroy(id);
	id = new_id(channel);
	CHECK(rdma_resolve_addr(id, NULL, &target.any, 100), 0);
	EXPECT(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	CHECK_FAILS(rdma_resolve_addr(id, NULL, &target.any, 100), EINVAL);
	CHECK(id->verbs != NULL, 1);
	CHECK(IN6_IS_ADDR_LOOPBACK(&id->route.addr.src_sin6.sin6_addr), 1);
	CHECK(rdma_get_src_port(id) != 0, 1);
	CHECK(rdma_get_dst_port(id), htons(7471));
	CHECK(id->route.addr.addr.ibaddr.dgid.raw[15], 1);
	CHECK(rdma_resolve_route(id, 100), 0);
	EXPECT(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
	CHECK_FAILS(rdma_resolve_route(id, 100), EINVAL);
	CHECK_FAILS(rdma_connect(id, NULL), EINVAL); /* there is no queue pair */
	destroy(id);

	/* A source that cannot get there; then one that can, on the same id. */
	id = new_id(channel);
	CHECK(rdma_bind_addr(id, &source.any), 0);
	target = address_of("255.255.255.255", 7471);
	CHECK(rdma_resolve_addr(id, NULL, &target.any, 100), 0);
	EXPECT(id, RDMA_CM_EVENT_ADDR_ERROR, -EACCES);
	target = address_of("127.0.0.1", 7471);
	CHECK(rdma_resolve_addr(id, NULL, &target.any, 100), 0);
	EXPECT(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	destroy(id);
	rdma_destroy_event_channel(channel);

	/* Synchronous: the same as an error. */
	MUST(!rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP));
	target = address_of("255.255.255.255", 7471);
	CHECK_FAILS(rdma_resolve_addr(id, NULL, &target.any, 100), EACCES);
	CHECK(id->event->event, RDMA_CM_EVENT_ADDR_ERROR);
	destroy(id);
}

static void
test_looking_up(void)
{
	struct rdma_addrinfo hints = {.ai_flags = RAI_PASSIVE, .ai_port_space = RDMA_PS_TCP};
	struct rdma_addrinfo *found;

	CHECK_FAILS(rdma_getaddrinfo(NULL, NULL, NULL, &found), EINVAL);
	MUST(!rdma_getaddrinfo("127.0.0.1", "7471", &hints, &found));
	CHECK(found->ai_flags, RAI_PASSIVE);
	CHECK(found->ai_qp_type, IBV_QPT_RC);
	CHECK(found->ai_port_space, RDMA_PS_TCP);
	CHECK(found->ai_src_len, sizeof(struct sockaddr_in));
	CHECK(found->ai_dst_addr == NULL, 1);
	rdma_freeaddrinfo(found);
	MUST(!rdma_getaddrinfo("::1", "7471", NULL, &found));
	CHECK(found->ai_family, AF_INET6);
	CHECK(found->ai_dst_len, sizeof(struct sockaddr_in6));
	CHECK(found->ai_qp_type, IBV_QPT_RC);
	rdma_freeaddrinfo(found);
	hints.ai_flags = RAI_NUMERICHOST;
	CHECK(rdma_getaddrinfo("no number", "7471", &hints, &found) != 0, 1);

	/* Addresses that are known already. */
	union address source = address_of("127.0.0.2", 0), target = address_of("127.0.0.1", 5);
	hints = (struct rdma_addrinfo){
		.ai_family = AF_INET,
		.ai_qp_type = IBV_QPT_RC,
		.ai_port_space = RDMA_PS_TCP,
		.ai_src_addr = &source.any,
		.ai_src_len = sizeof(source.v4),
		.ai_dst_addr = &target.any,
		.ai_dst_len = sizeof(target.v4),
	};
	MUST(!rdma_getaddrinfo(NULL, NULL, &hints, &found));
	CHECK(memcmp(found->ai_src_addr, &source, sizeof(source.v4)), 0);
	CHECK(memcmp(found->ai_dst_addr, &target, sizeof(target.v4)), 0);
	CHECK(found->ai_qp_type, IBV_QPT_RC);
	rdma_freeaddrinfo(found);
}

static void
test_options(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	uint8_t byte = 0x20;
	int on = 1;

	CHECK(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &byte, 1), 0);
	CHECK(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &byte, 1), 0);
	CHECK(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &on, sizeof(on)), 0);
	CHECK(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &on, sizeof(on)), 0);
	CHECK_FAILS(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &on, sizeof(on)),
		    EINVAL);
	CHECK_FAILS(rdma_set_option(id, RDMA_OPTION_ID, 99, &on, sizeof(on)), ENOSYS);
	CHECK_FAILS(rdma_set_option(id, RDMA_OPTION_IB, RDMA_OPTION_IB_PATH, &on, sizeof(on)),
		    ENOSYS);

	/* IPv6 only: the same port of IPv4 is free. */
	struct rdma_cm_id *other = new_id(channel);
	union address address = address_of("::", 0);
	CHECK(rdma_bind_addr(id, &address.any), 0);
	CHECK_FAILS(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &on, sizeof(on)),
		    EINVAL);
	CHECK_FAILS(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &on, sizeof(on)),
		    EINVAL);
	address = address_of("127.0.0.1", ntohs(rdma_get_src_port(id)));
	/* Unless somebody else on this machine has it. */
	if (rdma_bind_addr(other, &address.any))
		CHECK(errno, EADDRINUSE);
	destroy(other);
	destroy(id);
	rdma_destroy_event_channel(channel);
}

static void
test_what_there_is_not(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	union address address = address_of("224.0.0.1", 0);
	struct ibv_ece ece = {.vendor_id = 1};
	int count;

	CHECK_FAILS(rdma_join_multicast(id, &address.any, NULL), EOPNOTSUPP);
	CHECK_FAILS(rdma_leave_multicast(id, &address.any), EADDRNOTAVAIL);
	CHECK_FAILS(rdma_notify(id, IBV_EVENT_COMM_EST), EINVAL);
	CHECK(rdma_set_local_ece(id, &ece), 0);
	CHECK(rdma_get_remote_ece(id, &ece), 0);
	CHECK(ece.vendor_id, 0);
	CHECK(strcmp(rdma_event_str(RDMA_CM_EVENT_TIMEWAIT_EXIT), "RDMA_CM_EVENT_TIMEWAIT_EXIT"),
	      0);
	CHECK(strcmp(rdma_event_str((enum rdma_cm_event_type)999), "UNKNOWN EVENT"), 0);
	CHECK_FAILS(rdma_disconnect(id), EINVAL);
	CHECK_FAILS(rdma_accept(id, &(struct rdma_conn_param){0}), EINVAL);
	CHECK_FAILS(rdma_reject(id, NULL, 0), EINVAL);
	CHECK_FAILS(rdma_establish(id), EINVAL);
	CHECK_FAILS(rdma_ack_cm_event(NULL), EINVAL);
	struct ibv_context **devices = rdma_get_devices(&count);
	CHECK(count, 1);
	CHECK(devices[0] != NULL && !devices[1], 1);
	rdma_free_devices(devices);
	destroy(id);
	rdma_destroy_event_channel(channel);
}

/* ---- connections ---- */

static void
connect_with(const char *listens_at, const char *address, size_t sizes)
{
	char data[3][256];
	int context;
	struct rdma_cm_id *listener = new_listener(new_channel(), listens_at, 0);
	int port = ntohs(rdma_get_src_port(listener));
	struct rdma_cm_id *active = new_active(new_channel(), address, port);

	memset(data[0], 'q', sizeof(data[0]));
	memset(data[1], 'p', sizeof(data[1]));
	listener->context = &context;
	struct rdma_conn_param param = param_of(data[0], sizes);
	CHECK(rdma_connect(active, &param), 0);
	CHECK_FAILS(rdma_connect(active, &param), EINVAL);

	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *passive = event->id;
	check_conn(event, data[0], sizes, 2, 4);
	CHECK(event->listen_id == listener, 1);
	CHECK(passive->context == &context, 1);
	CHECK(passive->channel == listener->channel, 1);
	CHECK(passive->verbs != NULL && passive->pd && !passive->qp, 1);
	CHECK(passive->route.addr.src_addr.sa_family, address_of(address, 0).any.sa_family);
	CHECK(rdma_get_src_port(passive), htons((uint16_t)port));
	CHECK(rdma_get_dst_port(passive), rdma_get_src_port(active));
	CHECK(rdma_ack_cm_event(event), 0);
	add_qp(passive);
	CHECK_FAILS(rdma_listen(passive, 0), EINVAL);
	CHECK(state_of(passive), IBV_QPS_INIT);

	param = param_of(data[1], sizes);
	param.responder_resources = 9; /* more than the peer asks for */
	param.initiator_depth = 3;
	CHECK(rdma_accept(passive, &param), 0);
	CHECK_FAILS(rdma_accept(passive, &param), EINVAL);
	event = GET(active->channel, RDMA_CM_EVENT_ESTABLISHED);
	CHECK(state_of(active), IBV_QPS_RTS);
	CHECK(event->id == active, 1);
	CHECK(event->status, 0);
	check_conn(event, data[1], sizes, 3, 2);
	CHECK(rdma_ack_cm_event(event), 0);
	event = GET(passive->channel, RDMA_CM_EVENT_ESTABLISHED);
	CHECK(event->id == passive, 1);
	check_conn(event, NULL, 0, 2, 3);
	CHECK(rdma_ack_cm_event(event), 0);
	check_traffic(active, passive);
	check_traffic(passive, active);

	CHECK(rdma_disconnect(active), 0);
	EXPECT(active, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	CHECK(rdma_disconnect(passive), 0);
	CHECK(rdma_disconnect(active), 0);
	CHECK(is_readable(active->channel->fd, 20), 0);
	CHECK(is_readable(passive->channel->fd, 0), 0);
	destroy(passive);
	destroy_with_channel(active);
	destroy_with_channel(listener);
}

static void
test_connecting(void)
{
	connect_with("127.0.0.1", "127.0.0.1", 0);
	connect_with("::1", "::1", 1);
	connect_with("0.0.0.0", "127.0.0.1", 255);
	connect_with("::", "127.0.0.1", 56);
	connect_with("::", "::1", 196);
	connect_with("127.0.0.3", "127.0.0.3", 2);
}

/* Two addresses of one host, and a source that the program chooses. */
static void
test_connecting_from_another_address(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	struct rdma_cm_id *active = new_id(new_channel());
	union address source = address_of("127.0.0.2", 0);
	union address target = address_of("127.0.0.1", ntohs(rdma_get_src_port(listener)));
	uint8_t tos = 0x20;
	CHECK(rdma_resolve_addr(active, &source.any, &target.any, 1000), 0);
	EXPECT(active, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	CHECK(rdma_set_option(active, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &tos, 1), 0);
	CHECK(rdma_resolve_route(active, 1000), 0);
	EXPECT(active, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
	add_qp(active);
	start_connecting(active);
	struct rdma_cm_id *passive = next_request(listener);
	CHECK(passive->route.addr.dst_sin.sin_addr.s_addr, source.v4.sin_addr.s_addr);
	CHECK(rdma_get_dst_port(passive), rdma_get_src_port(active));
	CHECK(rdma_accept(passive, NULL), 0);
	EXPECT(active, RDMA_CM_EVENT_ESTABLISHED, 0);
	EXPECT(passive, RDMA_CM_EVENT_ESTABLISHED, 0);
	check_traffic(active, passive);
	destroy(passive);
	destroy_with_channel(active);
	destroy_with_channel(listener);
}

/* The other side ends while this one sends and knows nothing. */
static void
test_the_passive_side_disconnects(void)
{
	struct pair pair = new_pair("127.0.0.1");
	CHECK(rdma_disconnect(pair.passive), 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(pair.active, RDMA_CM_EVENT_DISCONNECTED, 0);
	CHECK(state_of(pair.active), IBV_QPS_ERR);
	destroy_pair(&pair);
	/* Destruction is as good. */
	pair = new_pair("::1");
	destroy_with_channel(pair.active);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy_with_channel(pair.passive);
	destroy_with_channel(pair.listener);
}

/* A port whose last connection is in TIME_WAIT, on this side. */
static void
test_a_port_can_be_used_again_at_once(void)
{
	struct pair pair = new_pair("127.0.0.1");
	union address address = address_of("127.0.0.1", ntohs(rdma_get_src_port(pair.listener)));
	CHECK(rdma_disconnect(pair.passive), 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(pair.active, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy_pair(&pair);
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	CHECK(rdma_bind_addr(id, &address.any), 0);
	CHECK(rdma_listen(id, 0), 0);
	destroy_with_channel(id);
}

static void
test_being_rejected(void)
{
	static char reason[255];
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener));
	memset(reason, 'n', sizeof(reason));
	for (size_t size = 0; size <= 255; size += 51) {
		struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
		char byte;
		struct ibv_wc wc;
		struct ibv_mr *mr = rdma_reg_msgs(active, &byte, 1);
		CHECK(rdma_post_recv(active, NULL, &byte, 1, mr), 0);
		start_connecting(active);
		struct rdma_cm_id *passive = next_request(listener);
		CHECK(rdma_reject(passive, reason, (uint8_t)size), 0);
		CHECK_FAILS(rdma_reject(passive, reason, (uint8_t)size), EINVAL);
		CHECK_FAILS(rdma_accept(passive, NULL), EINVAL);
		struct rdma_cm_event *event = GET(active->channel, RDMA_CM_EVENT_REJECTED);
		CHECK(event->status, -ECONNREFUSED);
		check_conn(event, reason, size, 0, 0);
		destroy(passive);
		CHECK(rdma_ack_cm_event(event), 0);
		/* What was posted in vain is flushed, and the id of no more use. */
		CHECK(rdma_get_recv_comp(active, &wc), 1);
		CHECK(wc.status, IBV_WC_WR_FLUSH_ERR);
		CHECK_FAILS(rdma_connect(active, NULL), EINVAL);
		rdma_dereg_mr(mr);
		destroy_with_channel(active);
	}
	destroy_with_channel(listener);
}

static void
test_nobody_listens(void)
{
	struct rdma_cm_id *bound = new_id(new_channel());
	union address address = address_of("::1", 0);
	MUST(!rdma_bind_addr(bound, &address.any));
	struct rdma_cm_id *active =
		new_active(new_channel(), "::1", ntohs(rdma_get_src_port(bound)));
	start_connecting(active);
	EXPECT(active, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED);
	destroy_with_channel(active);
	destroy_with_channel(bound);
}

/* Whatever ends the attempt: what was posted in vain is flushed. */
static void
check_vain_receive(struct rdma_cm_id *id, struct ibv_mr *mr)
{
	struct ibv_wc wc;
	CHECK(state_of(id), IBV_QPS_ERR);
	CHECK(ibv_poll_cq(id->recv_cq, 1, &wc), 1);
	CHECK(wc.status, IBV_WC_WR_FLUSH_ERR);
	rdma_dereg_mr(mr);
}

static void
test_receives_posted_for_a_connection_that_fails(void)
{
	char byte;
	struct rdma_cm_id *bound = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(bound));

	/* Given up by this side, while the other one's program thinks. */
	struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
	struct ibv_mr *mr = rdma_reg_msgs(active, &byte, 1);
	CHECK(rdma_post_recv(active, NULL, &byte, 1, mr), 0);
	start_connecting(active);
	struct rdma_cm_id *passive = next_request(bound);
	struct ibv_mr *passive_mr = rdma_reg_msgs(passive, &byte, 1);
	CHECK(rdma_post_recv(passive, NULL, &byte, 1, passive_mr), 0);
	CHECK(rdma_disconnect(active), 0);
	EXPECT(active, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNABORTED);
	check_vain_receive(active, mr);
	destroy_with_channel(active);
	/* Which then accepts in vain. */
	sleep_ms(20);
	CHECK(rdma_accept(passive, NULL), 0);
	EXPECT(passive, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET);
	check_vain_receive(passive, passive_mr);
	destroy(passive);
	destroy_with_channel(bound);

	/* Nobody listens. */
	active = new_active(new_channel(), "127.0.0.1", port);
	mr = rdma_reg_msgs(active, &byte, 1);
	CHECK(rdma_post_recv(active, NULL, &byte, 1, mr), 0);
	start_connecting(active);
	EXPECT(active, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED);
	check_vain_receive(active, mr);
	destroy_with_channel(active);
}

static void
test_a_listener_that_comes_a_moment_late(void)
{
	struct rdma_cm_id *listener = new_id(new_channel());
	union address address = address_of("127.0.0.1", 0);
	MUST(!rdma_bind_addr(listener, &address.any));
	struct rdma_cm_id *active =
		new_active(new_channel(), "127.0.0.1", ntohs(rdma_get_src_port(listener)));
	start_connecting(active);
	sleep_ms(5);
	MUST(!rdma_listen(listener, 0));
	struct rdma_cm_id *passive = next_request(listener);
	CHECK(rdma_accept(passive, NULL), 0);
	EXPECT(active, RDMA_CM_EVENT_ESTABLISHED, 0);
	EXPECT(passive, RDMA_CM_EVENT_ESTABLISHED, 0);
	CHECK(rdma_get_dst_port(passive), rdma_get_src_port(active));
	check_traffic(active, passive);
	destroy(passive);
	destroy_with_channel(active);
	destroy_with_channel(listener);
}

/* They are told before the peer is. */
static void
test_queue_pairs_that_cannot_connect(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener));
	struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
	struct ibv_qp_attr failed = {.qp_state = IBV_QPS_ERR};
	CHECK(ibv_modify_qp(active->qp, &failed, IBV_QP_STATE), 0);
	CHECK_FAILS(rdma_connect(active, NULL), EINVAL);
	rdma_destroy_qp(active);
	add_qp(active);
	start_connecting(active);
	struct rdma_cm_id *passive = next_request(listener);
	CHECK(ibv_modify_qp(passive->qp, &failed, IBV_QP_STATE), 0);
	CHECK_FAILS(rdma_accept(passive, NULL), EINVAL);
	/* One that goes while the peer is asked. */
	rdma_destroy_qp(active);
	rdma_destroy_qp(passive);
	add_qp(passive);
	CHECK(rdma_accept(passive, NULL), 0);
	EXPECT(active, RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL);
	EXPECT(passive, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET);
	destroy(passive);
	destroy_with_channel(active);
	destroy_with_channel(listener);
}

static void
test_parameters_are_checked(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener));
	struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
	struct rdma_conn_param param = {.responder_resources = 200};
	CHECK_FAILS(rdma_connect(active, &param), EINVAL);
	param = (struct rdma_conn_param){.initiator_depth = 200};
	CHECK_FAILS(rdma_connect(active, &param), EINVAL);
	/* The most that there is; none at all is one. */
	CHECK(rdma_connect(active, NULL), 0);
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *passive = event->id;
	check_conn(event, NULL, 0, 128, 128);
	CHECK(rdma_ack_cm_event(event), 0);
	CHECK_FAILS(rdma_accept(passive, &(struct rdma_conn_param){.qp_num = 0}), EINVAL);
	add_qp(passive);
	CHECK(rdma_accept(passive, &(struct rdma_conn_param){.responder_resources = 0}), 0);
	event = GET(active->channel, RDMA_CM_EVENT_ESTABLISHED);
	check_conn(event, NULL, 0, 1, 1);
	CHECK(rdma_ack_cm_event(event), 0);
	EXPECT(passive, RDMA_CM_EVENT_ESTABLISHED, 0);
	destroy(passive);
	destroy_with_channel(active);
	destroy_with_channel(listener);
}

/* Programs that make their queue pairs by themselves, as pyverbs can. */
static void
test_queue_pairs_of_the_program(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener));
	struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
	struct ibv_qp *qps[2];
	struct ibv_qp_attr attr;
	int mask;

	start_connecting(active); /* one that has an id's queue pair, to compare */
	struct rdma_cm_id *passive = next_request(listener);
	CHECK(rdma_reject(passive, NULL, 0), 0);
	EXPECT(active, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED);
	destroy(passive);
	struct ibv_cq *cq = ibv_create_cq(active->verbs, 16, NULL, NULL, 0);
	MUST(cq);
	for (int i = 0; i < 2; i++) {
		struct ibv_qp_init_attr init = {
			.send_cq = cq,
			.recv_cq = cq,
			.cap = {.max_send_wr = 1, .max_recv_wr = 1},
			.qp_type = IBV_QPT_RC,
		};
		qps[i] = ibv_create_qp(active->pd, &init);
		MUST(qps[i]);
	}
	destroy_with_channel(active);
	active = new_active(new_channel(), "127.0.0.1", port);
	rdma_destroy_qp(active);
	CHECK(rdma_connect(active, &(struct rdma_conn_param){.qp_num = qps[0]->qp_num}), 0);
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	passive = event->id;
	CHECK(rdma_ack_cm_event(event), 0);
	for (enum ibv_qp_state state = IBV_QPS_INIT; state <= IBV_QPS_RTS; state++) {
		attr.qp_state = state;
		CHECK(rdma_init_qp_attr(passive, &attr, &mask), 0);
		CHECK(ibv_modify_qp(qps[1], &attr, mask), 0);
	}
	attr.qp_state = IBV_QPS_SQE;
	CHECK_FAILS(rdma_init_qp_attr(passive, &attr, &mask), EINVAL);
	CHECK(rdma_accept(passive, &(struct rdma_conn_param){.qp_num = qps[1]->qp_num}), 0);
	EXPECT(active, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
	CHECK(is_readable(passive->channel->fd, 20), 0); /* not before the active side says so */
	for (enum ibv_qp_state state = IBV_QPS_INIT; state <= IBV_QPS_RTS; state++) {
		attr.qp_state = state;
		CHECK(rdma_init_qp_attr(active, &attr, &mask), 0);
		CHECK(ibv_modify_qp(qps[0], &attr, mask), 0);
	}
	CHECK(rdma_establish(active), 0);
	EXPECT(passive, RDMA_CM_EVENT_ESTABLISHED, 0);
	CHECK_FAILS(rdma_establish(active), EINVAL);
	CHECK(rdma_disconnect(passive), 0);
	EXPECT(passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(active, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy(passive);
	destroy_with_channel(active);
	destroy_with_channel(listener);
	CHECK(ibv_destroy_qp(qps[0]), 0);
	CHECK(ibv_destroy_qp(qps[1]), 0);
	CHECK(ibv_destroy_cq(cq), 0);
}

/* Many on one channel, requests beyond the backlog waiting for their turn. */
static void
test_many_ids_on_one_channel(void)
{
	enum { COUNT = 100, BACKLOG = 3 };
	static struct rdma_cm_id *actives[COUNT], *passives[COUNT];
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", BACKLOG);
	int port = ntohs(rdma_get_src_port(listener)), established = 0;

	for (int i = 0; i < COUNT; i++)
		actives[i] = new_active(channel, "127.0.0.1", port);
	for (int i = 0; i < COUNT; i++)
		start_connecting(actives[i]);
	for (int i = 0; i < COUNT; i++)
		passives[i] = next_request(listener);
	for (int i = 0; i < COUNT; i++)
		CHECK(rdma_accept(passives[i], NULL), 0);
	for (int i = 0; i < COUNT; i++) {
		struct rdma_cm_event *event = GET(channel, RDMA_CM_EVENT_ESTABLISHED);
		event->id->context = event->id;
		rdma_ack_cm_event(event);
		rdma_ack_cm_event(GET(listener->channel, RDMA_CM_EVENT_ESTABLISHED));
	}
	for (int i = 0; i < COUNT; i++)
		established += actives[i]->context == actives[i];
	CHECK(established, COUNT);
	for (int i = 0; i < COUNT; i++)
		CHECK(rdma_disconnect(actives[i]), 0);
	for (int i = 0; i < COUNT; i++) {
		rdma_ack_cm_event(GET(channel, RDMA_CM_EVENT_DISCONNECTED));
		rdma_ack_cm_event(GET(listener->channel, RDMA_CM_EVENT_DISCONNECTED));
	}
	for (int i = 0; i < COUNT; i++) {
		destroy(actives[i]);
		destroy(passives[i]);
	}
	destroy_with_channel(listener);
	rdma_destroy_event_channel(channel);
}

/* ---- channels ---- */

static void
ignore(int number)
{
	(void)number;
}

static void
test_a_channel_is_like_a_file(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	struct rdma_cm_event *event;
	union address target = address_of("127.0.0.1", 7471);
	struct sigaction action = {.sa_handler = ignore}, previous;

	CHECK_FAILS(rdma_get_cm_event(channel, NULL), EINVAL);
	CHECK(is_readable(channel->fd, 0), 0);
	sigaction(SIGALRM, &action, &previous);
	setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 50000}, NULL);
	CHECK_FAILS(rdma_get_cm_event(channel, &event), EINTR);
	sigaction(SIGALRM, &previous, NULL);

	CHECK(fcntl(channel->fd, F_SETFL, O_NONBLOCK), 0);
	CHECK_FAILS(rdma_get_cm_event(channel, &event), EAGAIN);
	MUST(!rdma_resolve_addr(id, NULL, &target.any, 100));
	MUST(!rdma_resolve_route(id, 100));
	CHECK(is_readable(channel->fd, 0), 1);
	EXPECT(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	CHECK(is_readable(channel->fd, 0), 1);
	/* What nobody has got goes with its id. */
	destroy(id);
	CHECK(is_readable(channel->fd, 0), 0);
	CHECK_FAILS(rdma_get_cm_event(channel, &event), EAGAIN);
	rdma_destroy_event_channel(channel);
}

static void
test_migrating(void)
{
	struct rdma_event_channel *from = new_channel(), *to = new_channel();
	struct rdma_cm_id *id = new_id(from), *stays = new_id(from);
	union address target = address_of("127.0.0.1", 7471);

	MUST(!rdma_resolve_addr(id, NULL, &target.any, 100));
	MUST(!rdma_resolve_addr(stays, NULL, &target.any, 100));
	MUST(!rdma_resolve_route(id, 100));
	CHECK(rdma_migrate_id(id, to), 0);
	CHECK(id->channel == to, 1);
	EXPECT(stays, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	CHECK(is_readable(from->fd, 0), 0);
	EXPECT(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	EXPECT(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);

	/* To calls that wait, and back. */
	CHECK(rdma_migrate_id(stays, NULL), 0);
	CHECK_FAILS(rdma_migrate_id(stays, NULL), EINVAL);
	CHECK(rdma_resolve_route(stays, 100), 0);
	CHECK(stays->event->event, RDMA_CM_EVENT_ROUTE_RESOLVED);
	CHECK(rdma_migrate_id(stays, to), 0);
	CHECK(stays->event == NULL, 1);
	destroy(stays);
	destroy(id);
	rdma_destroy_event_channel(from);
	rdma_destroy_event_channel(to);
}

int
main(void)
{
	/* What is made once and stays. */
	struct pair pair = new_pair("127.0.0.1");
	destroy_pair(&pair);

	RUN(test_binding);
	RUN(test_resolving);
	RUN(test_looking_up);
	RUN(test_options);
	RUN(test_what_there_is_not);
	RUN(test_connecting);
	RUN(test_connecting_from_another_address);
	RUN(test_the_passive_side_disconnects);
	RUN(test_a_port_can_be_used_again_at_once);
	RUN(test_being_rejected);
	RUN(test_nobody_listens);
	RUN(test_receives_posted_for_a_connection_that_fails);
	RUN(test_a_listener_that_comes_a_moment_late);
	RUN(test_queue_pairs_that_cannot_connect);
	RUN(test_parameters_are_checked);
	RUN(test_queue_pairs_of_the_program);
	RUN(test_many_ids_on_one_channel);
	RUN(test_a_channel_is_like_a_file);
	RUN(test_migrating);
	return report();
}
