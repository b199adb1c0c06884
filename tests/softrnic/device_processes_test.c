/* SPDX-License-Identifier: BSD-3-Clause */
/* device_processes_test.c -- two processes, and children of one that uses the device. */
#include "device_test.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- a pair of processes ---- */

static int
read_int(int fd)
{
	int value = -1;
	MUST(read(fd, &value, sizeof(value)) == sizeof(value));
	return value;
}

static void
write_int(int fd, int value)
{
	MUST(write(fd, &value, sizeof(value)) == sizeof(value));
}

struct remote {
	uint64_t address;
	uint32_t key;
};

/* A child that listens, does something with its side, and exits with the number of failures. */
static pid_t
start_child(void (*serve)(struct side *, const struct remote *, int), int kind, int *port,
	    const struct options *options)
{
	int fds[2];
	MUST(!pipe(fds));
	pid_t child = fork();
	MUST(child >= 0);
	if (child == 0) {
		struct side side;
		struct remote remote;
		struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
		close(fds[0]);
		write_int(fds[1], ntohs(rdma_get_src_port(listener)));
		accept_side(&side, listener, options);
		EXPECT(side.id, RDMA_CM_EVENT_ESTABLISHED, 0);
		/* Where to write to: by a message each. */
		memcpy(side.bytes, &(struct remote){(uintptr_t)side.bytes, side.mr->rkey},
		       sizeof(remote));
		CHECK(post_receive(&side, 0, 64, sizeof(remote)), 0);
		struct ibv_sge sge = sge_of(&side, 0, sizeof(remote));
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 0, &sge, 1, NULL, 0);
		CHECK(post(&side, &wr), 0);
		TAKE_THIS(side.recv_cq, 0, IBV_WC_SUCCESS);
		TAKE_THIS(side.send_cq, 0, IBV_WC_SUCCESS);
		memcpy(&remote, side.bytes + 64, sizeof(remote));
		serve(&side, &remote, kind);
		side_end(&side);
		destroy_with_channel(listener);
		fflush(stdout);
		exit(failures != 0);
	}
	close(fds[1]);
	*port = read_int(fds[0]);
	close(fds[0]);
	return child;
}

static void
meet(struct side *side, int port, struct remote *remote, const struct options *options)
{
	connect_side(side, port, options);
	memcpy(side->bytes, &(struct remote){(uintptr_t)side->bytes, side->mr->rkey},
	       sizeof(*remote));
	CHECK(post_receive(side, 0, 64, sizeof(*remote)), 0);
	EXPECT(side->id, RDMA_CM_EVENT_ESTABLISHED, 0);
	struct ibv_sge sge = sge_of(side, 0, sizeof(*remote));
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 0, &sge, 1, NULL, 0);
	CHECK(post(side, &wr), 0);
	TAKE_THIS(side->recv_cq, 0, IBV_WC_SUCCESS);
	TAKE_THIS(side->send_cq, 0, IBV_WC_SUCCESS);
	memcpy(remote, side->bytes + 64, sizeof(*remote));
}

static void
check_child(pid_t child)
{
	int status;
	MUST(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), 0);
}

/* ---- everything once, between two processes ---- */

static void
serve_all_kinds(struct side *side, const struct remote *remote, int kind)
{
	(void)remote, (void)kind;
	/* Everything is done to it; it sees it by the messages between. */
	CHECK(post_receive(side, 1, 1 << 20, 1 << 20), 0);
	CHECK(post_receive(side, 2, 0, 0), 0);
	CHECK(TAKE_THIS(side->recv_cq, 1, IBV_WC_SUCCESS).byte_len, 500000);
	CHECK_FILLED(side->bytes + (1 << 20), 500000, 3);
	CHECK_FILLED(side->bytes + 4096, 300000, 2);
	CHECK(ntohl(TAKE_THIS(side->recv_cq, 2, IBV_WC_SUCCESS).imm_data), 99);
	CHECK(*(uint64_t *)(side->bytes + 1024), 10);
	EXPECT(side->id, RDMA_CM_EVENT_DISCONNECTED, 0);
}

