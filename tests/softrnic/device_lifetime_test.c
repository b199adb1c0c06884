/* SPDX-License-Identifier: BSD-3-Clause */
/* device_lifetime_test.c -- completion events, several threads, and what goes away meanwhile. */
#include "device_test.h"

#include <fcntl.h>

/* ---- completion events ---- */

static struct ibv_cq *
next_event(int line, struct ibv_comp_channel *channel)
{
	struct ibv_cq *cq;
	void *context;
	errno = ETIMEDOUT;
	if (!is_readable(channel->fd, PATIENCE_MS) || ibv_get_cq_event(channel, &cq, &context))
		give_up(line, "a completion event");
	check(line, "context", context == cq->cq_context, 1);
	return cq;
}

static void
test_events(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_channel = true});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge sge = sge_of(a, 0, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, &sge, 1, NULL, 0);
	struct ibv_cq *cq;
	void *context;
	for (uint64_t i = 0; i < 20; i++)
		CHECK(post_receive(b, i, 0, 64), 0);

	/* Not armed: no event. Armed late: none for what is there already. */
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
	CHECK(is_readable(b->channel->fd, 10), 0);
	CHECK(ibv_req_notify_cq(b->recv_cq, 0), 0);
	CHECK(is_readable(b->channel->fd, 10), 0);
	CHECK(fcntl(b->channel->fd, F_SETFL, O_NONBLOCK), 0);
	CHECK_FAILS(ibv_get_cq_event(b->channel, &cq, &context), EAGAIN);
	CHECK(fcntl(b->channel->fd, F_SETFL, 0), 0);
	/* One for the next, and no second one. */
	CHECK(post(a, &wr), 0);
	CHECK(post(a, &wr), 0);
	CHECK(next_event(__LINE__, b->channel) == b->recv_cq, 1);
	CHECK(is_readable(b->channel->fd, 10), 0);
	for (uint64_t i = 0; i < 3; i++)
		TAKE_THIS(b->recv_cq, i, IBV_WC_SUCCESS);
	ibv_ack_cq_events(b->recv_cq, 1);

	/* Solicited only. */
	CHECK(ibv_req_notify_cq(b->recv_cq, 1), 0);
	CHECK(post(a, &wr), 0);
	TAKE_THIS(b->recv_cq, 3, IBV_WC_SUCCESS);
	CHECK(is_readable(b->channel->fd, 10), 0);
	wr.send_flags |= IBV_SEND_SOLICITED;
	CHECK(post(a, &wr), 0);
	CHECK(next_event(__LINE__, b->channel) == b->recv_cq, 1);
	TAKE_THIS(b->recv_cq, 4, IBV_WC_SUCCESS);
	struct ibv_send_wr imm = wr_of(IBV_WR_RDMA_WRITE_WITH_IMM, 1, &sge, 1, b, 0);
	CHECK(ibv_req_notify_cq(b->recv_cq, 1), 0);
	CHECK(post(a, &imm), 0);
	TAKE_THIS(b->recv_cq, 5, IBV_WC_SUCCESS);
	CHECK(is_readable(b->channel->fd, 10), 0);
	imm.send_flags |= IBV_SEND_SOLICITED;
	CHECK(post(a, &imm), 0);
	CHECK(next_event(__LINE__, b->channel) == b->recv_cq, 1);
	TAKE_THIS(b->recv_cq, 6, IBV_WC_SUCCESS);
	/* Armed for all stays so. */
	CHECK(ibv_req_notify_cq(b->recv_cq, 0), 0);
	CHECK(ibv_req_notify_cq(b->recv_cq, 1), 0);
	wr.send_flags &= ~(unsigned)IBV_SEND_SOLICITED;
	CHECK(post(a, &wr), 0);
	CHECK(next_event(__LINE__, b->channel) == b->recv_cq, 1);
	TAKE_THIS(b->recv_cq, 7, IBV_WC_SUCCESS);
	/* A failure is worth an event always. */
	CHECK(ibv_req_notify_cq(b->recv_cq, 1), 0);
	CHECK(rdma_disconnect(b->id), 0);
	CHECK(next_event(__LINE__, b->channel) == b->recv_cq, 1);
	ibv_ack_cq_events(b->recv_cq, 4);
	/* One that nobody fetches goes with its queue. */
	CHECK(ibv_req_notify_cq(b->recv_cq, 0), 0);
	CHECK(post_receive(b, 1, 0, 8), 0);
	CHECK(is_readable(b->channel->fd, PATIENCE_MS), 1);
	both_fini(&both);
}

