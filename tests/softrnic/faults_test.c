/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * faults_test.c -- two programs, and between them a network that fails.
 *
 * faults_test serve: prints its port, then echoes messages and lets its memory be read and written
 * until its standard input ends. faults_test connect PORT OTHER_PORT ROUNDS: connects so often to a
 * port whose connections fail in whatever way, and to another one that works all the time. Both
 * fail if a call takes too long, if a request has no completion, or if anything is left at the end.
 */
#include "device_test.h"

enum { MESSAGE = 512, RECEIVES = 16, STEPS = 25, BOUND_MS = 8000 };

static const struct options options = {.size = 1 << 20, .with_channel = true};

struct window { /* in the private data of an acceptance */
	uint64_t address;
	uint32_t key;
};

static int
count_threads(void)
{
	return count_entries("/proc/self/task");
}

static void
check_nothing_is_left(int fds, int threads)
{
	check_fds("at the end", fds);
	CHECK(count_threads() <= threads, 1);
}

/* ---- the server ---- */

static unsigned connections;
static struct rdma_cm_id *served[256];

static struct rdma_cm_id **
place_of(const struct rdma_cm_id *id)
{
	struct rdma_cm_id **place = served;
	while (*place != id) {
		place++;
		MUST(place < served + 256);
	}
	return place;
}

static void
begin_serving(struct rdma_cm_id *id)
{
	struct side *side = malloc(sizeof(*side));
	MUST(side);
	side_init(side, id, &options);
	id->context = side;
	fill(side->bytes, side->size, 7);
	for (uint64_t i = 0; i < RECEIVES; i++)
		CHECK(post_receive(side, i, i * MESSAGE, MESSAGE), 0);
	struct window window = {(uintptr_t)side->bytes, side->mr->rkey};
	struct rdma_conn_param param = {.private_data = &window,
					.private_data_len = sizeof(window),
					.responder_resources = 16,
					.initiator_depth = 16};
	connections++;
	*place_of(NULL) = id;
	CHECK(rdma_accept(id, &param), 0);
}

static void
end_serving(struct rdma_cm_id *id)
{
	struct side *side = id->context;
	struct ibv_wc wc;
	/* All that was posted is flushed. */
	int64_t until = now_ms() + BOUND_MS;
	unsigned flushed = 0;
	while (flushed < RECEIVES && now_ms() < until)
		flushed += ibv_poll_cq(side->recv_cq, 1, &wc) == 1;
	CHECK(flushed, RECEIVES);
	side_fini(side);
	free(side);
	*place_of(id) = NULL;
	rdma_destroy_id(id);
	connections--;
}

static void
handle_cm(struct rdma_event_channel *channel)
{
	struct rdma_cm_event *event;
	MUST(!rdma_get_cm_event(channel, &event));
	struct rdma_cm_id *id = event->id;
	enum rdma_cm_event_type type = event->event;
	rdma_ack_cm_event(event);
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
		begin_serving(id);
	else if (type == RDMA_CM_EVENT_DISCONNECTED || type == RDMA_CM_EVENT_CONNECT_ERROR)
		end_serving(id);
	else
		CHECK(type, RDMA_CM_EVENT_ESTABLISHED);
}

static void
echo(struct side *side)
{
	struct ibv_wc wc;
	while (ibv_poll_cq(side->recv_cq, 1, &wc) == 1) {
		if (wc.status != IBV_WC_SUCCESS) {
			/* Counted when the connection ends. */
			CHECK(wc.status, IBV_WC_WR_FLUSH_ERR);
			CHECK(post_receive(side, wc.wr_id, 0, 0), 0);
			return;
		}
		struct ibv_sge sge = sge_of(side, wc.wr_id * MESSAGE, wc.byte_len);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, &sge, 1, NULL, 0);
		wr.send_flags = wc.byte_len <= 256 ? IBV_SEND_INLINE : 0;
		CHECK(post(side, &wr), 0);
		CHECK(post_receive(side, wc.wr_id, wc.wr_id * MESSAGE, MESSAGE), 0);
	}
	while (ibv_poll_cq(side->send_cq, 1, &wc) == 1)
		;
}

static void
serve(void)
{
	struct rdma_event_channel *channel = new_channel();
	struct rdma_cm_id *listener = new_listener(channel, "127.0.0.1", 0);
	int fds = count_fds(), threads = count_threads();
	struct pollfd polled[2] = {{.fd = channel->fd, .events = POLLIN},
				   {.fd = STDIN_FILENO, .events = POLLIN}};
	int64_t until = 0;
	printf("%d\n", ntohs(rdma_get_src_port(listener)));
	fflush(stdout);
	for (;;) {
		/* The progress thread does the work: this one only echoes, now and then. */
		int count = poll(polled, until ? 1 : 2, 1);
		MUST(count >= 0);
		if (polled[0].revents)
			handle_cm(channel);
		for (unsigned i = 0; i < 256; i++) {
			if (served[i])
				echo(served[i]->context);
		}
		if (!until && polled[1].revents)
			until = now_ms() + BOUND_MS;
		if (until && (!connections || now_ms() > until))
			break;
	}
	CHECK(connections, 0);
	/* But for what waits for first messages, one for all. */
	check_nothing_is_left(fds + 1, threads);
	destroy_with_channel(listener);
}

/* ---- the client ---- */

struct counts {
	unsigned established, failed, whole, broken;
};

static struct rdma_cm_event *
next_event(struct rdma_cm_id *id)
{
	struct rdma_cm_event *event;
	errno = ETIMEDOUT;
	if (!is_readable(id->channel->fd, BOUND_MS) || rdma_get_cm_event(id->channel, &event))
		give_up(__LINE__, "an event in time");
	return event;
}

