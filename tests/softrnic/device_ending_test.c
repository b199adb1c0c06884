/* SPDX-License-Identifier: BSD-3-Clause */
/* device_ending_test.c -- connections that end: what becomes of what was posted, and in which
 * order. */
#include "device_test.h"

/* ---- queue pairs that go away ---- */

static void
to_state(struct ibv_qp *qp, enum ibv_qp_state state)
{
	struct ibv_qp_attr attr = {.qp_state = state};
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
}

static void
check_no_async_event(const struct ibv_context *context)
{
	CHECK(is_readable(context->async_fd, 0), 0);
}

/*
 * A completion queue smaller than what is posted has room for what completes: a queue pair that is
 * destroyed, or reset, completes nothing, and takes with it what it has completed.
 */
static void
take_away(bool destroys, bool is_connected)
{
	struct both both;
	enum { MANY = 60 };
	both_init(&both, &(struct options){.cqe = 1, .send_wr = 64, .recv_wr = 64});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_qp_init_attr init = {
		.send_cq = a->send_cq,
		.recv_cq = a->recv_cq,
		.cap = {.max_send_wr = 64, .max_recv_wr = 64, .max_send_sge = 1, .max_recv_sge = 1},
		.qp_type = IBV_QPT_RC};
	struct ibv_qp *other = ibv_create_qp(a->pd, &init);
	MUST(other && MANY > a->recv_cq->cqe);
	if (state_of(a->id) != IBV_QPS_INIT)
		to_state(other, IBV_QPS_INIT);
	struct ibv_sge sge = sge_of(a, 0, 8);
	struct ibv_recv_wr *bad, receive = {.wr_id = 1, .sg_list = &sge, .num_sge = 1};
	for (int i = 0; i < MANY; i++)
		CHECK(ibv_post_recv(is_connected ? a->qp : other, &receive, &bad), 0);
	if (is_connected) {
		/* Two complete, and are never taken; then Sends that wait for a receive. */
		CHECK(post_receive(b, 1, 0, 8), 0);
		for (int i = 0; i < MANY; i++) {
			struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 2, &sge, 1, NULL, 0);
			CHECK(post(a, &wr), 0);
		}
		TAKE_THIS(b->recv_cq, 1, IBV_WC_SUCCESS);
	}
	struct ibv_context *context = a->id->verbs;
	if (destroys && is_connected)
		rdma_destroy_qp(a->id);
	else if (destroys)
		CHECK(ibv_destroy_qp(other), 0);
	else
		to_state(is_connected ? a->qp : other, IBV_QPS_RESET);
	check_no_async_event(context);
	check_empty(__LINE__, a->recv_cq, 0);
	check_empty(__LINE__, a->send_cq, 0);
	/* Who shares the queues does not notice. */
	if (is_connected) {
		CHECK(ibv_post_recv(other, &receive, &bad), 0);
		to_state(other, IBV_QPS_ERR);
		TAKE_THIS(a->recv_cq, 1, IBV_WC_WR_FLUSH_ERR);
	} else {
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 3, &sge, 1, b, 0);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 3, IBV_WC_SUCCESS);
	}
	if (!destroys || is_connected)
		CHECK(ibv_destroy_qp(other), 0);
	both_fini(&both);
}

static void
test_queue_pairs_that_go_away_complete_nothing(void)
{
	for (int i = 0; i < 4; i++)
		take_away(i & 1, i & 2);
}

static void
test_a_batch_whose_queue_pair_is_reset(void)
{
	struct both both;
	both_init(&both, &(struct options){.is_ex = true});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge sge = sge_of(a, 0, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 0);
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
	struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(a->qp);
	ibv_wr_start(ex);
	ex->wr_id = 2;
	ex->wr_flags = IBV_SEND_SIGNALED;
	ibv_wr_rdma_write(ex, b->mr->rkey, (uintptr_t)b->bytes);
	ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes, 8);
	to_state(a->qp, IBV_QPS_RESET);
	CHECK(ibv_wr_complete(ex), EINVAL);
	to_state(a->qp, IBV_QPS_INIT);
	to_state(a->qp, IBV_QPS_ERR);
	check_empty(__LINE__, a->send_cq, 0);
	both_fini(&both);
}

/* ---- the order of what is flushed ---- */

enum { QUEUED = 30000, MOST = 60000 };

struct poster {
	struct side *side;
	_Atomic bool stops;
	bool sends;
	uint64_t posted;
	pthread_t thread;
};

static void *
post_on_and_on(void *argument)
{
	struct poster *poster = argument;
	struct side *side = poster->side;
	while (!atomic_load(&poster->stops) && poster->posted < MOST) {
		struct ibv_sge sge = sge_of(side, 0, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, poster->posted, &sge, 1, NULL, 0);
		int ret =
			poster->sends ? post(side, &wr) : post_receive(side, poster->posted, 0, 8);
		if (ret && ret != ENOMEM)
			give_up(__LINE__, "post");
		poster->posted += ret == 0;
	}
	return NULL;
}

/* A drain marker is posted when the connection has ended: all that is older completes before it. */
static void
flush_in_order(bool sends, bool by_peer)
{
	struct both both;
	both_init(&both, &(struct options){.cqe = MOST, .send_wr = 32768, .recv_wr = 32768});
	struct side *a = &both.a;
	struct poster poster = {.side = a, .sends = sends};
	struct ibv_cq *cq = sends ? a->send_cq : a->recv_cq;
	uint64_t taken = 0;
	while (poster.posted < QUEUED) { /* a good many, that take their time */
		struct ibv_sge sge = sge_of(a, 0, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, poster.posted, &sge, 1, NULL, 0);
		CHECK(sends ? post(a, &wr) : post_receive(a, poster.posted, 0, 8), 0);
		poster.posted++;
	}
	MUST(!pthread_create(&poster.thread, NULL, post_on_and_on, &poster));
	if (by_peer)
		CHECK(rdma_disconnect(both.b.id), 0);
	else
		to_state(a->qp, IBV_QPS_ERR);
	EXPECT(a->id, RDMA_CM_EVENT_DISCONNECTED, 0);
	atomic_store(&poster.stops, true);
	pthread_join(poster.thread, NULL);
	while (taken < poster.posted) {
		struct ibv_wc wc = TAKE(cq);
		if (wc.wr_id != taken) {
			CHECK(wc.wr_id, taken);
			break;
		}
		CHECK(wc.status, IBV_WC_WR_FLUSH_ERR);
		taken++;
	}
	both_fini(&both);
}

static void
test_what_is_posted_while_older_requests_are_flushed_completes_behind_them(void)
{
	for (int i = 0; i < 40; i++)
		flush_in_order(i % 8 == 7, i & 1);
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_queue_pairs_that_go_away_complete_nothing);
	RUN(test_a_batch_whose_queue_pair_is_reset);
	RUN(test_what_is_posted_while_older_requests_are_flushed_completes_behind_them);
	return report();
}