static void
test_two_processes(void)
{
	struct options options = {.size = 4 << 20};
	struct side side;
	struct remote remote;
	int port;
	pid_t child = start_child(serve_all_kinds, 0, &port, &options);
	meet(&side, port, &remote, &options);
	struct ibv_sge sge = sge_of(&side, 0, 300000);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, NULL, 0);
	wr.wr.rdma.remote_addr = remote.address + 4096;
	wr.wr.rdma.rkey = remote.key;
	fill(side.bytes, 300000, 2);
	CHECK(post(&side, &wr), 0);
	TAKE_THIS(side.send_cq, 1, IBV_WC_SUCCESS);
	memset(side.bytes, 0, 300000);
	wr.opcode = IBV_WR_RDMA_READ;
	CHECK(post(&side, &wr), 0);
	TAKE_THIS(side.send_cq, 1, IBV_WC_SUCCESS);
	CHECK_FILLED(side.bytes, 300000, 2);
	sge.length = 8;
	for (int i = 0; i < 10; i++) {
		wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, 2, &sge, 1, &side, 0);
		wr.wr.atomic.remote_addr = remote.address + 1024;
		wr.wr.atomic.rkey = remote.key;
		wr.wr.atomic.compare_add = 1;
		CHECK(post(&side, &wr), 0);
	}
	for (int i = 0; i < 10; i++)
		TAKE_THIS(side.send_cq, 2, IBV_WC_SUCCESS);
	CHECK(*(uint64_t *)side.bytes, 9);
	fill(side.bytes, 500000, 3);
	sge.length = 500000;
	wr = wr_of(IBV_WR_SEND, 3, &sge, 1, NULL, 0);
	CHECK(post(&side, &wr), 0);
	wr.opcode = IBV_WR_SEND_WITH_IMM;
	wr.imm_data = htonl(99);
	wr.num_sge = 0;
	CHECK(post(&side, &wr), 0);
	TAKE_THIS(side.send_cq, 3, IBV_WC_SUCCESS);
	TAKE_THIS(side.send_cq, 3, IBV_WC_SUCCESS);
	side_end(&side);
	check_child(child);
}

/* ---- acknowledgements, whatever the program does ---- */

enum { ROUNDS = 250, RECEIVES = 32, LAST = 0xffff };

enum manner {
	POLLS_AND_SLEEPS,
	POLLS_THE_CHANNEL,
	WAITS_FOR_EVENTS,
	TAKES_IN_THREADS_THAT_END,
	SPINS_ON_MEMORY
};

struct taker {
	struct side *side;
	struct ibv_wc wc;
};

static void *
take_one(void *argument)
{
	struct taker *taker = argument;
	taker->wc = TAKE(taker->side->recv_cq);
	return NULL;
}

static struct ibv_wc
take_in_a_manner(struct side *side, int manner, uint32_t *random)
{
	struct ibv_wc wc;
	struct taker taker = {.side = side};
	pthread_t thread;
	struct ibv_cq *cq;
	void *context;
	int64_t until = now_ms() + PATIENCE_MS;
	switch (manner) {
	case POLLS_THE_CHANNEL:
	case WAITS_FOR_EVENTS:
		for (int i = 0; i < (int)(next_random(random) % 100); i++) {
			if (ibv_poll_cq(side->recv_cq, 1, &wc) == 1)
				return wc;
		}
		for (;;) {
			CHECK(ibv_req_notify_cq(side->recv_cq, 0), 0);
			if (ibv_poll_cq(side->recv_cq, 1, &wc) == 1)
				return wc;
			if (manner == POLLS_THE_CHANNEL)
				MUST(is_readable(side->channel->fd, PATIENCE_MS));
			MUST(!ibv_get_cq_event(side->channel, &cq, &context));
			ibv_ack_cq_events(cq, 1);
			if (ibv_poll_cq(side->recv_cq, 1, &wc) == 1)
				return wc;
		}
	case TAKES_IN_THREADS_THAT_END:
		MUST(!pthread_create(&thread, NULL, take_one, &taker));
		pthread_join(thread, NULL);
		return taker.wc;
	default:
		while (ibv_poll_cq(side->recv_cq, 1, &wc) != 1) {
			if (next_random(random) % 4 == 0)
				nanosleep(&(struct timespec){0, next_random(random) % 300000},
					  NULL);
			if (now_ms() > until)
				give_up(__LINE__, "a message");
		}
		return wc;
	}
}