static void *
acknowledge_late(void *argument)
{
	sleep_ms(50);
	ibv_ack_cq_events(argument, 1);
	return NULL;
}

static void
test_destruction_waits_for_acknowledgements(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_channel = true});
	struct side *a = &both.a;
	pthread_t thread;
	CHECK(ibv_req_notify_cq(a->recv_cq, 0), 0);
	CHECK(post_receive(a, 1, 0, 8), 0);
	CHECK(rdma_disconnect(a->id), 0);
	CHECK(next_event(__LINE__, a->channel) == a->recv_cq, 1);
	CHECK(ibv_destroy_comp_channel(a->channel), EBUSY);
	int64_t before = now_ms();
	MUST(!pthread_create(&thread, NULL, acknowledge_late, a->recv_cq));
	both_fini(&both);
	CHECK(now_ms() - before >= 49, 1);
	pthread_join(thread, NULL);
}

/* ---- many threads ---- */

struct worker {
	struct both *both;
	pthread_t thread;
	_Atomic uint32_t *taken;
	uint32_t total;
	bool by_events;
};

static void *
take_completions(void *argument)
{
	struct worker *worker = argument;
	struct side *a = &worker->both->a;
	int64_t until = now_ms() + PATIENCE_MS;
	while (atomic_load(worker->taken) < worker->total) {
		struct ibv_wc wcs[4];
		int count = ibv_poll_cq(a->send_cq, 4, wcs);
		MUST(count >= 0);
		for (int i = 0; i < count; i++)
			CHECK(wcs[i].status, IBV_WC_SUCCESS);
		atomic_fetch_add(worker->taken, (uint32_t)count);
		if (now_ms() > until)
			give_up(__LINE__, "completions");
		if (!count && worker->by_events) {
			struct ibv_cq *cq;
			void *context;
			CHECK(ibv_req_notify_cq(a->send_cq, 0), 0);
			count = ibv_poll_cq(a->send_cq, 1, wcs);
			atomic_fetch_add(worker->taken, (uint32_t)count);
			if (!count && is_readable(a->channel->fd, 10)) {
				if (ibv_get_cq_event(a->channel, &cq, &context) == 0)
					ibv_ack_cq_events(cq, 1);
			}
		}
	}
	return NULL;
}

static void *
post_requests(void *argument)
{
	struct worker *worker = argument;
	struct side *a = &worker->both->a, *b = &worker->both->b;
	uint32_t random = 77 + (uint32_t)(uintptr_t)argument;
	int64_t until = now_ms() + PATIENCE_MS;
	for (uint32_t i = 0; i < worker->total;) {
		struct ibv_sge sge = sge_of(a, 0, 1 + next_random(&random) % 3000);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, i, &sge, 1, b, 0);
		int ret = post(a, &wr);
		if (ret == 0)
			i++;
		else if (ret != ENOMEM || now_ms() > until)
			give_up(__LINE__, "post");
		else
			sched_yield();
	}
	return NULL;
}

static void
test_many_threads(bool by_events)
{
	enum { POSTERS = 3, TAKERS = 4, EACH = 1500 };
	struct both both;
	/* Room for all: those who post are held up by the send queue, not by those who take. */
	both_init(&both, &(struct options){.with_channel = true, .cqe = POSTERS * EACH});
	/* Several that wait are woken by one event: none of them must be left in a read. */
	fcntl(both.a.channel->fd, F_SETFL, O_NONBLOCK);
	_Atomic uint32_t taken = 0;
	struct worker workers[POSTERS + TAKERS];
	for (int i = 0; i < POSTERS + TAKERS; i++) {
		workers[i] = (struct worker){.both = &both,
					     .taken = &taken,
					     .total = i < POSTERS ? EACH : POSTERS * EACH,
					     .by_events = by_events};
		MUST(!pthread_create(&workers[i].thread, NULL,
				     i < POSTERS ? post_requests : take_completions, &workers[i]));
	}
	for (int i = 0; i < POSTERS + TAKERS; i++)
		pthread_join(workers[i].thread, NULL);
	CHECK(atomic_load(&taken), POSTERS * EACH);
	both_fini(&both);
}

static void
test_many_threads_polling(void)
{
	test_many_threads(false);
}

static void
test_many_threads_waiting(void)
{
	test_many_threads(true);
}

/* Completions of an extended queue, which several threads share. */
enum { EXTENDED = 200000 };

struct extended {
	struct ibv_cq_ex *cq;
	uint32_t qp_num;
	_Atomic uint32_t taken;
	_Atomic uint8_t seen[EXTENDED]; /* how often each was */
};

