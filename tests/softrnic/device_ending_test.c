/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device_ending_test.c -- connections that end: what becomes of what was posted, and in which
 * order; and channels that go while threads wait for their events.
 */
#include "softrnic.h"

#include "device_test.h"

#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>

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

/* ---- what the peer has taken ---- */

enum how { DISCONNECT, ERROR_STATE, RESET, DESTROY, OWN_MISTAKE, HOWS };

static void
end_by(enum how how, struct side *side)
{
	struct ibv_sge sge = sge_of(side, 0, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 99, &sge, 1, NULL, 0);
	switch (how) {
	case DISCONNECT:
		CHECK(rdma_disconnect(side->id), 0);
		break;
	case ERROR_STATE:
		to_state(side->qp, IBV_QPS_ERR);
		break;
	case RESET:
		to_state(side->qp, IBV_QPS_RESET);
		break;
	case DESTROY:
		rdma_destroy_qp(side->id);
		break;
	default:
		sge.lkey ^= 0x1111;
		CHECK(post(side, &wr), 0);
		break;
	}
}

/* The n-th request to the other side, of a kind that takes a receive or of all kinds by turns. */
static void
post_nth(struct both *both, uint64_t n, bool is_mixed)
{
	static const enum ibv_wr_opcode opcodes[] = {
		IBV_WR_SEND,      IBV_WR_RDMA_WRITE,          IBV_WR_SEND_WITH_IMM,
		IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_ATOMIC_FETCH_AND_ADD};
	enum ibv_wr_opcode opcode = is_mixed ? opcodes[n % 6] : IBV_WR_SEND;
	bool takes_receive = opcode != IBV_WR_RDMA_WRITE && opcode != IBV_WR_RDMA_READ &&
			     opcode != IBV_WR_ATOMIC_FETCH_AND_ADD;
	struct ibv_sge sge = sge_of(&both->a, 0, opcode == IBV_WR_ATOMIC_FETCH_AND_ADD ? 8 : 64);
	struct ibv_send_wr wr = wr_of(
		opcode, n, &sge, 1, takes_receive && opcode == IBV_WR_SEND ? NULL : &both->b, 4096);
	if (takes_receive)
		CHECK(post_receive(&both->b, n, 8192, 64), 0);
	CHECK(post(&both->a, &wr), 0);
}

/* The last one is a Send; when it has been received the peer ends the connection at once. */
static void
end_behind_the_last_receive(enum how how, uint64_t depth, bool is_mixed)
{
	struct both both;
	int before = failures;
	both_init(&both, NULL);
	uint64_t last = is_mixed ? depth / 6 * 6 : depth - 1;
	for (uint64_t i = 0; i <= last; i++)
		post_nth(&both, i, is_mixed);
	while (TAKE(both.b.recv_cq).wr_id != last)
		;
	end_by(how, &both.b);
	for (uint64_t i = 0; i <= last; i++)
		TAKE_THIS(both.a.send_cq, i, IBV_WC_SUCCESS);
	EXPECT(both.a.id, RDMA_CM_EVENT_DISCONNECTED, 0);
	check_empty(__LINE__, both.a.send_cq, 0);
	both_fini(&both);
	if (failures != before)
		printf("end %d, %d requests%s\n", how, (int)last + 1, is_mixed ? ", mixed" : "");
}

static void
test_what_the_peer_has_taken_completes_though_it_ends_the_connection_at_once(void)
{
	for (enum how how = DISCONNECT; how < HOWS; how++) {
		for (uint64_t depth = 2; depth <= 32; depth += depth < 6 ? 1 : 9) {
			end_behind_the_last_receive(how, depth, false);
			end_behind_the_last_receive(how, depth + 4, true);
		}
	}
}

/* The peer has sent more than can be kept while it waits for a receive: its last word is behind. */
static void
test_what_the_peer_has_taken_completes_though_there_is_no_room_for_what_it_sent(void)
{
	enum { MANY = 5, LARGE = 64000, DEPTH = 5 };
	struct both both;
	both_init(&both, &(struct options){.size = LARGE});
	for (uint64_t i = 0; i < MANY; i++) {
		/* All but the last are kept, and that stays in the socket, with what follows it. */
		struct ibv_sge sge = sge_of(&both.b, 0, i < MANY - 1 ? LARGE : LARGE / 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, i, &sge, 1, NULL, 0);
		CHECK(post(&both.b, &wr), 0);
	}
	sleep_ms(20); /* to be there */
	for (uint64_t i = 0; i < DEPTH; i++)
		post_nth(&both, i, false);
	for (uint64_t i = 0; i < DEPTH; i++)
		TAKE_THIS(both.b.recv_cq, i, IBV_WC_SUCCESS);
	end_by(DISCONNECT, &both.b);
	for (uint64_t i = 0; i < DEPTH; i++)
		TAKE_THIS(both.a.send_cq, i, IBV_WC_SUCCESS);
	EXPECT(both.a.id, RDMA_CM_EVENT_DISCONNECTED, 0);
	for (uint64_t i = 0; i < MANY; i++)
		TAKE_THIS(both.b.send_cq, i, IBV_WC_WR_FLUSH_ERR);
	CHECK(post_receive(&both.a, 7, 0, LARGE), 0);
	TAKE_THIS(both.a.recv_cq, 7, IBV_WC_WR_FLUSH_ERR);
	both_fini(&both);
}