static void
reply(struct side *side, const struct remote *remote, uint32_t round)
{
	struct ibv_sge sge = sge_of(side, 128, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, NULL, 0);
	*(uint64_t *)(side->bytes + 128) = round;
	wr.send_flags = IBV_SEND_INLINE;
	wr.wr.rdma.remote_addr = remote->address + 1024;
	wr.wr.rdma.rkey = remote->key;
	while (post(side, &wr) == ENOMEM)
		sched_yield();
}

static void
serve_in_a_manner(struct side *side, const struct remote *remote, int manner)
{
	uint32_t random = 99, round = 0;
	if (manner == SPINS_ON_MEMORY) {
		_Atomic uint64_t *word = (_Atomic uint64_t *)(side->bytes + 1024);
		int64_t until = now_ms() + 4 * PATIENCE_MS;
		while (round < ROUNDS) {
			/* The next may come before this thread has seen the last. */
			if (atomic_load(word) <= round) {
				if (now_ms() > until)
					give_up(__LINE__, "a word");
				continue;
			}
			round = (uint32_t)atomic_load(word);
			if (round % 3)
				reply(side, remote, round);
		}
		EXPECT(side->id, RDMA_CM_EVENT_DISCONNECTED, 0);
		return;
	}
	for (uint64_t i = 0; i < RECEIVES; i++)
		CHECK(post_receive(side, 1, 0, 0), 0);
	while (round != LAST) {
		struct ibv_wc wc = take_in_a_manner(side, manner, &random);
		CHECK(wc.status, IBV_WC_SUCCESS);
		CHECK(post_receive(side, 1, 0, 0), 0);
		round = ntohl(wc.imm_data);
		if (round % 3)
			reply(side, remote, round);
		/* And then it does something else, if anything. */
		if (round % 5 == 0)
			nanosleep(&(struct timespec){0, next_random(&random) % 3000000}, NULL);
	}
	EXPECT(side->id, RDMA_CM_EVENT_DISCONNECTED, 0);
}

static void
acknowledgements_come(int manner)
{
	struct options options = {.with_channel = true};
	struct side side;
	struct remote remote;
	int port;
	uint32_t random = 3;
	int64_t longest = 0;
	pid_t child = start_child(serve_in_a_manner, manner, &port, &options);
	meet(&side, port, &remote, &options);
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		struct ibv_sge sge = sge_of(&side, 256, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE_WITH_IMM, i, &sge, 1, NULL, 0);
		struct ibv_cq *cq;
		void *context;
		*(uint64_t *)(side.bytes + 256) = i;
		wr.imm_data = htonl(i == ROUNDS ? LAST : i);
		if (manner == SPINS_ON_MEMORY)
			wr.opcode = IBV_WR_RDMA_WRITE;
		wr.wr.rdma.remote_addr = remote.address + 1024;
		wr.wr.rdma.rkey = remote.key;
		int64_t before = now_ms();
		if (i % 4 == 0)
			CHECK(ibv_req_notify_cq(side.send_cq, 0), 0);
		CHECK(post(&side, &wr), 0);
		if (i % 4 == 0) {
			MUST(is_readable(side.channel->fd, PATIENCE_MS));
			MUST(!ibv_get_cq_event(side.channel, &cq, &context));
			ibv_ack_cq_events(cq, 1);
		}
		TAKE_THIS(side.send_cq, i, IBV_WC_SUCCESS);
		if (now_ms() - before > longest)
			longest = now_ms() - before;
		if (i % 7 == 0)
			nanosleep(&(struct timespec){0, next_random(&random) % 1000000}, NULL);
	}
	/* A lost one never comes, or with the next; a busy machine is slow, too. */
	if (longest > 1000)
		printf("manner %d: %lld ms\n", manner, (long long)longest);
	CHECK(longest <= 1000, 1);
	side_end(&side);
	check_child(child);
}

static void
test_acknowledgements_come_from_one_that_polls_and_sleeps(void)
{
	acknowledgements_come(POLLS_AND_SLEEPS);
}

static void
test_acknowledgements_come_from_one_that_polls_the_channel(void)
{
	acknowledgements_come(POLLS_THE_CHANNEL);
}