static void *
take_extended(void *argument)
{
	struct extended *extended = argument;
	struct ibv_poll_cq_attr attr = {0};
	int64_t until = now_ms() + PATIENCE_MS;
	while (atomic_load(&extended->taken) < EXTENDED) {
		if (now_ms() > until)
			give_up(__LINE__, "completions");
		int ret = ibv_start_poll(extended->cq, &attr);
		if (ret == ENOENT)
			continue;
		for (int i = 0; !ret; i++) {
			CHECK(extended->cq->status, IBV_WC_WR_FLUSH_ERR);
			CHECK(ibv_wc_read_qp_num(extended->cq), extended->qp_num);
			MUST(extended->cq->wr_id < EXTENDED);
			atomic_fetch_add(&extended->seen[extended->cq->wr_id], 1);
			atomic_fetch_add(&extended->taken, 1);
			ret = i < 10 ? ibv_next_poll(extended->cq) : ENOENT;
		}
		CHECK(ret, ENOENT);
		ibv_end_poll(extended->cq);
	}
	return NULL;
}

/* An extended queue, and a queue pair that completes on it what is posted, at once. */
static struct ibv_qp *
extended_init(struct extended *extended, struct side *side, uint32_t flags)
{
	struct ibv_cq_init_attr_ex attr = {.cqe = EXTENDED,
					   .wc_flags = IBV_WC_STANDARD_FLAGS,
					   .comp_mask = IBV_CQ_INIT_ATTR_MASK_FLAGS,
					   .flags = flags};
	extended->cq = ibv_create_cq_ex(side->id->verbs, &attr);
	MUST(extended->cq);
	struct ibv_cq *cq = ibv_cq_ex_to_cq(extended->cq);
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
		.qp_type = IBV_QPT_RC};
	struct ibv_qp *qp = ibv_create_qp(side->pd, &init);
	struct ibv_qp_attr error = {.qp_state = IBV_QPS_ERR};
	MUST(qp && !ibv_modify_qp(qp, &error, IBV_QP_STATE));
	extended->qp_num = qp->qp_num;
	return qp;
}

static void
complete_extended(struct ibv_qp *qp, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		struct ibv_recv_wr *bad, wr = {.wr_id = i};
		CHECK(ibv_post_recv(qp, &wr, &bad), 0);
	}
}

static void
extended_fini(struct extended *extended, struct ibv_qp *qp)
{
	CHECK(ibv_destroy_qp(qp), 0);
	CHECK(ibv_destroy_cq(ibv_cq_ex_to_cq(extended->cq)), 0);
}

static void
test_several_threads_at_an_extended_queue(void)
{
	struct both both;
	static struct extended extended;
	pthread_t threads[2];
	both_init(&both, NULL);
	struct ibv_qp *qp = extended_init(&extended, &both.a, 0);
	for (int i = 0; i < 2; i++)
		MUST(!pthread_create(&threads[i], NULL, take_extended, &extended));
	complete_extended(qp, EXTENDED);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	int lost = 0, twice = 0;
	for (int i = 0; i < EXTENDED; i++) {
		lost += extended.seen[i] == 0;
		twice += extended.seen[i] > 1;
	}
	CHECK(lost, 0);
	CHECK(twice, 0);
	extended_fini(&extended, qp);
	both_fini(&both);
}

static void *
take_the_next(void *argument)
{
	struct ibv_cq_ex *cq = argument;
	struct ibv_poll_cq_attr attr = {0};
	CHECK(ibv_start_poll(cq, &attr), 0);
	CHECK(cq->wr_id, 1);
	ibv_end_poll(cq);
	return NULL;
}

/* What one thread has not done with, another one leaves alone; unless there is but one. */
static void
test_a_completion_is_its_threads_up_to_the_end(void)
{
	struct both both;
	static struct extended extended;
	struct ibv_poll_cq_attr attr = {0};
	pthread_t thread;
	both_init(&both, NULL);
	struct ibv_qp *qp = extended_init(&extended, &both.a, 0);
	complete_extended(qp, 2);
	CHECK(ibv_start_poll(extended.cq, &attr), 0);
	MUST(!pthread_create(&thread, NULL, take_the_next, extended.cq));
	sleep_ms(100);
	CHECK(extended.cq->wr_id, 0);
	ibv_end_poll(extended.cq);
	pthread_join(thread, NULL);
	CHECK(ibv_start_poll(extended.cq, &attr), ENOENT);
	extended_fini(&extended, qp);
	qp = extended_init(&extended, &both.a, IBV_CREATE_CQ_ATTR_SINGLE_THREADED);
	complete_extended(qp, 2);
	CHECK(ibv_start_poll(extended.cq, &attr), 0);
	CHECK(ibv_start_poll(extended.cq, &attr), 0); /* nothing holds it up */
	CHECK(extended.cq->wr_id, 1);
	ibv_end_poll(extended.cq);
	extended_fini(&extended, qp);
	both_fini(&both);
}

