/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cm_handshake_test.c -- the connection manager against peers that speak MPA by hand, badly, slowly
 * or not at all.
 *
 * With SOFTRNIC_HANDSHAKE_MS at 300, so that what has a limit reaches it.
 */
#include "raw_peer.h"

#include <sys/resource.h>

/* Revision 1; and 2 with IRD 4, ORD 2, peer-to-peer by Send, Write or Read, and "hi". */
#define REQUEST_1 REQUEST "00 01 0000"
#define REQUEST_2 REQUEST "10 02 0006 C004 C002 6869"
/* What Write of no bytes looks like: ULPDU length 14, tagged and last, STag 0, TO 0, no CRC. */
#define FIRST_WRITE "000E C140 00000000 0000000000000000 00000000"

/* ---- initiators ---- */

static void
test_an_initiator_of_revision_1(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int fd = raw_connect(listener);
	raw_send(fd, REQUEST "00 01 0003 616263");
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *passive = event->id;
	CHECK(event->param.conn.private_data_len, 3);
	CHECK(memcmp(event->param.conn.private_data, "abc", 3), 0);
	CHECK(event->param.conn.initiator_depth, 128); /* it does not say */
	rdma_ack_cm_event(event);
	add_qp(passive);
	struct rdma_conn_param param = param_of("defg", 4);
	CHECK(rdma_accept(passive, &param), 0);
	RAW_EXPECT(fd, REPLY "00 01 0004 64656667");
	EXPECT(passive, RDMA_CM_EVENT_ESTABLISHED, 0); /* it need not send first */
	/* Who is not known to acknowledge is not asked to: what TCP has is complete. */
	struct ibv_sge sge = {.addr = (uintptr_t) "data", .length = 4};
	struct ibv_send_wr wr = {.wr_id = 5,
				 .sg_list = &sge,
				 .num_sge = 1,
				 .opcode = IBV_WR_RDMA_WRITE,
				 .send_flags = IBV_SEND_INLINE | IBV_SEND_SIGNALED,
				 .wr.rdma = {.remote_addr = 0x1122, .rkey = 0x33}},
			   *bad;
	struct ibv_wc wc;
	CHECK(ibv_post_send(passive->qp, &wr, &bad), 0);
	CHECK(ibv_poll_cq(passive->qp->send_cq, 1, &wc), 1);
	CHECK(wc.status, IBV_WC_SUCCESS);
	CHECK(wc.wr_id, 5);
	RAW_EXPECT(fd, "0012 C140 00000033 0000000000001122 64617461 00000000");
	CHECK(is_readable(fd, 20), 0);
	close(fd);
	EXPECT(passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy(passive);
	destroy_with_channel(listener);
}

static void
test_an_initiator_of_revision_2(void)
{
	static const struct {
		const char *request, *reply;
	} tries[] = {
		/*
		 * All are offered, and taken: it is one of us. Of others' offers one is chosen.
		 * Depths are the lower ones.
		 */
		{REQUEST_2, REPLY "10 02 0004 C002 C002"},
		{REQUEST "10 02 0004 8004 C002", REPLY "10 02 0004 8002 8002"},
		{REQUEST "50 02 0004 8001 4001", REPLY "50 02 0004 8001 4001"},
		{REQUEST "10 02 0004 FFFF 3FFF", REPLY "10 02 0004 C004 0002"},
		/* None is, or it says nothing of depths. */
		{REQUEST "10 02 0004 0004 C002", REPLY "10 02 0004 0002 0002"},
		{REQUEST "10 02 0004 8000 0000", REPLY "10 02 0004 0001 0001"},
		{REQUEST "00 02 0000", REPLY "00 02 0000"},
	};
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		int fd = raw_connect(listener);
		raw_send(fd, tries[i].request);
		struct rdma_cm_id *passive = next_request(listener);
		struct rdma_conn_param param = param_of(NULL, 0);
		CHECK(rdma_accept(passive, &param), 0);
		RAW_EXPECT(fd, tries[i].reply);
		if (i < 3) {
			/* Not established before the first FPDU has come. */
			CHECK(is_readable(passive->channel->fd, 20), 0);
			CHECK(state_of(passive), IBV_QPS_RTS);
			if (i < 2)
				raw_send(fd, FIRST_WRITE);
		}
		if (i < 2 || i > 3)
			EXPECT(passive, RDMA_CM_EVENT_ESTABLISHED, 0);
		close(fd);
		/* Without it, it was none. */
		if (i < 2 || i > 3)
			EXPECT(passive, RDMA_CM_EVENT_DISCONNECTED, 0);
		else
			EXPECT(passive, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET);
		destroy(passive);
	}
	destroy_with_channel(listener);
}