static void
test_acknowledgements_come_from_one_that_waits_for_events(void)
{
	acknowledgements_come(WAITS_FOR_EVENTS);
}

static void
test_acknowledgements_come_from_threads_that_end(void)
{
	acknowledgements_come(TAKES_IN_THREADS_THAT_END);
}

static void
test_acknowledgements_come_from_one_that_spins_on_memory(void)
{
	acknowledgements_come(SPINS_ON_MEMORY);
}

/* ---- a stream, between two that sleep ---- */

enum { MESSAGES = 4000, WINDOW = 32, CREDIT = WINDOW / 4 };

enum sleeper { SLEEPS, SLEEPS_LATE, SLEEPS_BESIDE_A_POLLER };

struct counts {
	uint32_t sent, received; /* as completions say */
};

/* Arm it, and take all that it has: what comes later is an event. */
static void
arm_and_take(struct side *side, struct ibv_cq *cq, struct counts *counts)
{
	struct ibv_wc wc;
	CHECK(ibv_req_notify_cq(cq, 0), 0);
	while (ibv_poll_cq(cq, 1, &wc) == 1) {
		CHECK(wc.status, IBV_WC_SUCCESS);
		if (cq == side->send_cq) {
			counts->sent = (uint32_t)wc.wr_id;
		} else {
			counts->received++;
			CHECK(post_receive(side, 1, 4096, 4096), 0);
		}
	}
}

static void
sleep_and_take(struct side *side, struct counts *counts)
{
	struct ibv_cq *cq;
	void *context;
	while (ibv_get_cq_event(side->channel, &cq, &context))
		MUST(errno == EINTR); /* some run-time library has handlers of its own */
	ibv_ack_cq_events(cq, 1);
	arm_and_take(side, cq, counts);
}

static _Atomic bool stops_polling;

static void *
poll_what_was_sent(void *argument)
{
	struct side *side = argument;
	struct ibv_wc wc;
	/* The last may be flushed: the other side leaves once it has them. */
	while (!atomic_load(&stops_polling))
		MUST(ibv_poll_cq(side->send_cq, 1, &wc) >= 0);
	return NULL;
}

/* It gives credit by messages: the other side sleeps, and a Write would be no event there. */
static void
take_stream(struct side *side, const struct remote *remote, int sleeper)
{
	struct counts counts = {0};
	uint32_t random = 5, told = 0;
	pthread_t poller;
	(void)remote;
	alarm(100); /* with an event lost it sleeps for ever */
	for (int i = 0; i < WINDOW; i++)
		CHECK(post_receive(side, 1, 4096, 4096), 0);
	arm_and_take(side, side->recv_cq, &counts);
	if (sleeper == SLEEPS_BESIDE_A_POLLER)
		MUST(!pthread_create(&poller, NULL, poll_what_was_sent, side));
	else
		arm_and_take(side, side->send_cq, &counts);
	for (;;) {
		for (; told < counts.received / CREDIT; told++) {
			struct ibv_send_wr wr = wr_of(IBV_WR_SEND, told + 1, NULL, 0, NULL, 0);
			CHECK(post(side, &wr), 0);
		}
		if (told == MESSAGES / CREDIT)
			break;
		if (sleeper == SLEEPS_LATE && next_random(&random) % 8 == 0)
			nanosleep(&(struct timespec){0, next_random(&random) % 1000000}, NULL);
		sleep_and_take(side, &counts);
	}
	CHECK(counts.received, MESSAGES);
	EXPECT(side->id, RDMA_CM_EVENT_DISCONNECTED, 0);
	atomic_store(&stops_polling, true);
	if (sleeper == SLEEPS_BESIDE_A_POLLER)
		pthread_join(poller, NULL);
}

