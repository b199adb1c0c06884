/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device_cancel_test.c -- threads that are cancelled (pthread_cancel): they take nothing with them
 * that others need, whatever they were at.
 */
#include "device_test.h"

#include <signal.h>
#include <sys/wait.h>

#ifdef __SANITIZE_ADDRESS__
/*
 * What the sanitizer has marked on a thread's stack stays so when the thread is cancelled, and it
 * then takes its own call of sigaltstack() on that stack for an error.
 */
const char *__asan_default_options(void);

const char *
__asan_default_options(void)
{
	return "use_sigaltstack=0";
}
#endif

static void
cancel(pthread_t thread)
{
	void *returned;
	MUST(!pthread_cancel(thread));
	MUST(!pthread_join(thread, &returned));
	CHECK(returned == PTHREAD_CANCELED, 1);
}

static void
spin(int count)
{
	for (volatile int i = 0; i < count; i++)
		;
}

static void
send_one(struct side *from)
{
	struct ibv_sge sge = sge_of(from, 0, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, &sge, 1, NULL, 0);
	MUST(!post(from, &wr));
}

/* Nobody polls: the message gets there by itself, and so does what is said of it. */
static void
check_it_progresses(struct both *both)
{
	struct side *a = &both->a, *b = &both->b;
	struct ibv_cq *cq;
	void *context;
	CHECK(post_receive(b, 7, 0, 64), 0);
	CHECK(ibv_req_notify_cq(b->recv_cq, 0), 0);
	send_one(a);
	MUST(is_readable(b->channel->fd, PATIENCE_MS));
	MUST(!ibv_get_cq_event(b->channel, &cq, &context));
	ibv_ack_cq_events(cq, 1);
	TAKE_THIS(b->recv_cq, 7, IBV_WC_SUCCESS);
	TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
}

/* What the thread that is to be cancelled has got to. */
static _Atomic bool is_under_way;

static pthread_t
start(void *(*run)(void *), void *argument)
{
	pthread_t thread;
	atomic_store(&is_under_way, false);
	MUST(!pthread_create(&thread, NULL, run, argument));
	while (!atomic_load(&is_under_way))
		sched_yield();
	return thread;
}

/* ---- while they wait ---- */

static void *
wait_for_ever(void *opaque)
{
	struct side *side = opaque;
	struct ibv_cq *cq;
	void *context;
	for (;;) {
		MUST(!ibv_req_notify_cq(side->recv_cq, 0));
		atomic_store(&is_under_way, true);
		MUST(!ibv_get_cq_event(side->channel, &cq, &context));
		ibv_ack_cq_events(cq, 1);
	}
	return NULL;
}

static void
test_a_thread_that_waits_for_an_event(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_channel = true});
	for (int i = 0; i < 20; i++) {
		pthread_t thread = start(wait_for_ever, &both.b);
		sleep_ms(i % 4);
		cancel(thread);
		check_it_progresses(&both);
	}
	both_fini(&both);
}

static uint32_t
acknowledged(struct ibv_cq *cq)
{
	pthread_mutex_lock(&cq->mutex);
	uint32_t count = cq->comp_events_completed;
	pthread_mutex_unlock(&cq->mutex);
	return count;
}

/* The one that serves goes; the others have relied on it. */
static void
test_one_of_several_threads_that_wait(void)
{
	for (int i = 0; i < 10; i++) {
		struct both both;
		both_init(&both, &(struct options){.with_channel = true});
		struct side *a = &both.a, *b = &both.b;
		pthread_t serving = start(wait_for_ever, a);
		sleep_ms(2);
		pthread_t waiting = start(wait_for_ever, b);
		sleep_ms(2);
		cancel(serving);
		CHECK(post_receive(b, 7, 0, 64), 0);
		send_one(a);
		/* Nobody polls until the other thread has fetched the event, and waits again. */
		int64_t until = now_ms() + PATIENCE_MS;
		while (!acknowledged(b->recv_cq) && now_ms() < until)
			sleep_ms(1);
		cancel(waiting);
		CHECK(acknowledged(b->recv_cq), 1);
		TAKE_THIS(b->recv_cq, 7, IBV_WC_SUCCESS);
		TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
		both_fini(&both);
	}
}