static void
test_an_initiator_that_sends_no_first_message(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int fd = raw_connect(listener);
	raw_send(fd, REQUEST_2);
	struct rdma_cm_id *passive = next_request(listener);
	CHECK(rdma_accept(passive, NULL), 0);
	EXPECT(passive, RDMA_CM_EVENT_CONNECT_ERROR, -ETIMEDOUT);
	CHECK(state_of(passive), IBV_QPS_ERR);
	CHECK(rdma_disconnect(passive), 0);
	destroy(passive);
	close(fd);
	/* One that is destroyed meanwhile. */
	fd = raw_connect(listener);
	raw_send(fd, REQUEST_2);
	passive = next_request(listener);
	CHECK(rdma_accept(passive, NULL), 0);
	destroy(passive);
	/* And one that is not wanted any more. */
	int other = raw_connect(listener);
	raw_send(other, REQUEST_2);
	passive = next_request(listener);
	CHECK(rdma_accept(passive, NULL), 0);
	CHECK(rdma_disconnect(passive), 0);
	EXPECT(passive, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy(passive);
	close(fd);
	close(other);
	destroy_with_channel(listener);
}

static void
test_a_request_in_single_bytes(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	uint8_t bytes[64];
	size_t size = parse(bytes, REQUEST_2);
	int fd = raw_connect(listener);
	for (size_t i = 0; i < size; i++) {
		CHECK(send(fd, bytes + i, 1, MSG_NOSIGNAL), 1);
		sleep_ms(1);
	}
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *passive = event->id;
	CHECK(event->param.conn.private_data_len, 2);
	CHECK(memcmp(event->param.conn.private_data, "hi", 2), 0);
	CHECK(event->param.conn.initiator_depth, 4);
	CHECK(event->param.conn.responder_resources, 2);
	rdma_ack_cm_event(event);
	/* What it sends too early does not keep it from reading the answer, up to the end. */
	raw_send(fd, FIRST_WRITE);
	sleep_ms(10);
	CHECK(rdma_reject(passive, "no", 2), 0);
	sleep_ms(10);
	RAW_EXPECT(fd, REPLY "30 02 0006 0002 0004 6E6F");
	CHECK(recv(fd, bytes, 1, 0), 0);
	close(fd);
	destroy(passive);
	destroy_with_channel(listener);
}

/* More private data than an event can tell. */
static void
test_long_private_data(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int fd = raw_connect(listener);
	uint8_t data[512];
	memset(data, 0x5a, sizeof(data));
	raw_send(fd, REQUEST "00 01 0200");
	CHECK(send(fd, data, sizeof(data), MSG_NOSIGNAL), sizeof(data));
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *passive = event->id;
	CHECK(event->param.conn.private_data_len, 255);
	CHECK(memcmp(event->param.conn.private_data, data, 255), 0);
	rdma_ack_cm_event(event);
	destroy(passive); /* not answered: rejected */
	RAW_EXPECT(fd, REPLY "20 01 0000");
	RAW_EXPECT_CLOSED(fd);
	destroy_with_channel(listener);
}

static void
test_bad_requests(void)
{
	static const char *const bad[] = {
		"47455420 2F 20",     /* GET / */
		REPLY "00 01 0000",   /* a reply */
		REQUEST "00 00 0000", /* revisions that there are not */
		REQUEST "00 03 0000",
		REQUEST "00 01 0201", /* too much private data */
		REQUEST "00 01 FFFF",
		REQUEST "10 02 0002 0000", /* no room for the depths */
		REQUEST "00 01 0000 00",   /* something follows before the answer */
		REQUEST "10 02 0004 8001 C001" FIRST_WRITE,
	};
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int fd = raw_connect(listener);
		raw_send(fd, bad[i]);
		RAW_EXPECT_CLOSED(fd);
		CHECK(is_readable(listener->channel->fd, 0), 0);
	}
	/* Markers are refused aloud. */
	int fd = raw_connect(listener);
	raw_send(fd, REQUEST "80 01 0000");
	RAW_EXPECT(fd, REPLY "20 01 0000");
	RAW_EXPECT_CLOSED(fd);
	/* A request that is never finished. */
	fd = raw_connect(listener);
	raw_send(fd, "4D5041");
	int closes = raw_connect(listener);
	close(closes);
	int resets = raw_connect(listener);
	setsockopt(resets, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	raw_send(resets, "4D50");
	close(resets);
	check_it_serves(listener);
	RAW_EXPECT_CLOSED(fd);
	destroy_with_channel(listener);
}

static void
test_an_initiator_that_goes_before_it_is_accepted(void)
{
	static const char *const requests[] = {REQUEST_1, REQUEST_2};
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0), *passive;
	int fd;
	for (int i = 0; i < 2; i++) {
		fd = raw_connect(listener);
		raw_send(fd, requests[i]);
		passive = next_request(listener);
		close(fd);
		sleep_ms(50);
		CHECK(rdma_accept(passive, NULL), 0);
		EXPECT(passive, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET);
		CHECK_FAILS(rdma_accept(passive, NULL), EINVAL);
		destroy(passive);
	}
	/* Rejecting it is no matter. */
	fd = raw_connect(listener);
	raw_send(fd, REQUEST_2);
	passive = next_request(listener);
	close(fd);
	sleep_ms(50);
	CHECK(rdma_disconnect(passive), 0); /* nothing to do, as the kernel sees it */
	CHECK(rdma_reject(passive, NULL, 0), 0);
	destroy(passive);
	destroy_with_channel(listener);
}