/* One of several that wait in ibv_get_cq_event serves all. */
static void *
wait_for_event(void *argument)
{
	struct side *side = argument;
	struct ibv_cq *cq;
	void *context;
	CHECK(ibv_get_cq_event(side->channel, &cq, &context), 0);
	ibv_ack_cq_events(cq, 1);
	return NULL;
}

static void
test_several_that_wait_for_events(void)
{
	enum { COUNT = 4 };
	struct both boths[COUNT];
	pthread_t threads[COUNT];
	for (int i = 0; i < COUNT; i++)
		both_init(&boths[i], &(struct options){.with_channel = true});
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < COUNT; i++) {
			CHECK(post_receive(&boths[i].b, 1, 0, 8), 0);
			CHECK(ibv_req_notify_cq(boths[i].b.recv_cq, 0), 0);
			MUST(!pthread_create(&threads[i], NULL, wait_for_event, &boths[i].b));
		}
		for (int i = 0; i < COUNT; i++) {
			struct both *both = &boths[(i + round) % COUNT];
			struct ibv_sge sge = sge_of(&both->a, 0, 8);
			struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, &sge, 1, NULL, 0);
			if (round % 5 == 0)
				sleep_ms(1);
			CHECK(post(&both->a, &wr), 0);
			/* Meanwhile this thread does not poll. */
			if (round % 2)
				pthread_join(threads[(i + round) % COUNT], NULL);
		}
		for (int i = 0; i < COUNT; i++) {
			if (round % 2 == 0)
				pthread_join(threads[i], NULL);
			TAKE_THIS(boths[i].a.send_cq, 1, IBV_WC_SUCCESS);
			TAKE_THIS(boths[i].b.recv_cq, 1, IBV_WC_SUCCESS);
		}
	}
	for (int i = 0; i < COUNT; i++)
		both_fini(&boths[i]);
}

/* ---- what goes away while it is in use ---- */

struct sender {
	struct side *from, to; /* a copy: the original goes away */
	struct ibv_mr mr;
	_Atomic bool stops;
	pthread_t thread;
};

/* Places in the memory of each side that do not meet: what is sent, read, written, received. */
enum { SOURCE = 0, SINK = 65536, TARGET = 131072, RECEIVED = 196608, ALL = 262144 };

static void
start_sending(struct sender *sender, struct side *from, const struct side *to)
{
	sender->from = from;
	sender->to = *to;
	sender->mr = *to->mr;
	sender->to.mr = &sender->mr;
	atomic_init(&sender->stops, false);
}

static void *
send_on_and_on(void *argument)
{
	struct sender *sender = argument;
	uint32_t random = 5;
	while (!atomic_load(&sender->stops)) {
		static const enum ibv_wr_opcode opcodes[] = {
			IBV_WR_RDMA_WRITE, IBV_WR_RDMA_READ, IBV_WR_SEND,
			IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_ATOMIC_FETCH_AND_ADD};
		enum ibv_wr_opcode opcode = opcodes[next_random(&random) % 5];
		size_t length =
			opcode == IBV_WR_ATOMIC_FETCH_AND_ADD
				? 8
				: next_random(&random) % (next_random(&random) % 4 ? 200 : 60000);
		bool reads = opcode == IBV_WR_RDMA_READ || opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
		struct ibv_sge sge = sge_of(sender->from, reads ? SINK : SOURCE, length);
		struct ibv_send_wr wr = wr_of(opcode, 1, &sge, 1,
					      opcode == IBV_WR_SEND ? NULL : &sender->to, TARGET);
		struct ibv_wc wc;
		(void)post(sender->from, &wr);
		(void)post_receive(sender->from, 2, RECEIVED, 8);
		while (ibv_poll_cq(sender->from->send_cq, 1, &wc) > 0)
			;
		while (ibv_poll_cq(sender->from->recv_cq, 1, &wc) > 0)
			;
	}
	return NULL;
}