static void
stream_to(enum sleeper sleeper)
{
	struct options options = {.with_channel = true, .send_wr = 4 * WINDOW};
	struct side side;
	struct remote remote;
	struct counts counts = {0};
	int port;
	uint32_t random = 7, posted = 0;
	pid_t child = start_child(take_stream, (int)sleeper, &port, &options);
	meet(&side, port, &remote, &options);
	for (int i = 0; i < WINDOW; i++)
		CHECK(post_receive(&side, 1, 4096, 4096), 0);
	arm_and_take(&side, side.send_cq, &counts);
	arm_and_take(&side, side.recv_cq, &counts);
	while (counts.sent < MESSAGES || counts.received < MESSAGES / CREDIT) {
		while (posted < MESSAGES && posted < counts.received * CREDIT + WINDOW) {
			struct ibv_sge sge = sge_of(&side, 0, 1 + next_random(&random) % 2000);
			struct ibv_send_wr wr = wr_of(IBV_WR_SEND, ++posted, &sge, 1, NULL, 0);
			if (posted % 12 && posted != MESSAGES)
				wr.send_flags = 0;
			CHECK(post(&side, &wr), 0);
		}
		sleep_and_take(&side, &counts);
	}
	CHECK(counts.received, MESSAGES / CREDIT);
	side_end(&side);
	check_child(child);
}

static void
test_a_stream_to_one_that_sleeps(void)
{
	stream_to(SLEEPS);
}

static void
test_a_stream_to_one_that_is_late(void)
{
	stream_to(SLEEPS_LATE);
}

static void
test_a_stream_to_one_that_sleeps_beside_a_poller(void)
{
	stream_to(SLEEPS_BESIDE_A_POLLER);
}

/* ---- fork ---- */

/* ---- signals while a thread sleeps for an event ---- */

static _Atomic int signals_met;

static void
meet_signal(int number)
{
	(void)number;
	atomic_fetch_add(&signals_met, 1);
}

/* Whoever stops and continues this process three times, then has it meet a signal. */
static pid_t
disturb(int number)
{
	pid_t child = fork();
	MUST(child >= 0);
	if (child)
		return child;
	for (int i = 0; i < 3; i++) {
		nanosleep(&(struct timespec){0, 50000000}, NULL);
		MUST(!kill(getppid(), SIGSTOP));
		nanosleep(&(struct timespec){0, 50000000}, NULL);
		MUST(!kill(getppid(), SIGCONT));
	}
	nanosleep(&(struct timespec){0, 50000000}, NULL);
	MUST(!kill(getppid(), number));
	_exit(0);
}

static void *
post_late(void *opaque)
{
	struct side *side = opaque;
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, NULL, 0, NULL, 0);
	nanosleep(&(struct timespec){0, 700000000}, NULL);
	CHECK(post(side, &wr), 0);
	return NULL;
}

/* Whether it was interrupted. */
static bool
sleep_for_event(struct side *side)
{
	struct ibv_cq *cq;
	void *context;
	MUST(!ibv_req_notify_cq(side->recv_cq, 0));
	if (ibv_get_cq_event(side->channel, &cq, &context)) {
		CHECK(errno, EINTR);
		return true;
	}
	ibv_ack_cq_events(cq, 1);
	return false;
}

static void
sleep_through_signals(int flags, bool is_interrupted)
{
	struct both both;
	both_init(&both, &(struct options){.with_channel = true});
	struct sigaction action = {.sa_handler = meet_signal, .sa_flags = flags};
	MUST(!sigaction(SIGUSR1, &action, NULL));
	CHECK(post_receive(&both.b, 2, 0, 0), 0);
	pthread_t poster;
	sigset_t usr1;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	MUST(!pthread_sigmask(SIG_BLOCK, &usr1, NULL)); /* the signal is this thread's */
	pid_t child = disturb(SIGUSR1);
	MUST(!pthread_create(&poster, NULL, post_late, &both.a));
	MUST(!pthread_sigmask(SIG_UNBLOCK, &usr1, NULL));
	bool interrupted = sleep_for_event(&both.b);
	while (interrupted && is_interrupted && !atomic_load(&signals_met)) /* by being stopped */
		interrupted = sleep_for_event(&both.b);
	CHECK(interrupted, is_interrupted);
	CHECK(atomic_load(&signals_met), 1);
	pthread_join(poster, NULL);
	TAKE_THIS(both.b.recv_cq, 2, IBV_WC_SUCCESS);
	check_child(child);
	both_fini(&both);
}

static void
test_a_sleeper_is_interrupted_by_a_handler(void)
{
	sleep_through_signals(0, true);
}

static void
test_a_sleeper_sleeps_on_where_a_read_would(void)
{
	sleep_through_signals(SA_RESTART, false);
}