/* The program at the other end has not read all that waits; it does not wait for ever. */
static void
test_requests_beyond_the_backlog(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 2);
	int fds[5];
	for (int i = 0; i < 5; i++) {
		fds[i] = raw_connect(listener);
		raw_send(fds[i], REQUEST_1);
		sleep_ms(10);
	}
	/* Two are in line; the third comes when one is got, the others are turned away. */
	struct rdma_cm_id *first = next_request(listener);
	for (int i = 3; i < 5; i++) {
		RAW_EXPECT(fds[i], REPLY "20 01 0000");
		RAW_EXPECT_CLOSED(fds[i]);
	}
	struct rdma_cm_id *second = next_request(listener), *third = next_request(listener);
	CHECK(is_readable(listener->channel->fd, 0), 0);
	CHECK(rdma_accept(third, NULL), 0);
	RAW_EXPECT(fds[2], REPLY "00 01 0000");
	EXPECT(third, RDMA_CM_EVENT_ESTABLISHED, 0);
	destroy(first);
	destroy(second);
	destroy(third);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	check_it_serves(listener);
	destroy_with_channel(listener);
}

static void
test_half_open_connections_are_limited(void)
{
	enum { MANY = 1024 + 40 };
	static int fds[MANY];
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int before = count_fds();
	for (int i = 0; i < MANY; i++)
		fds[i] = raw_connect(listener);
	sleep_ms(100);
	CHECK(count_fds() - before <= MANY + 1024, 1);
	/* They make room when they have had their time. */
	check_it_serves(listener);
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	check_it_serves(listener);
	destroy_with_channel(listener);
}