static void *
wait_for_an_asynchronous_event(void *opaque)
{
	struct ibv_async_event event;
	atomic_store(&is_under_way, true);
	for (;;) {
		MUST(!ibv_get_async_event(((struct side *)opaque)->id->verbs, &event));
		ibv_ack_async_event(&event);
	}
	return NULL;
}

static void
test_a_thread_that_waits_for_an_asynchronous_event(void)
{
	struct both both;
	struct ibv_async_event event;
	both_init(&both, &(struct options){.with_srq = true});
	for (int i = 0; i < 20; i++) {
		pthread_t thread = start(wait_for_an_asynchronous_event, &both.b);
		sleep_ms(i % 4);
		cancel(thread);
	}
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	CHECK(ibv_modify_qp(both.b.qp, &attr, IBV_QP_STATE), 0);
	MUST(is_readable(both.b.id->verbs->async_fd, PATIENCE_MS));
	CHECK(ibv_get_async_event(both.b.id->verbs, &event), 0);
	CHECK(event.event_type, IBV_EVENT_QP_LAST_WQE_REACHED);
	ibv_ack_async_event(&event);
	both_fini(&both);
}

static void *
wait_for_a_connection(void *opaque)
{
	struct rdma_cm_id *listener = opaque;
	struct rdma_cm_event *event;
	atomic_store(&is_under_way, true);
	for (;;) {
		MUST(!rdma_get_cm_event(listener->channel, &event));
		rdma_ack_cm_event(event);
	}
	return NULL;
}

static void
test_a_thread_that_waits_for_a_connection(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	for (int i = 0; i < 20; i++) {
		pthread_t thread = start(wait_for_a_connection, listener);
		sleep_ms(i % 4);
		cancel(thread);
	}
	check_it_serves(listener);
	destroy_with_channel(listener);
}

/* ---- while they work: they go when they say so, pthread_testcancel() ---- */

static void *
poll_on_and_on(void *opaque)
{
	struct side *side = opaque;
	for (;;) {
		struct ibv_wc wc;
		int ret = ibv_poll_cq(side->recv_cq, 1, &wc);
		MUST(ret >= 0);
		if (ret)
			MUST(!post_receive(side, 7, 0, 64));
		atomic_store(&is_under_way, true);
		pthread_testcancel();
	}
	return NULL;
}

static void
test_a_thread_that_polls(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_channel = true});
	struct side *a = &both.a, *b = &both.b;
	for (int i = 0; i < 60; i++) {
		struct ibv_wc wc;
		MUST(!post_receive(b, 7, 0, 64));
		pthread_t thread = start(poll_on_and_on, b);
		send_one(a);
		spin(i * 200);
		cancel(thread);
		TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
		/* If the thread has got it, it has posted a receive in its place. */
		if (ibv_poll_cq(b->recv_cq, 1, &wc) == 0) {
			send_one(a);
			TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
			TAKE_THIS(b->recv_cq, 7, IBV_WC_SUCCESS);
		}
	}
	check_it_progresses(&both);
	both_fini(&both);
}

static void *
post_on_and_on(void *opaque)
{
	struct both *both = opaque;
	struct side *a = &both->a;
	for (;;) {
		struct ibv_sge sge = sge_of(a, 0, 3000);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 3, &sge, 1, &both->b, 0);
		struct ibv_wc wc;
		int ret = post(a, &wr);
		MUST(!ret || ret == ENOMEM);
		ret = ibv_poll_cq(a->send_cq, 1, &wc);
		MUST(ret >= 0);
		atomic_store(&is_under_way, true);
		pthread_testcancel();
	}
	return NULL;
}

static void
test_a_thread_that_posts(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_channel = true});
	struct side *a = &both.a;
	for (int i = 0; i < 40; i++) {
		pthread_t thread = start(post_on_and_on, &both);
		spin(i * 500);
		cancel(thread);
		/* What it has posted completes. */
		struct ibv_sge sge = sge_of(a, 0, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_READ, 4, &sge, 1, &both.b, 0);
		int64_t until = now_ms() + PATIENCE_MS;
		while (post(a, &wr) == ENOMEM) {
			struct ibv_wc wc;
			(void)ibv_poll_cq(a->send_cq, 1, &wc);
			MUST(now_ms() < until);
		}
		while (TAKE(a->send_cq).wr_id != 4)
			;
	}
	check_it_progresses(&both);
	both_fini(&both);
}