/* The other side's objects go while this one sends to them. */
static void
test_destruction_while_the_peer_sends(void)
{
	for (int round = 0; round < 40; round++) {
		struct both both;
		both_init(&both, &(struct options){.with_srq = round % 4 == 3, .size = ALL});
		struct side *a = &both.a, *b = &both.b;
		struct sender sender;
		start_sending(&sender, a, b);
		MUST(!pthread_create(&sender.thread, NULL, send_on_and_on, &sender));
		int64_t until = now_ms() + round % 10;
		struct ibv_wc wc;
		while (now_ms() < until) {
			(void)post_receive(b, 2, RECEIVED, 65536);
			(void)ibv_poll_cq(b->recv_cq, 1, &wc);
		}
		struct rdma_cm_id *id = b->id;
		struct rdma_event_channel *channel = id->channel;
		switch (round % 5) {
		case 0:
			side_end(b);
			break;
		case 1:
			CHECK(rdma_disconnect(id), 0);
			side_end(b);
			break;
		case 2: {
			/* The id first, its queue pair later. */
			struct ibv_qp *qp = b->qp;
			id->qp = NULL;
			CHECK(rdma_destroy_id(id), 0);
			rdma_destroy_event_channel(channel);
			CHECK(ibv_destroy_qp(qp), 0);
			b->id = &(struct rdma_cm_id){0};
			side_fini(b);
			break;
		}
		case 3: {
			struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
			CHECK(ibv_modify_qp(b->qp, &attr, IBV_QP_STATE), 0);
			side_end(b);
			break;
		}
		default: {
			struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
			CHECK(ibv_modify_qp(b->qp, &attr, IBV_QP_STATE), 0);
			side_end(b);
			break;
		}
		}
		sleep_ms(1);
		atomic_store(&sender.stops, true);
		pthread_join(sender.thread, NULL);
		side_end(a);
	}
}

/* This side ends its connection in one thread while another one posts and polls. */
static void
test_disconnecting_while_another_thread_posts(void)
{
	for (int round = 0; round < 30; round++) {
		struct both both;
		both_init(&both, &(struct options){.size = ALL});
		struct sender senders[2];
		start_sending(&senders[0], &both.a, &both.b);
		start_sending(&senders[1], &both.b, &both.a);
		for (int i = 0; i < 2; i++)
			MUST(!pthread_create(&senders[i].thread, NULL, send_on_and_on,
					     &senders[i]));
		sleep_ms(round % 4);
		struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
		if (round % 2)
			CHECK(rdma_disconnect(both.a.id), 0);
		else
			CHECK(ibv_modify_qp(both.a.qp, &attr, IBV_QP_STATE), 0);
		if (round % 3 == 0)
			CHECK(rdma_disconnect(both.b.id), 0);
		EXPECT(both.a.id, RDMA_CM_EVENT_DISCONNECTED, 0);
		EXPECT(both.b.id, RDMA_CM_EVENT_DISCONNECTED, 0);
		for (int i = 0; i < 2; i++) {
			atomic_store(&senders[i].stops, true);
			pthread_join(senders[i].thread, NULL);
		}
		CHECK(state_of(both.a.id), IBV_QPS_ERR);
		CHECK(state_of(both.b.id), IBV_QPS_ERR);
		both_fini(&both);
	}
}

/* A peer that is long in closing does not hold up anything. */
static void
test_what_was_sent_arrives_though_the_queue_pair_is_gone(void)
{
	for (int round = 0; round < 10; round++) {
		struct both both;
		both_init(&both, &(struct options){.with_channel = true});
		struct side *a = &both.a, *b = &both.b;
		struct ibv_sge sge = sge_of(a, 0, 100);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, &sge, 1, NULL, 0);
		CHECK(post_receive(b, 1, 0, 100), 0);
		CHECK(post(a, &wr), 0);
		side_end(a);
		TAKE_THIS(b->recv_cq, 1, IBV_WC_SUCCESS);
		EXPECT(b->id, RDMA_CM_EVENT_DISCONNECTED, 0);
		side_end(b);
	}
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_events);
	RUN(test_destruction_waits_for_acknowledgements);
	RUN(test_many_threads_polling);
	RUN(test_many_threads_waiting);
	RUN(test_several_threads_at_an_extended_queue);
	RUN(test_a_completion_is_its_threads_up_to_the_end);
	RUN(test_several_that_wait_for_events);
	RUN(test_destruction_while_the_peer_sends);
	RUN(test_disconnecting_while_another_thread_posts);
	RUN(test_what_was_sent_arrives_though_the_queue_pair_is_gone);
	return report();
}
