/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cm_endpoint_test.c -- synchronous ids and endpoints; the verbs objects that belong to an id.
 */
#include "cm_test.h"

#include <pthread.h>

/* ---- synchronous ids ---- */

static struct rdma_addrinfo *
info_of(const char *node, int port, int flags)
{
	struct rdma_addrinfo hints = {.ai_flags = flags, .ai_port_space = RDMA_PS_TCP}, *info;
	char service[8];
	snprintf(service, sizeof(service), "%d", port);
	MUST(!rdma_getaddrinfo(node, service, &hints, &info));
	return info;
}

static struct ibv_qp_init_attr
plain_qp(void)
{
	return (struct ibv_qp_init_attr){
		.cap = {.max_send_wr = 2, .max_recv_wr = 2, .max_send_sge = 1, .max_recv_sge = 1},
		.sq_sig_all = 1,
	};
}

static void *
serve_synchronously(void *argument)
{
	struct rdma_cm_id *listener = argument, *id;
	/* Accepts one, rejects one. */
	MUST(!rdma_get_request(listener, &id));
	CHECK(id->event->event, RDMA_CM_EVENT_CONNECT_REQUEST);
	CHECK(id->qp != NULL && id->recv_cq, 1);
	CHECK(id->channel != listener->channel, 1);
	CHECK(rdma_accept(id, NULL), 0);
	CHECK(id->event->event, RDMA_CM_EVENT_ESTABLISHED);
	CHECK(rdma_disconnect(id), 0);
	CHECK(id->event->event, RDMA_CM_EVENT_DISCONNECTED);
	CHECK(rdma_disconnect(id), 0); /* does not wait for what has been */
	rdma_destroy_ep(id);
	MUST(!rdma_get_request(listener, &id));
	CHECK(rdma_reject(id, "no", 2), 0);
	rdma_destroy_ep(id);
	return NULL;
}

static void
test_synchronous_calls(void)
{
	struct rdma_cm_id *listener, *id;
	struct ibv_qp_init_attr attr = plain_qp();
	struct rdma_addrinfo *info = info_of("::1", 0, RAI_PASSIVE);
	pthread_t server;

	MUST(!rdma_create_ep(&listener, info, NULL, &attr));
	rdma_freeaddrinfo(info);
	CHECK_FAILS(
		rdma_create_ep(&id, &(struct rdma_addrinfo){.ai_qp_type = IBV_QPT_UD}, NULL, NULL),
		EPROTONOSUPPORT);
	MUST(!rdma_listen(listener, 0));
	MUST(!pthread_create(&server, NULL, serve_synchronously, listener));
	info = info_of("::1", ntohs(rdma_get_src_port(listener)), 0);

	attr = plain_qp();
	MUST(!rdma_create_ep(&id, info, NULL, &attr));
	CHECK(id->event->event, RDMA_CM_EVENT_ROUTE_RESOLVED);
	CHECK_FAILS(rdma_get_request(id, &id), EINVAL);
	CHECK(rdma_connect(id, NULL), 0);
	CHECK(id->event->event, RDMA_CM_EVENT_ESTABLISHED);
	CHECK(rdma_disconnect(id), 0);
	CHECK(id->event->event, RDMA_CM_EVENT_DISCONNECTED);
	rdma_destroy_ep(id);

	attr = plain_qp();
	MUST(!rdma_create_ep(&id, info, NULL, &attr));
	CHECK_FAILS(rdma_connect(id, NULL), ECONNREFUSED);
	CHECK(id->event->event, RDMA_CM_EVENT_REJECTED);
	CHECK(id->event->param.conn.private_data_len, 2);
	rdma_destroy_ep(id);
	pthread_join(server, NULL);
	rdma_destroy_ep(listener);

	attr = plain_qp();
	MUST(!rdma_create_ep(&id, info, NULL, &attr));
	CHECK_FAILS(rdma_connect(id, NULL), ECONNREFUSED);
	rdma_destroy_ep(id);
	rdma_freeaddrinfo(info);
}

/* What cannot be, and is taken back as a whole. */
static void
test_endpoints_that_fail(void)
{
	struct rdma_cm_id *listener, *id;
	struct ibv_qp_init_attr attr = plain_qp(), too_big = plain_qp();
	struct rdma_addrinfo *info = info_of("255.255.255.255", 1, 0);
	CHECK_FAILS(rdma_create_ep(&id, info, NULL, &attr), EACCES);
	rdma_freeaddrinfo(info);
	info = info_of("8.8.8.8", 1, RAI_PASSIVE);
	CHECK_FAILS(rdma_create_ep(&id, info, NULL, NULL), EADDRNOTAVAIL);
	rdma_freeaddrinfo(info);
	info = info_of("127.0.0.1", 1, 0);
	too_big.cap.max_send_wr = 1 << 30;
	CHECK(rdma_create_ep(&id, info, NULL, &too_big), -1);
	rdma_freeaddrinfo(info);

	/* A listener that cannot make queue pairs for its requests turns them away. */
	info = info_of("127.0.0.1", 0, RAI_PASSIVE);
	MUST(!rdma_create_ep(&listener, info, NULL, &too_big));
	rdma_freeaddrinfo(info);
	MUST(!rdma_listen(listener, 0));
	struct rdma_cm_id *active =
		new_active(new_channel(), "127.0.0.1", ntohs(rdma_get_src_port(listener)));
	start_connecting(active);
	CHECK(rdma_get_request(listener, &id), -1);
	CHECK(errno != 0, 1);
	EXPECT(active, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED);
	destroy_with_channel(active);
	rdma_destroy_ep(listener);
}