static void
test_children_of_a_process_with_connections(void)
{
	struct both both;
	int fds[2];
	both_init(&both, &(struct options){.with_channel = true, .with_srq = true, .is_ex = true});
	struct side *a = &both.a, *b = &both.b;
	MUST(!pipe(fds));
	pid_t child = fork();
	MUST(child >= 0);
	if (child == 0) {
		/* Memory is its own; the device is not. */
		memset(a->bytes, 0xee, a->size);
		struct ibv_wc wc;
		struct ibv_cq *cq;
		void *context;
		struct ibv_async_event event;
		struct ibv_sge sge = sge_of(a, 0, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 0);
		CHECK(post(a, &wr), EPERM);
		CHECK(post_receive(a, 1, 0, 8), EPERM);
		CHECK(ibv_poll_cq(a->send_cq, 1, &wc), -EPERM);
		CHECK(ibv_req_notify_cq(a->send_cq, 0), EPERM);
		CHECK_FAILS(ibv_get_cq_event(a->channel, &cq, &context), EPERM);
		CHECK_FAILS(ibv_get_async_event(a->id->verbs, &event), EPERM);
		struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(a->qp);
		ibv_wr_start(ex);
		ibv_wr_rdma_write(ex, b->mr->rkey, (uintptr_t)b->bytes);
		ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes, 8);
		CHECK(ibv_wr_complete(ex), EPERM);
		CHECK(ibv_reg_mr(a->pd, a->bytes, 8, 0) == NULL, 1);
		CHECK(errno, EPERM);
		CHECK(ibv_create_cq(a->id->verbs, 8, NULL, NULL, 0) == NULL, 1);
		CHECK(errno, EPERM);
		CHECK(ibv_alloc_pd(a->id->verbs) == NULL, 1);
		struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
		CHECK(ibv_modify_qp(a->qp, &attr, IBV_QP_STATE), EPERM);
		CHECK(ibv_resize_cq(a->send_cq, 100), EPERM);
		CHECK(ibv_destroy_qp(a->qp), EPERM);
		CHECK(ibv_destroy_srq(a->srq), EPERM);
		CHECK(ibv_destroy_cq(a->send_cq), EPERM);
		CHECK(ibv_dereg_mr(a->mr), EPERM);
		CHECK(ibv_dealloc_pd(a->pd), EPERM);
		CHECK_FAILS(rdma_disconnect(a->id), EPERM);
		CHECK(rdma_create_event_channel() == NULL, 1);
		fflush(stdout);
		write_int(fds[1], failures);
		for (;;) /* it lives on, with copies of all descriptors that it has not closed */
			pause();
	}
	CHECK(read_int(fds[0]), 0);
	/* The parent has not noticed. */
	struct ibv_sge sge = sge_of(a, 0, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 0);
	fill(a->bytes, 8, 1);
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
	CHECK_FILLED(b->bytes, 8, 1);
	both_fini(&both);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(fds[0]);
	close(fds[1]);
}

/* ---- a child of a process whose other threads hold locks ---- */

/* What a thread reads, or writes, under a lock: it stays there until this is made accessible. */
static char *forbidden;
static _Atomic int blocked;
static int may_go_on[2];

static void
wait_at_the_fault(int number)
{
	char byte;
	(void)number;
	atomic_fetch_add(&blocked, 1);
	MUST(read(may_go_on[0], &byte, 1) == 1);
	MUST(!mprotect(forbidden, 4096, PROT_READ | PROT_WRITE));
}

static void *
poll_into_what_is_forbidden(void *opaque)
{
	struct side *side = opaque;
	CHECK(ibv_poll_cq(side->send_cq, 1, (struct ibv_wc *)forbidden), 1);
	return NULL;
}

static void *
post_what_is_forbidden(void *opaque)
{
	struct side *side = opaque;
	struct ibv_recv_wr *bad, wr = {.sg_list = (struct ibv_sge *)forbidden, .num_sge = 1};
	CHECK(ibv_post_srq_recv(side->srq, &wr, &bad), 0);
	return NULL;
}

static void *
begin_a_batch(void *opaque)
{
	struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(((struct side *)opaque)->qp);
	char byte;
	ibv_wr_start(ex);
	atomic_fetch_add(&blocked, 1);
	MUST(read(may_go_on[0], &byte, 1) == 1);
	ibv_wr_abort(ex);
	return NULL;
}