static void
test_no_file_descriptors_are_left(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	struct rlimit limit, tight;
	int fd = raw_connect(listener);
	getrlimit(RLIMIT_NOFILE, &limit);
	sleep_ms(20); /* it is accepted, and open until it has had its time */
	int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	tight = limit;
	tight.rlim_cur = (rlim_t)late + 1;
	/* All that is free goes, then one more comes. */
	int fillers[64], count = 0;
	setrlimit(RLIMIT_NOFILE, &tight);
	while (count < 64 && (fillers[count] = dup(fd)) >= 0)
		count++;
	union address address = {.storage = listener->route.addr.src_storage};
	MUST(!connect(late, &address.any, size_of(&address)));
	raw_send(late, REQUEST_1);
	struct timespec from, to;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
	sleep_ms(150);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
	/* Nobody spins. */
	CHECK((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 < 75, 1);
	CHECK(is_readable(listener->channel->fd, 0), 0);
	setrlimit(RLIMIT_NOFILE, &limit);
	while (count)
		close(fillers[--count]);
	struct rdma_cm_id *passive = next_request(listener);
	destroy(passive);
	close(late);
	close(fd);
	destroy_with_channel(listener);
}

/* ---- responders ---- */

static void
test_a_responder_of_revision_1(void)
{
	int port, listen_fd = raw_listen(&port);
	struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
	struct rdma_conn_param param = param_of("xy", 2);
	CHECK(rdma_connect(active, &param), 0);
	int fd = raw_accept(listen_fd);
	RAW_EXPECT(fd, REQUEST "10 02 0006 C004 C002 7879");
	raw_send(fd, REPLY "20 01 0000");
	RAW_EXPECT_CLOSED(fd);
	fd = raw_accept(listen_fd);
	RAW_EXPECT(fd, REQUEST "00 01 0002 7879");
	raw_send(fd, REPLY "00 01 0001 7A");
	struct rdma_cm_event *event = GET(active->channel, RDMA_CM_EVENT_ESTABLISHED);
	CHECK(event->param.conn.private_data_len, 1);
	CHECK(event->param.conn.responder_resources, 4);
	CHECK(event->param.conn.initiator_depth, 2);
	rdma_ack_cm_event(event);
	close(fd);
	EXPECT(active, RDMA_CM_EVENT_DISCONNECTED, 0);
	destroy_with_channel(active);
	close(listen_fd);
}

/* One that closes instead of answering is asked once more, and not again. */
static void
test_a_responder_that_closes(void)
{
	for (int resets = 0; resets < 2; resets++) {
		int port, listen_fd = raw_listen(&port);
		struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
		start_connecting(active);
		for (int revision = 2; revision > 0; revision--) {
			uint8_t request[64];
			int fd = raw_accept(listen_fd);
			raw_receive(fd, request, 20);
			CHECK(request[17], revision);
			if (resets)
				setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0},
					   sizeof(struct linger));
			close(fd);
		}
		EXPECT(active, RDMA_CM_EVENT_REJECTED, -ECONNRESET);
		CHECK(is_readable(listen_fd, 0), 0);
		destroy_with_channel(active);
		close(listen_fd);
	}
}

static void
test_replies(void)
{
	static const struct {
		const char *reply;
		enum rdma_cm_event_type event;
		int status;
	} tries[] = {
		{REPLY "10 02 0004 0001 0001", RDMA_CM_EVENT_ESTABLISHED, 0},
		{REPLY "10 02 0004 8001 8001", RDMA_CM_EVENT_ESTABLISHED, 0},
		{REPLY "50 02 0004 C001 0001", RDMA_CM_EVENT_ESTABLISHED, 0},
		{REPLY "00 02 0000", RDMA_CM_EVENT_ESTABLISHED, 0},
		{REPLY "30 02 0006 0001 0001 6E6F", RDMA_CM_EVENT_REJECTED, -ECONNREFUSED},
		{REPLY "90 02 0004 0001 0001", RDMA_CM_EVENT_CONNECT_ERROR, -EPROTO},
		{REPLY "10 03 0004 0001 0001", RDMA_CM_EVENT_CONNECT_ERROR, -EPROTO},
		{REPLY "10 02 0201 0001 0001", RDMA_CM_EVENT_CONNECT_ERROR, -EPROTO},
		{REQUEST "10 02 0004 0001 0001", RDMA_CM_EVENT_CONNECT_ERROR, -EPROTO},
		{"00", RDMA_CM_EVENT_CONNECT_ERROR, -EPROTO},
	};
	int port, listen_fd = raw_listen(&port);
	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
		start_connecting(active);
		int fd = raw_accept(listen_fd);
		RAW_EXPECT(fd, REQUEST "10 02 0004 C004 C002");
		raw_send(fd, tries[i].reply);
		EXPECT(active, tries[i].event, tries[i].status);
		if (i == 1) /* what the peer chose */
			RAW_EXPECT(fd, FIRST_WRITE);
		destroy_with_channel(active);
		close(fd);
	}
	close(listen_fd);
}

