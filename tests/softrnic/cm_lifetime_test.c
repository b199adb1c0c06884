/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cm_lifetime_test.c -- ids, channels and processes that go away while something is under way.
 */
#include "cm_test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void *
acknowledge_late(void *argument)
{
	sleep_ms(100);
	rdma_ack_cm_event(argument);
	return NULL;
}

static void
test_destruction_waits_for_acknowledgements(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	union address target = address_of("127.0.0.1", 1);
	struct timespec from, to;
	pthread_t thread;
	MUST(!rdma_resolve_addr(id, NULL, &target.any, 100));
	struct rdma_cm_event *event = GET(channel, RDMA_CM_EVENT_ADDR_RESOLVED);
	clock_gettime(CLOCK_MONOTONIC, &from);
	MUST(!pthread_create(&thread, NULL, acknowledge_late, event));
	destroy(id);
	clock_gettime(CLOCK_MONOTONIC, &to);
	CHECK((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 >= 99, 1);
	pthread_join(thread, NULL);
	rdma_destroy_event_channel(channel);
}

/* Each way to stop, at every moment of a handshake. */
static void
test_destruction_at_awkward_moments(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener));
	for (int i = 0; i < 300; i++) {
		struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
		struct rdma_cm_id *passive = NULL;
		struct rdma_cm_event *event;
		start_connecting(active);
		if (i % 3) {
			passive = next_request(listener);
			MUST(!rdma_migrate_id(passive, new_channel()));
			CHECK(rdma_accept(passive, NULL), 0);
		}
		for (volatile int spin = i * 300; spin; spin--)
			;
		if (i % 5 == 0)
			(void)rdma_disconnect(active);
		if (i % 7 == 0 && passive)
			(void)rdma_disconnect(passive);
		if (i % 2)
			destroy_with_channel(active);
		if (passive)
			destroy_with_channel(passive);
		if (!(i % 2))
			destroy_with_channel(active);
		while (is_readable(listener->channel->fd, passive ? 0 : 5)) {
			MUST(!rdma_get_cm_event(listener->channel, &event));
			CHECK(event->event, RDMA_CM_EVENT_CONNECT_REQUEST);
			passive = event->id;
			rdma_ack_cm_event(event);
			destroy(passive);
		}
	}
	check_it_serves(listener);
	destroy_with_channel(listener);
}

/* ---- several threads ---- */

static void *
connect_often(void *argument)
{
	int port = *(int *)argument;
	for (int i = 0; i < 50; i++) {
		struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
		start_connecting(active);
		EXPECT(active, RDMA_CM_EVENT_ESTABLISHED, 0);
		if (i % 2) {
			CHECK(rdma_disconnect(active), 0);
			EXPECT(active, RDMA_CM_EVENT_DISCONNECTED, 0);
		}
		destroy_with_channel(active);
	}
	return NULL;
}

static void
test_clients_in_several_threads(void)
{
	enum { THREADS = 4, COUNT = 50 * THREADS };
	pthread_t threads[THREADS];
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener)), disconnected = 0;
	for (int i = 0; i < THREADS; i++)
		MUST(!pthread_create(&threads[i], NULL, connect_often, &port));
	while (disconnected < COUNT) {
		struct rdma_cm_event *event;
		MUST(is_readable(listener->channel->fd, PATIENCE_MS));
		MUST(!rdma_get_cm_event(listener->channel, &event));
		struct rdma_cm_id *id = event->id;
		enum rdma_cm_event_type type = event->event;
		rdma_ack_cm_event(event);
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
			add_qp(id);
			CHECK(rdma_accept(id, NULL), 0);
		} else if (type == RDMA_CM_EVENT_DISCONNECTED) {
			destroy(id);
			disconnected++;
		} else {
			CHECK(type, RDMA_CM_EVENT_ESTABLISHED);
		}
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	destroy_with_channel(listener);
}