static void
check_child_while(void *(*hold)(void *), struct side *side)
{
	pthread_t thread;
	MUST(!mprotect(forbidden, 4096, PROT_NONE));
	atomic_store(&blocked, 0);
	MUST(!pthread_create(&thread, NULL, hold, side));
	while (!atomic_load(&blocked))
		sched_yield();
	pid_t child = fork();
	MUST(child >= 0);
	if (child == 0) {
		struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(side->qp);
		struct ibv_srq_attr attr;
		struct ibv_wc wc;
		alarm(10);
		CHECK(ibv_poll_cq(side->send_cq, 1, &wc), -EPERM);
		CHECK(ibv_poll_cq(side->recv_cq, 1, &wc), -EPERM);
		ibv_wr_start(ex);
		ibv_wr_send(ex);
		ibv_wr_set_sge(ex, side->mr->lkey, (uintptr_t)side->bytes, 8);
		CHECK(ibv_wr_complete(ex), EPERM);
		ibv_wr_start(ex);
		ibv_wr_abort(ex);
		CHECK(ibv_query_srq(side->srq, &attr), EPERM);
		CHECK(post_receive(side, 1, 0, 8), EPERM);
		fflush(stdout);
		_exit(failures != 0);
	}
	check_child(child);
	MUST(write(may_go_on[1], "", 1) == 1);
	pthread_join(thread, NULL);
}

static void
test_children_of_a_process_whose_locks_are_held(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_srq = true, .is_ex = true});
	struct ibv_sge sge = sge_of(&both.a, 0, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, &both.b, 0);
	forbidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(forbidden != MAP_FAILED && !pipe(may_go_on));
	struct sigaction action = {.sa_handler = wait_at_the_fault};
	MUST(!sigaction(SIGSEGV, &action, NULL));
	CHECK(post(&both.a, &wr), 0);
	CHECK(post(&both.a, &wr), 0);
	/* Both are there: a poll finds the first without looking at the sockets. */
	TAKE_THIS(both.a.send_cq, 1, IBV_WC_SUCCESS);
	sleep_ms(50);
	check_child_while(poll_into_what_is_forbidden, &both.a);
	check_child_while(begin_a_batch, &both.a);
	check_child_while(post_what_is_forbidden, &both.a);
	MUST(signal(SIGSEGV, SIG_DFL) != SIG_ERR);
	both_fini(&both);
}

/* Becomes readable when both sides have met: until then an acknowledgement may be owed. */
static int have_met[2];

/* It dies while a child of its own lives on: its peer gets to know all the same. */
static void
serve_and_die(struct side *side, const struct remote *remote, int fd)
{
	(void)remote, (void)side;
	pid_t grandchild = fork();
	MUST(grandchild >= 0);
	if (grandchild == 0) {
		for (;;)
			pause();
	}
	write_int(fd, grandchild);
	(void)read_int(have_met[0]);
	raise(SIGKILL);
}

static void
test_a_peer_that_dies_while_its_child_lives(void)
{
	struct options options = {0};
	struct side side;
	struct remote remote;
	int port, fds[2];
	MUST(!pipe(fds) && !pipe(have_met));
	pid_t child = start_child(serve_and_die, fds[1], &port, &options);
	meet(&side, port, &remote, &options);
	CHECK(post_receive(&side, 1, 0, 8), 0);
	write_int(have_met[1], 1);
	pid_t grandchild = read_int(fds[0]);
	TAKE_THIS(side.recv_cq, 1, IBV_WC_WR_FLUSH_ERR);
	EXPECT(side.id, RDMA_CM_EVENT_DISCONNECTED, 0);
	CHECK(kill(grandchild, 0), 0);
	kill(grandchild, SIGKILL);
	waitpid(child, NULL, 0);
	side_end(&side);
	close(fds[0]);
	close(fds[1]);
}

/* Many children while traffic runs: none of them hangs on a lock that nobody holds any more. */
static void *
write_on_and_on(void *argument)
{
	struct both *both = argument;
	for (uint64_t i = 0; i < 2000; i++) {
		struct ibv_sge sge = sge_of(&both->a, 0, 100);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, i, &sge, 1, &both->b, 0);
		CHECK(post(&both->a, &wr), 0);
		TAKE_THIS(both->a.send_cq, i, IBV_WC_SUCCESS);
	}
	return NULL;
}