/* The program has its own queue pair, and takes its time to connect it. */
static void
test_a_responder_that_does_not_wait(void)
{
	int port, listen_fd = raw_listen(&port);
	struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
	struct ibv_qp *own = active->qp;
	active->qp = NULL;
	CHECK(rdma_connect(active, &(struct rdma_conn_param){.qp_num = own->qp_num}), 0);
	int fd = raw_accept(listen_fd);
	RAW_EXPECT(fd, REQUEST "10 02 0004 C001 C001");
	raw_send(fd, REPLY "10 02 0004 8001 8001");
	EXPECT(active, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
	close(fd);
	EXPECT(active, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET);
	CHECK_FAILS(rdma_establish(active), EINVAL);
	active->qp = own;
	destroy_with_channel(active);
	close(listen_fd);
}

static void
test_a_responder_that_says_nothing(void)
{
	int port, listen_fd = raw_listen(&port);
	struct rdma_cm_id *active = new_active(new_channel(), "127.0.0.1", port);
	start_connecting(active);
	int fd = raw_accept(listen_fd);
	EXPECT(active, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
	CHECK(rdma_disconnect(active), 0);
	destroy_with_channel(active);
	close(fd);
	/* The program may give up sooner. */
	active = new_active(new_channel(), "127.0.0.1", port);
	start_connecting(active);
	fd = raw_accept(listen_fd);
	CHECK(rdma_disconnect(active), 0);
	EXPECT(active, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNABORTED);
	destroy_with_channel(active);
	close(fd);
	close(listen_fd);
	/* Synchronous calls say so, too. */
	listen_fd = raw_listen(&port);
	struct rdma_cm_id *id;
	union address target = address_of("127.0.0.1", port);
	MUST(!rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP));
	MUST(!rdma_resolve_addr(id, NULL, &target.any, 100));
	MUST(!rdma_resolve_route(id, 100));
	add_qp(id);
	CHECK_FAILS(rdma_connect(id, NULL), ETIMEDOUT);
	destroy(id);
	close(listen_fd);
}

/* A full backlog of TCP's: the connection itself does not come about. */
static void
test_a_host_that_does_not_answer(void)
{
	union address address = address_of("127.0.0.1", 0);
	socklen_t size = sizeof(address);
	int listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fds[4];
	MUST(!bind(listen_fd, &address.any, size_of(&address)) && !listen(listen_fd, 0));
	MUST(!getsockname(listen_fd, &address.any, &size));
	for (int i = 0; i < 4; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)!connect(fds[i], &address.any, size_of(&address));
	}
	struct rdma_cm_id *active =
		new_active(new_channel(), "127.0.0.1", ntohs(address.v4.sin_port));
	start_connecting(active);
	EXPECT(active, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
	destroy_with_channel(active);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	close(listen_fd);
}

/* ---- ids that go away ---- */

static void
test_what_a_destroyed_listener_leaves(void)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 1);
	int got_fd = raw_connect(listener);
	raw_send(got_fd, REQUEST_1);
	struct rdma_cm_id *got = next_request(listener);
	MUST(!rdma_migrate_id(got, new_channel()));
	int queued = raw_connect(listener);
	raw_send(queued, REQUEST_1);
	MUST(is_readable(listener->channel->fd, PATIENCE_MS));
	int parked = raw_connect(listener), half_open = raw_connect(listener);
	raw_send(parked, REQUEST_1);
	raw_send(half_open, "4D");
	sleep_ms(50);
	destroy_with_channel(listener);
	RAW_EXPECT(queued, REPLY "20 01 0000");
	RAW_EXPECT_CLOSED(queued);
	RAW_EXPECT(parked, REPLY "20 01 0000");
	RAW_EXPECT_CLOSED(parked);
	RAW_EXPECT_CLOSED(half_open);
	/* What the program has got lives on. */
	CHECK(rdma_accept(got, NULL), 0);
	EXPECT(got, RDMA_CM_EVENT_ESTABLISHED, 0);
	RAW_EXPECT(got_fd, REPLY "00 01 0000");
	destroy_with_channel(got);
	RAW_EXPECT_CLOSED(got_fd);
}

int
main(void)
{
	setenv("SOFTRNIC_HANDSHAKE_MS", "300", 1);
	struct pair pair = new_pair("127.0.0.1");
	destroy_pair(&pair);

	RUN(test_an_initiator_of_revision_1);
	RUN(test_an_initiator_of_revision_2);
	RUN(test_an_initiator_that_sends_no_first_message);
	RUN(test_a_request_in_single_bytes);
	RUN(test_long_private_data);
	RUN(test_bad_requests);
	RUN(test_an_initiator_that_goes_before_it_is_accepted);
	RUN(test_requests_beyond_the_backlog);
	RUN(test_half_open_connections_are_limited);
	RUN(test_no_file_descriptors_are_left);
	RUN(test_a_responder_of_revision_1);
	RUN(test_a_responder_that_closes);
	RUN(test_replies);
	RUN(test_a_responder_that_does_not_wait);
	RUN(test_a_responder_that_says_nothing);
	RUN(test_a_host_that_does_not_answer);
	RUN(test_what_a_destroyed_listener_leaves);
	return report();
}