/* Programs that have it the wrong way round. */
static void
test_an_id_destroyed_before_its_queue_pair(void)
{
	struct pair pair = new_pair("127.0.0.1");
	struct ibv_qp *qp = pair.active->qp;
	struct ibv_cq *cqs[] = {qp->send_cq, qp->recv_cq};
	struct ibv_comp_channel *channels[] = {pair.active->send_cq_channel,
					       pair.active->recv_cq_channel};
	struct rdma_event_channel *channel = pair.active->channel;
	CHECK(rdma_destroy_id(pair.active), 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	CHECK(rdma_disconnect(pair.passive), 0);
	destroy_with_channel(pair.passive);
	destroy_with_channel(pair.listener);
	sleep_ms(50); /* the stream has ended: that is nobody's business any more */
	CHECK(is_readable(channel->fd, 0), 0);
	CHECK(ibv_destroy_qp(qp), 0);
	for (int i = 0; i < 2; i++) {
		CHECK(ibv_destroy_cq(cqs[i]), 0);
		CHECK(ibv_destroy_comp_channel(channels[i]), 0);
	}
	rdma_destroy_event_channel(channel);
}

/* A queue pair that has been taken back serves another id: the old one's end is none of its own. */
static void
test_an_old_id_destroyed_while_its_queue_pair_serves_another(void)
{
	struct pair pair = new_pair("127.0.0.1");
	struct rdma_cm_id *old = pair.active, *old_passive = pair.passive;
	struct ibv_qp *qp = old->qp;
	struct ibv_cq *cqs[] = {qp->send_cq, qp->recv_cq};
	struct ibv_comp_channel *channels[] = {old->send_cq_channel, old->recv_cq_channel};
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
	CHECK(rdma_disconnect(old), 0);
	EXPECT(old, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(old_passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy_with_channel(old_passive);
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	attr.qp_state = IBV_QPS_INIT;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	int port = ntohs(rdma_get_src_port(pair.listener));
	pair.active = new_active(new_channel(), "127.0.0.1", port);
	struct ibv_qp *unused = pair.active->qp;
	pair.active->qp = qp;
	start_connecting(pair.active);
	pair.passive = next_request(pair.listener);
	MUST(!rdma_migrate_id(pair.passive, new_channel()));
	CHECK(rdma_accept(pair.passive, NULL), 0);
	EXPECT(pair.active, RDMA_CM_EVENT_ESTABLISHED, 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_ESTABLISHED, 0);

	old->qp = NULL;
	struct rdma_event_channel *channel = old->channel;
	CHECK(rdma_destroy_id(old), 0);
	rdma_destroy_event_channel(channel);
	CHECK(state_of(pair.active), IBV_QPS_RTS);
	CHECK(rdma_disconnect(pair.passive), 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(pair.active, RDMA_CM_EVENT_DISCONNECTED, 0);
	pair.active->qp = unused;
	CHECK(ibv_destroy_qp(qp), 0);
	for (int i = 0; i < 2; i++) {
		CHECK(ibv_destroy_cq(cqs[i]), 0);
		CHECK(ibv_destroy_comp_channel(channels[i]), 0);
	}
	destroy_pair(&pair);
}

static void
test_a_channel_destroyed_before_its_ids(void)
{
	struct pair pair = new_pair("127.0.0.1");
	rdma_destroy_event_channel(pair.active->channel);
	CHECK(rdma_disconnect(pair.passive), 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy(pair.active);
	destroy_with_channel(pair.passive);
	destroy_with_channel(pair.listener);
}

/*
 * A thread that has been woken by an event, which goes with its id; and then the channel goes. It
 * goes on waiting, as with a kernel's, until a signal interrupts it.
 */
static _Atomic int held_fd = -1, reads;
static sem_t has_been_woken, goes_on;

ssize_t
read(int fd, void *bytes, size_t size)
{
	if (fd == atomic_load(&held_fd))
		atomic_fetch_add(&reads, 1);
	ssize_t got = syscall(SYS_read, fd, bytes, size);
	if (got > 0 && fd == atomic_load(&held_fd)) {
		(void)sem_post(&has_been_woken);
		while (sem_wait(&goes_on))
			;
	}
	return got;
}

static void
on_signal(int number)
{
	(void)number;
}

static _Atomic bool has_returned;

static void *
wait_for_an_event(void *channel)
{
	struct rdma_cm_event *event;
	int ret = rdma_get_cm_event(channel, &event), failure = errno;
	CHECK(ret, -1);
	CHECK(failure, EINTR);
	atomic_store(&has_returned, true);
	return NULL;
}

static void
test_a_channel_destroyed_while_threads_wait_for_its_events(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	union address target = address_of("127.0.0.1", 1);
	pthread_t threads[2];
	MUST(!sigaction(SIGUSR1, &action, NULL));
	MUST(!sem_init(&has_been_woken, 0, 0) && !sem_init(&goes_on, 0, 0));
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *id = new_id(channel);
	atomic_store(&held_fd, channel->fd);
	for (int i = 0; i < 2; i++)
		MUST(!pthread_create(&threads[i], NULL, wait_for_an_event, channel));
	while (atomic_load(&reads) < 2)
		sched_yield();
	MUST(!rdma_resolve_addr(id, NULL, &target.any, 100));
	while (sem_wait(&has_been_woken))
		;
	destroy(id);
	rdma_destroy_event_channel(channel);
	MUST(!sem_post(&goes_on));
	sleep_ms(50);
	CHECK(atomic_load(&has_returned), false);
	for (int i = 0; i < 2; i++) {
		atomic_store(&has_returned, false);
		while (!atomic_load(&has_returned)) { /* it may not wait yet */
			(void)pthread_kill(threads[i], SIGUSR1);
			sleep_ms(1);
		}
		MUST(!pthread_join(threads[i], NULL));
	}
	atomic_store(&held_fd, -1);
}

/* ---- fork ---- */

static void
test_a_forked_child_is_told(void)
{
	struct pair pair = new_pair("127.0.0.1");
	pid_t child = fork();
	if (child == 0) {
		struct rdma_cm_id *id;
		bool told = rdma_create_id(pair.active->channel, &id, NULL, RDMA_PS_TCP) == -1 &&
			    errno == EPERM && rdma_disconnect(pair.active) == -1 &&
			    errno == EPERM && rdma_destroy_id(pair.active) == -1 &&
			    errno == EPERM && !rdma_create_event_channel();
		_exit(told ? 0 : 1);
	}
	int status = -1;
	waitpid(child, &status, 0);
	CHECK(status, 0);
	check_traffic(pair.active, pair.passive);
	/* The child is no reason for a connection, or a listener, to stay. */
	int lives[2];
	char byte;
	MUST(!pipe(lives));
	child = fork();
	if (child == 0) {
		(void)!write(lives[1], "", 1);
		pause();
		_exit(0);
	}
	CHECK(read(lives[0], &byte, 1), 1);
	close(lives[0]);
	close(lives[1]);
	int port = ntohs(rdma_get_src_port(pair.listener));
	destroy_with_channel(pair.listener);
	pair.listener = new_listener(new_channel(), "127.0.0.1", 0);
	struct rdma_cm_id *late = new_active(new_channel(), "127.0.0.1", port);
	start_connecting(late);
	EXPECT(late, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED);
	destroy_with_channel(late);
	CHECK(rdma_disconnect(pair.active), 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(pair.active, RDMA_CM_EVENT_DISCONNECTED, 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	destroy_pair(&pair);
}

/* What a child loses is the device's, not what came after it under the same number. */
static void
test_a_forked_child_keeps_the_programs_files(void)
{
	enum { COUNT = 32 };
	int files[COUNT], status = -1;
	struct pair pair = new_pair("127.0.0.1");
	start_connecting(new_active(pair.active->channel, "127.0.0.1", 1));
	struct rdma_cm_event *event = GET(pair.active->channel, RDMA_CM_EVENT_REJECTED);
	struct rdma_cm_id *refused = event->id;
	rdma_ack_cm_event(event);
	destroy(refused);
	CHECK(rdma_disconnect(pair.active), 0);
	EXPECT(pair.active, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(pair.passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy_pair(&pair);
	for (int i = 0; i < COUNT; i++)
		MUST((files[i] = dup(1)) >= 0);
	pid_t child = fork();
	if (child == 0) {
		int lost = 0;
		for (int i = 0; i < COUNT; i++)
			lost += fcntl(files[i], F_GETFD) < 0;
		_exit(lost);
	}
	waitpid(child, &status, 0);
	CHECK(status, 0);
	for (int i = 0; i < COUNT; i++)
		close(files[i]);
}

int
main(void)
{
	/* What is made once and stays. */
	struct pair pair = new_pair("127.0.0.1");
	destroy_pair(&pair);

	RUN(test_destruction_waits_for_acknowledgements);
	RUN(test_destruction_at_awkward_moments);
	RUN(test_clients_in_several_threads);
	RUN(test_an_id_destroyed_before_its_queue_pair);
	RUN(test_an_old_id_destroyed_while_its_queue_pair_serves_another);
	RUN(test_a_channel_destroyed_before_its_ids);
	RUN(test_a_channel_destroyed_while_threads_wait_for_its_events);
	RUN(test_a_forked_child_is_told);
	RUN(test_a_forked_child_keeps_the_programs_files);
	return report();
}