static void *
register_on_and_on(void *opaque)
{
	struct side *side = opaque;
	for (;;) {
		struct ibv_mr *mr = ibv_reg_mr(side->pd, side->bytes, 64, 0);
		struct ibv_comp_channel *channel = ibv_create_comp_channel(side->id->verbs);
		MUST(mr && channel);
		MUST(!ibv_dereg_mr(mr));
		MUST(!ibv_destroy_comp_channel(channel));
		atomic_store(&is_under_way, true);
		pthread_testcancel();
	}
	return NULL;
}

static void
test_a_thread_that_registers_memory(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_channel = true});
	for (int i = 0; i < 40; i++) {
		pthread_t thread = start(register_on_and_on, &both.a);
		spin(i * 200);
		cancel(thread);
	}
	check_it_progresses(&both);
	both_fini(&both);
}

static void *
connect_on_and_on(void *opaque)
{
	int port = *(int *)opaque;
	for (;;) {
		struct rdma_cm_id *id = new_id(new_channel());
		union address target = address_of("127.0.0.1", port);
		int previous;
		MUST(!rdma_resolve_addr(id, NULL, &target.any, 1000));
		MUST(!rdma_resolve_route(id, 1000));
		add_qp(id);
		start_connecting(id);
		/* What it would lose, cancelled in its wait. */
		MUST(!pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &previous));
		EXPECT(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
		EXPECT(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
		MUST(!pthread_setcancelstate(previous, NULL));
		destroy_with_channel(id);
		atomic_store(&is_under_way, true);
		pthread_testcancel();
	}
	return NULL;
}

static void
test_a_thread_that_connects(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener));
	for (int i = 0; i < 40; i++) {
		pthread_t thread = start(connect_on_and_on, &port);
		spin(i * 500);
		cancel(thread);
	}
	struct rdma_event_channel *channel = listener->channel;
	destroy(listener);
	listener = new_listener(channel, "127.0.0.1", 0);
	check_it_serves(listener);
	destroy_with_channel(listener);
}

/* Its wait for an acknowledgement ends when that comes, not before: nothing is half destroyed. */
static void *
destroy_it(void *opaque)
{
	CHECK(rdma_destroy_id(opaque), 0);
	pthread_testcancel();
	return NULL;
}

static void
test_a_thread_that_destroys(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	union address target = address_of("127.0.0.1", 1);
	pthread_t thread;
	void *returned;
	MUST(!rdma_resolve_addr(id, NULL, &target.any, 100));
	struct rdma_cm_event *event = GET(channel, RDMA_CM_EVENT_ADDR_RESOLVED);
	MUST(!pthread_create(&thread, NULL, destroy_it, id));
	sleep_ms(20);
	MUST(!pthread_cancel(thread));
	sleep_ms(20);
	CHECK(rdma_ack_cm_event(event), 0);
	MUST(!pthread_join(thread, &returned));
	CHECK(returned == PTHREAD_CANCELED, 1);
	rdma_destroy_event_channel(channel);
}

int
main(void)
{
	/* A process each: what one has lost is not to be missed by the others. */
	static void (*const tests[])(void) = {
		test_a_thread_that_waits_for_an_event,
		test_one_of_several_threads_that_wait,
		test_a_thread_that_waits_for_an_asynchronous_event,
		test_a_thread_that_waits_for_a_connection,
		test_a_thread_that_polls,
		test_a_thread_that_posts,
		test_a_thread_that_registers_memory,
		test_a_thread_that_connects,
		test_a_thread_that_destroys,
	};
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		int status;
		pid_t child = fork();
		MUST(child >= 0);
		if (child == 0) {
			failures = 0;
			alarm(60);
			tests[i]();
			fflush(stdout);
			exit(failures != 0);
		}
		MUST(waitpid(child, &status, 0) == child);
		if (status)
			printf("test %zu\n", i);
		CHECK(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), 0);
	}
	return report();
}