/* Of those that wait for a receive nothing is known but that they were not received. */
static void
test_what_the_peer_has_not_taken_is_flushed(void)
{
	enum { ALL_OF_THEM = 20 };
	for (uint64_t taken = 0; taken < ALL_OF_THEM; taken++) {
		struct both both;
		both_init(&both, NULL);
		for (uint64_t i = 0; i < taken; i++)
			CHECK(post_receive(&both.b, i, 8192, 64), 0);
		for (uint64_t i = 0; i < ALL_OF_THEM; i++) {
			struct ibv_sge sge = sge_of(&both.a, 0, 64);
			struct ibv_send_wr wr = wr_of(IBV_WR_SEND, i, &sge, 1, NULL, 0);
			CHECK(post(&both.a, &wr), 0);
		}
		for (uint64_t i = 0; i < taken; i++)
			TAKE_THIS(both.b.recv_cq, i, IBV_WC_SUCCESS);
		end_by(DISCONNECT, &both.b);
		for (uint64_t i = 0; i < ALL_OF_THEM; i++)
			TAKE_THIS(both.a.send_cq, i,
				  i < taken ? IBV_WC_SUCCESS : IBV_WC_WR_FLUSH_ERR);
		both_fini(&both);
	}
}

/* Whether the peer has got the second Read while it answers the first. */
static bool
has_two_to_answer(struct side *side)
{
	struct sender *tx = &to_qp(side->qp)->tx;
	int64_t until = now_ms() + 1000;
	uint32_t left = 0;
	do {
		pthread_mutex_lock(&tx->lock);
		left = tx->inbound_tail - tx->inbound_head;
		pthread_mutex_unlock(&tx->lock);
	} while (left < 2 && now_ms() < until);
	return left == 2;
}