/* What an address look-up may say, to go before the program's private data. */
static void
test_private_data_of_an_address(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0), *id;
	struct rdma_addrinfo *info = info_of("127.0.0.1", ntohs(rdma_get_src_port(listener)), 0);
	struct ibv_qp_init_attr attr = plain_qp();
	static char rest[255];
	info->ai_connect = strdup("first,");
	info->ai_connect_len = 6;
	MUST(!rdma_create_ep(&id, info, NULL, &attr));
	rdma_freeaddrinfo(info);
	MUST(!rdma_migrate_id(id, new_channel()));
	struct rdma_conn_param param = param_of(rest, 250);
	CHECK_FAILS(rdma_connect(id, &param), EINVAL);
	param = param_of("then", 4);
	CHECK(rdma_connect(id, &param), 0);
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	check_conn(event, "first,then", 10, 2, 4);
	struct rdma_cm_id *passive = event->id;
	CHECK(rdma_ack_cm_event(event), 0);
	destroy(passive);
	EXPECT(id, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED);
	destroy_with_channel(id);
	destroy_with_channel(listener);
}

/* Queues of the program, and those that come with the id. */
static void
test_queues(void)
{
	struct pair pair = new_pair("127.0.0.1");
	struct rdma_cm_id *listener = pair.listener;
	CHECK(pair.active->send_cq && pair.active->recv_cq_channel, 1);
	CHECK(pair.active->send_cq != pair.active->recv_cq, 1);
	CHECK(pair.active->qp->send_cq == pair.active->send_cq, 1);
	CHECK(pair.active->qp->pd == pair.active->pd, 1);
	rdma_destroy_qp(pair.active);
	CHECK(!pair.active->qp && !pair.active->send_cq && !pair.active->recv_cq_channel, 1);
	destroy_with_channel(pair.active);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy_with_channel(pair.passive);

	struct rdma_cm_id *active =
		new_active(new_channel(), "127.0.0.1", ntohs(rdma_get_src_port(listener)));
	rdma_destroy_qp(active);
	struct ibv_cq *cq = ibv_create_cq(active->verbs, 8, NULL, NULL, 0);
	struct ibv_srq_init_attr srq_attr = {.attr = {.max_wr = 8, .max_sge = 1}};
	struct ibv_qp_init_attr attr = plain_qp();
	attr.qp_type = IBV_QPT_RC;
	attr.send_cq = attr.recv_cq = cq;
	CHECK(rdma_create_srq(active, NULL, &srq_attr), 0);
	CHECK(rdma_create_qp(active, NULL, &attr), 0);
	CHECK_FAILS(rdma_create_qp(active, NULL, &attr), EINVAL);
	CHECK(active->qp->srq == active->srq && active->srq, 1);
	CHECK(active->qp->send_cq == cq && !active->send_cq && !active->recv_cq, 1);
	rdma_destroy_qp(active);
	rdma_destroy_srq(active);
	CHECK(active->srq == NULL, 1);
	struct ibv_srq_init_attr_ex extended = {
		.comp_mask = IBV_SRQ_INIT_ATTR_TYPE,
		.srq_type = IBV_SRQT_XRC,
		.attr = {.max_wr = 8, .max_sge = 1},
	};
	CHECK_FAILS(rdma_create_srq_ex(active, &extended), EOPNOTSUPP);
	extended.comp_mask = 0;
	CHECK_FAILS(rdma_create_srq_ex(active, &extended), EINVAL);
	/* Neither without a device, nor in another one's protection domain. */
	struct rdma_cm_id *idle = new_id(listener->channel);
	CHECK_FAILS(rdma_create_qp(idle, NULL, &attr), EINVAL);
	CHECK_FAILS(rdma_create_srq(idle, NULL, &srq_attr), EINVAL);
	destroy(idle);
	CHECK(ibv_destroy_cq(cq), 0);
	destroy_with_channel(active);
	destroy_with_channel(listener);
}

int
main(void)
{
	/* What is made once and stays. */
	struct pair pair = new_pair("127.0.0.1");
	destroy_pair(&pair);

	RUN(test_synchronous_calls);
	RUN(test_endpoints_that_fail);
	RUN(test_private_data_of_an_address);
	RUN(test_queues);
	return report();
}