/* False: the connection could not be made, and the id says why. */
static bool
connect_to(struct side *side, int port, struct window *window)
{
	connect_side(side, port, &options);
	for (uint64_t i = 0; i < RECEIVES; i++)
		CHECK(post_receive(side, i, i * MESSAGE, MESSAGE), 0);
	struct rdma_cm_event *event = next_event(side->id);
	bool is_there = event->event == RDMA_CM_EVENT_ESTABLISHED;
	if (is_there) {
		MUST(event->param.conn.private_data_len >= sizeof(*window));
		memcpy(window, event->param.conn.private_data, sizeof(*window));
	} else {
		CHECK(event->status < 0, 1);
		if (event->event != RDMA_CM_EVENT_REJECTED &&
		    event->event != RDMA_CM_EVENT_UNREACHABLE)
			CHECK(event->event, RDMA_CM_EVENT_CONNECT_ERROR);
	}
	rdma_ack_cm_event(event);
	return is_there;
}

static bool
is_done(struct side *side, struct ibv_cq *cq, uint64_t wr_id)
{
	struct ibv_wc wc;
	int64_t until = now_ms() + BOUND_MS;
	(void)side;
	while (ibv_poll_cq(cq, 1, &wc) == 0) {
		if (now_ms() > until) {
			errno = ETIMEDOUT;
			give_up(__LINE__, "a completion in time");
		}
		sched_yield();
	}
	if (wr_id != UINT64_MAX)
		CHECK(wc.wr_id, wr_id);
	if (wc.status != IBV_WC_SUCCESS)
		CHECK(wc.status, IBV_WC_WR_FLUSH_ERR);
	return wc.status == IBV_WC_SUCCESS;
}

/* One of each kind; false: the connection has ended. */
static bool
work(struct side *side, const struct window *window, uint32_t step, unsigned *receives)
{
	static const size_t lengths[] = {8, 300, 3000, 70000, 200000};
	size_t length = lengths[step % 5];
	struct ibv_sge sges[3] = {sge_of(side, 65536, length), sge_of(side, 300000, length),
				  sge_of(side, 600000, MESSAGE)};
	struct ibv_send_wr write = wr_of(IBV_WR_RDMA_WRITE, 1, &sges[0], 1, NULL, 0);
	struct ibv_send_wr read = wr_of(IBV_WR_RDMA_READ, 2, &sges[1], 1, NULL, 0);
	struct ibv_send_wr send = wr_of(IBV_WR_SEND, 3, &sges[2], 1, NULL, 0);
	write.wr.rdma.remote_addr = read.wr.rdma.remote_addr = window->address + 300000;
	write.wr.rdma.rkey = read.wr.rdma.rkey = window->key;
	fill(side->bytes + 65536, length, step);
	fill(side->bytes + 600000, MESSAGE, step);
	write.next = &read;
	read.next = &send;
	read.send_flags |= IBV_SEND_FENCE;
	CHECK(post(side, &write), 0);
	bool fine = true;
	for (uint64_t i = 1; i <= 3; i++)
		fine &= is_done(side, side->send_cq, i);
	if (fine)
		CHECK_FILLED(side->bytes + 300000, length, step);
	if (!fine)
		return false;
	uint64_t slot = step % RECEIVES;
	if (!is_done(side, side->recv_cq, slot)) {
		(*receives)--;
		return false;
	}
	CHECK_FILLED(side->bytes + slot * MESSAGE, MESSAGE, step);
	CHECK(post_receive(side, slot, slot * MESSAGE, MESSAGE), 0);
	return true;
}

static void
end_connection(struct side *side, unsigned receives, bool was_there)
{
	(void)rdma_disconnect(side->id);
	if (was_there) {
		struct rdma_cm_event *event = next_event(side->id);
		CHECK(event->event, RDMA_CM_EVENT_DISCONNECTED);
		rdma_ack_cm_event(event);
		while (receives--)
			CHECK(is_done(side, side->recv_cq, UINT64_MAX), false);
	}
	side_end(side);
}

static void
run_client(int port, int other_port, int rounds)
{
	struct side other, side;
	struct window other_window, window;
	struct counts counts = {0};
	unsigned receives = RECEIVES;
	uint32_t steps = 0;
	int fds = count_fds(), threads = 0;
	MUST(connect_to(&other, other_port, &other_window));
	for (int round = 0; round < rounds; round++) {
		int64_t before = now_ms();
		bool is_there = connect_to(&side, port, &window), fine = is_there;
		unsigned left = RECEIVES;
		for (uint32_t step = 0; fine && step < STEPS; step++)
			fine = work(&side, &window, step, &left);
		counts.established += is_there;
		counts.failed += !is_there;
		counts.whole += fine;
		counts.broken += is_there && !fine;
		end_connection(&side, left, is_there);
		if (now_ms() - before > BOUND_MS)
			printf("round %d: %lld ms\n", round, (long long)(now_ms() - before));
		CHECK(now_ms() - before <= BOUND_MS, 1);
		/* The other one has not noticed. */
		CHECK(work(&other, &other_window, steps++, &receives), true);
		if (round == 0)
			threads = count_threads();
	}
	end_connection(&other, receives, true);
	/* But for the progress: its epoll and two wake-ups; and the asynchronous events. */
	check_nothing_is_left(fds + 4, threads);
	printf("%u established, %u not; %u whole, %u broken\n", counts.established, counts.failed,
	       counts.whole, counts.broken);
}

int
main(int argc, char **argv)
{
	alarm(140);
	if (argc == 2)
		serve();
	else if (argc == 4)
		run_client(atoi(argv[1]), atoi(argv[2]), atoi(argv[3]));
	else
		return 2;
	fprintf(stderr, "%d failures\n", failures);
	return failures != 0;
}