static void
test_children_while_traffic_runs(void)
{
	struct both both;
	pthread_t thread;
	both_init(&both, NULL);
	MUST(!pthread_create(&thread, NULL, write_on_and_on, &both));
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();
		MUST(child >= 0);
		if (child == 0) {
			struct ibv_wc wc;
			CHECK(ibv_poll_cq(both.b.send_cq, 1, &wc), -EPERM);
			CHECK(ibv_destroy_qp(both.a.qp), EPERM);
			CHECK(rdma_destroy_id(both.a.id), -1);
			fflush(stdout);
			_exit(failures != 0);
		}
		check_child(child);
	}
	pthread_join(thread, NULL);
	both_fini(&both);
}

/* ---- checksums ---- */

struct scribbler {
	uint8_t *bytes;
	size_t size;
	_Atomic bool stops;
};

/* That this is a race is the point. */
__attribute__((no_sanitize("thread"))) static void *
scribble(void *argument)
{
	struct scribbler *scribbler = argument;
	volatile uint8_t *bytes = scribbler->bytes;
	while (!atomic_load(&scribbler->stops)) {
		for (size_t i = 0; i < scribbler->size; i += 61)
			bytes[i]++;
	}
	return NULL;
}

/* The data may be of any moment, but the connection goes on. */
static void
test_memory_that_changes_under_its_checksum(void)
{
	MUST(!setenv("SOFTRNIC_CRC", "1", 1));
	struct both both;
	pthread_t threads[2];
	both_init(&both, &(struct options){.size = 1 << 20});
	struct side *a = &both.a, *b = &both.b;
	struct scribbler scribblers[2] = {{.bytes = a->bytes, .size = 300000},
					  {.bytes = b->bytes, .size = 300000}};
	for (int i = 0; i < 2; i++)
		MUST(!pthread_create(&threads[i], NULL, scribble, &scribblers[i]));
	static const size_t lengths[] = {161, 1000, 5000, 65520, 300000};
	for (uint64_t i = 0; i < 100; i++) {
		struct ibv_sge from = sge_of(a, 0, lengths[i % 5]);
		struct ibv_sge to = sge_of(a, 600000, lengths[i % 5]);
		struct ibv_send_wr read = wr_of(IBV_WR_RDMA_READ, i, &to, 1, b, 0);
		struct ibv_send_wr write = wr_of(IBV_WR_RDMA_WRITE, i, &from, 1, b, 600000);
		CHECK(post(a, i % 2 ? &read : &write), 0);
		TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
	}
	for (int i = 0; i < 2; i++) {
		atomic_store(&scribblers[i].stops, true);
		pthread_join(threads[i], NULL);
	}
	both_fini(&both);
}

int
main(void)
{
	/*
	 * A process that has used the device can't have children that do: so each of these has a
	 * process of its own.
	 */
	static void (*const tests[])(void) = {
		test_two_processes,
		test_acknowledgements_come_from_one_that_polls_and_sleeps,
		test_acknowledgements_come_from_one_that_polls_the_channel,
		test_acknowledgements_come_from_one_that_waits_for_events,
		test_acknowledgements_come_from_threads_that_end,
		test_acknowledgements_come_from_one_that_spins_on_memory,
		test_a_stream_to_one_that_sleeps,
		test_a_stream_to_one_that_is_late,
		test_a_stream_to_one_that_sleeps_beside_a_poller,
		test_a_sleeper_is_interrupted_by_a_handler,
		test_a_sleeper_sleeps_on_where_a_read_would,
		test_children_of_a_process_with_connections,
		test_children_of_a_process_whose_locks_are_held,
		test_a_peer_that_dies_while_its_child_lives,
		test_children_while_traffic_runs,
		test_memory_that_changes_under_its_checksum,
	};
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		pid_t child = fork();
		MUST(child >= 0);
		if (child == 0) {
			alarm(100);
			tests[i]();
			fflush(stdout);
			exit(failures != 0);
		}
		check_child(child);
	}
	return report();
}