/* What the second one reads from is taken back: it fails, and the first does not. */
static void
test_a_read_whose_memory_is_taken_back_before_its_turn(void)
{
	enum { LARGE = 16 << 20 };
	bool is_there = false;
	for (int round = 0; round < 20 && !is_there; round++) {
		struct both both;
		both_init(&both, &(struct options){.size = LARGE});
		struct ibv_mr *mr = ibv_reg_mr(both.b.pd, both.b.bytes, 64, ALL_ACCESS);
		MUST(mr);
		struct ibv_sge large = sge_of(&both.a, 0, LARGE), small = sge_of(&both.a, 0, 64);
		struct ibv_send_wr first = wr_of(IBV_WR_RDMA_READ, 1, &large, 1, &both.b, 0);
		struct ibv_send_wr second = wr_of(IBV_WR_RDMA_READ, 2, &small, 1, &both.b, 0);
		second.wr.rdma.rkey = mr->rkey;
		first.next = &second;
		CHECK(post(&both.a, &first), 0);
		is_there = has_two_to_answer(&both.b);
		CHECK(ibv_dereg_mr(mr), 0);
		if (is_there) {
			TAKE_THIS(both.a.send_cq, 1, IBV_WC_SUCCESS);
			TAKE_THIS(both.a.send_cq, 2, IBV_WC_REM_ACCESS_ERR);
			EXPECT(both.a.id, RDMA_CM_EVENT_DISCONNECTED, 0);
		}
		both_fini(&both);
	}
	CHECK(is_there, true);
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

/* ---- channels that go ---- */

struct waiter {
	pthread_t thread;
	struct ibv_comp_channel *channel;
	_Atomic bool has_returned;
};

static void *
wait_for_an_event(void *opaque)
{
	struct waiter *self = opaque;
	struct ibv_cq *cq;
	void *context;
	CHECK_FAILS(ibv_get_cq_event(self->channel, &cq, &context), EINTR);
	atomic_store(&self->has_returned, true);
	return NULL;
}

/* So many threads, in ibv_get_cq_event(). */
static bool
are_in(struct ibv_comp_channel *ibv_channel, unsigned count)
{
	struct channel *channel = container_of(ibv_channel, struct channel, ibv);
	pthread_mutex_lock(&channel->lock);
	bool are = channel->users == count;
	pthread_mutex_unlock(&channel->lock);
	return are;
}

static void
on_signal(int number)
{
	(void)number;
}

/*
 * As with a kernel's, they go on waiting until a signal interrupts them. One of them serves what
 * goes on beside them.
 */
static void
test_a_channel_destroyed_while_threads_wait_for_its_events(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	MUST(!sigaction(SIGUSR1, &action, NULL));
	for (int round = 0; round < 10; round++) {
		struct waiter waiters[2] = {{.has_returned = false}};
		struct ibv_comp_channel *channel = ibv_create_comp_channel(a->id->verbs);
		MUST(channel);
		for (int i = 0; i < 2; i++) {
			waiters[i].channel = channel;
			MUST(!pthread_create(&waiters[i].thread, NULL, wait_for_an_event,
					     &waiters[i]));
		}
		while (!are_in(channel, 2))
			sched_yield();
		sleep_ms(round % 4);
		CHECK(ibv_destroy_comp_channel(channel), 0);
		/* Nobody polls while they come. */
		struct ibv_sge sge = sge_of(a, 0, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 8);
		for (uint8_t i = 1; i <= 5; i++) {
			memset(a->bytes, i, 8);
			CHECK(post(a, &wr), 0);
			sleep_ms(2);
			TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
			CHECK(b->bytes[8], i);
		}
		for (int i = 0; i < 2; i++) {
			CHECK(atomic_load(&waiters[i].has_returned), false);
			while (!atomic_load(&waiters[i].has_returned)) {
				(void)pthread_kill(waiters[i].thread, SIGUSR1);
				sleep_ms(1);
			}
			MUST(!pthread_join(waiters[i].thread, NULL));
		}
	}
	MUST(!sigaction(SIGUSR1, &(struct sigaction){.sa_handler = SIG_DFL}, NULL));
	both_fini(&both);
}

/* ---- a device that is closed while a thread waits for what it has to tell ---- */

static _Atomic int held_fd = -1;
static sem_t has_been_woken, goes_on;

ssize_t
read(int fd, void *bytes, size_t size)
{
	ssize_t got = syscall(SYS_read, fd, bytes, size);
	if (got > 0 && fd == atomic_load(&held_fd)) {
		(void)sem_post(&has_been_woken);
		while (sem_wait(&goes_on))
			;
	}
	return got;
}

static _Atomic bool has_returned;

static void *
wait_for_an_asynchronous_event(void *context)
{
	struct ibv_async_event event;
	CHECK_FAILS(ibv_get_async_event(context, &event), EINTR);
	atomic_store(&has_returned, true);
	return NULL;
}

/* The event that has woken it goes with the object that it is about, and then the device. */
static void
test_a_device_closed_while_a_thread_waits_for_its_events(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct ibv_device **devices = ibv_get_device_list(NULL);
	struct ibv_context *context = ibv_open_device(devices[0]);
	struct ibv_qp qp;
	unsigned reported = 0;
	pthread_t thread;
	MUST(context);
	ibv_free_device_list(devices);
	MUST(!sigaction(SIGUSR1, &action, NULL));
	MUST(!sem_init(&has_been_woken, 0, 0) && !sem_init(&goes_on, 0, 0));
	atomic_store(&held_fd, context->async_fd);
	MUST(!pthread_create(&thread, NULL, wait_for_an_asynchronous_event, context));
	async_report(context, IBV_EVENT_QP_FATAL, &qp, &reported);
	while (sem_wait(&has_been_woken))
		;
	CHECK(async_forget(context, &qp, &reported), 0);
	CHECK(ibv_close_device(context), 0);
	MUST(!sem_post(&goes_on));
	sleep_ms(20);
	CHECK(atomic_load(&has_returned), false);
	while (!atomic_load(&has_returned)) { /* it may not wait yet */
		(void)pthread_kill(thread, SIGUSR1);
		sleep_ms(1);
	}
	MUST(!pthread_join(thread, NULL));
	MUST(!sigaction(SIGUSR1, &(struct sigaction){.sa_handler = SIG_DFL}, NULL));
	atomic_store(&held_fd, -1);
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_queue_pairs_that_go_away_complete_nothing);
	RUN(test_a_batch_whose_queue_pair_is_reset);
	RUN(test_what_the_peer_has_taken_completes_though_it_ends_the_connection_at_once);
	RUN(test_what_the_peer_has_taken_completes_though_there_is_no_room_for_what_it_sent);
	RUN(test_what_the_peer_has_not_taken_is_flushed);
	RUN(test_a_read_whose_memory_is_taken_back_before_its_turn);
	RUN(test_what_is_posted_while_older_requests_are_flushed_completes_behind_them);
	RUN(test_a_channel_destroyed_while_threads_wait_for_its_events);
	RUN(test_a_device_closed_while_a_thread_waits_for_its_events);
	return report();
}
