/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fabric_connections.c -- many connections into one target: what each costs in memory, and what
 * many of them make of an operation. For benchmarks/fabric.py.
 *
 * usage: fabric_connections target ADDRESS PORT QUEUE_SIZE
 *        fabric_connections client ADDRESS PORT QUEUE_SIZE
 *
 * Both say "ready", the target once it listens, and answer each line of their input with a number:
 *
 *   memory                     bytes of this process's own memory (RssAnon of /proc/self/status)
 *   cpu                        ns of processor time that this process has used
 *   connect COUNT              (client) make that many connections in all: ns that it took
 *   write CONNECTIONS COUNT DEPTH
 *                              (client) COUNT writes of 8 bytes, each with its completion, to the
 *                              first so many connections in turn, DEPTH of them under way: ns
 *
 * The target accepts whoever comes and sleeps. The client polls.
 */
#define PROGRAM "fabric_connections"
#include "fabric_side.h"

#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>

#define CONNECTIONS_MAX 8192
#define CQ_SIZE 16384
#define SIZE 8
#define TIMEOUT_MS 5000

struct place {
	uint64_t address;
	uint32_t key;
};

static char memory[4096];
static unsigned queue_size;
static struct rdma_event_channel *channel;
/* Of the first connection's device; the connections share them. */
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_mr *mr;

static struct connection {
	struct rdma_cm_id *id;
	struct place place;
} connections[CONNECTIONS_MAX];
static unsigned connected;

static void
must(const char *what, int ret)
{
	if (ret)
		fail(what);
}

static uint64_t
own_memory(void)
{
	char line[256];
	uint64_t kilobytes = 0;
	FILE *status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof(line), status))
		(void)sscanf(line, "RssAnon: %" SCNu64, &kilobytes);
	if (status)
		(void)fclose(status);
	return kilobytes * 1024;
}

static void
make_queues(struct rdma_cm_id *id)
{
	if (!pd) {
		pd = ibv_alloc_pd(id->verbs);
		cq = pd ? ibv_create_cq(id->verbs, CQ_SIZE, NULL, NULL, 0) : NULL;
		mr = cq ? ibv_reg_mr(pd, memory, sizeof(memory),
				     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)
			: NULL;
		if (!mr)
			fail("device");
	}
	struct ibv_qp_init_attr attr = {.send_cq = cq,
					.recv_cq = cq,
					.cap = {.max_send_wr = queue_size,
						.max_recv_wr = queue_size,
						.max_send_sge = 1,
						.max_recv_sge = 1},
					.qp_type = IBV_QPT_RC};
	must("rdma_create_qp", rdma_create_qp(id, pd, &attr));
}

/* ---- the target ---- */

static void
welcome(struct rdma_cm_id *id)
{
	make_queues(id);
	struct place place = {.address = (uintptr_t)memory, .key = mr->rkey};
	struct rdma_conn_param param = {.private_data = &place,
					.private_data_len = sizeof(place),
					.responder_resources = 1,
					.initiator_depth = 1};
	must("rdma_accept", rdma_accept(id, &param));
}

static void *
serve(void *unused)
{
	struct rdma_cm_event *event;
	(void)unused;
	for (;;) {
		must("rdma_get_cm_event", rdma_get_cm_event(channel, &event));
		struct rdma_cm_id *id = event->id;
		enum rdma_cm_event_type type = event->event;
		must("rdma_ack_cm_event", rdma_ack_cm_event(event));
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
			welcome(id);
	}
	return NULL;
}

static void
listen_at(struct rdma_addrinfo *where)
{
	struct rdma_cm_id *id;
	pthread_t thread;
	must("rdma_create_id", rdma_create_id(channel, &id, NULL, RDMA_PS_TCP));
	must("rdma_bind_addr", rdma_bind_addr(id, where->ai_src_addr));
	must("rdma_listen", rdma_listen(id, 1024));
	must("pthread_create", pthread_create(&thread, NULL, serve, NULL));
}

/* ---- the client ---- */

/* The private data of the event that is expected, where it has any. */
static void
expect(enum rdma_cm_event_type type, struct place *place)
{
	struct rdma_cm_event *event;
	must("rdma_get_cm_event", rdma_get_cm_event(channel, &event));
	if (event->event != type) {
		errno = event->status < 0 ? -event->status : event->status;
		fail(rdma_event_str(event->event));
	}
	if (place && event->param.conn.private_data_len >= sizeof(*place))
		memcpy(place, event->param.conn.private_data, sizeof(*place));
	must("rdma_ack_cm_event", rdma_ack_cm_event(event));
}

static void
connect_one(struct rdma_addrinfo *where)
{
	struct connection *connection = &connections[connected];
	struct rdma_conn_param param = {
		.responder_resources = 1, .initiator_depth = 1, .retry_count = 7};
	must("rdma_create_id", rdma_create_id(channel, &connection->id, NULL, RDMA_PS_TCP));
	struct rdma_cm_id *id = connection->id;
	must("rdma_resolve_addr", rdma_resolve_addr(id, NULL, where->ai_dst_addr, TIMEOUT_MS));
	expect(RDMA_CM_EVENT_ADDR_RESOLVED, NULL);
	must("rdma_resolve_route", rdma_resolve_route(id, TIMEOUT_MS));
	expect(RDMA_CM_EVENT_ROUTE_RESOLVED, NULL);
	make_queues(id);
	must("rdma_connect", rdma_connect(id, &param));
	expect(RDMA_CM_EVENT_ESTABLISHED, &connection->place);
	connected++;
}

static uint64_t
connect_up_to(struct rdma_addrinfo *where, uint64_t count)
{
	uint64_t begin = now(CLOCK_MONOTONIC);
	errno = ERANGE;
	must("connections", count > CONNECTIONS_MAX);
	while (connected < count)
		connect_one(where);
	return now(CLOCK_MONOTONIC) - begin;
}

static void
post_write(const struct connection *connection)
{
	struct ibv_sge sge = {.addr = (uintptr_t)memory, .length = SIZE, .lkey = mr->lkey};
	struct ibv_send_wr *bad, wr = {.sg_list = &sge,
				       .num_sge = 1,
				       .opcode = IBV_WR_RDMA_WRITE,
				       .send_flags = IBV_SEND_SIGNALED,
				       .wr.rdma = {.remote_addr = connection->place.address,
						   .rkey = connection->place.key}};
	errno = ibv_post_send(connection->id->qp, &wr, &bad);
	must("ibv_post_send", errno);
}

static uint64_t
write_in_turn(uint64_t over, uint64_t count, uint64_t depth)
{
	struct ibv_wc wcs[32];
	uint64_t posted = 0, done = 0, begin = now(CLOCK_MONOTONIC);
	errno = ERANGE;
	must("write",
	     !over || over > connected || !depth || depth > over * queue_size || depth > CQ_SIZE);
	while (done < count) {
		for (; posted < count && posted - done < depth; posted++)
			post_write(&connections[posted % over]);
		int got = ibv_poll_cq(cq, 32, wcs);
		for (int i = 0; i < got; i++) {
			errno = EIO;
			must(ibv_wc_status_str(wcs[i].status), wcs[i].status != IBV_WC_SUCCESS);
		}
		must("ibv_poll_cq", got < 0);
		done += (uint64_t)got;
	}
	return now(CLOCK_MONOTONIC) - begin;
}

/* ---- commands ---- */

static uint64_t
command(const char *line, void *where)
{
	uint64_t count, over, depth;
	if (!strcmp(line, "memory\n"))
		return own_memory();
	if (!strcmp(line, "cpu\n"))
		return now(CLOCK_PROCESS_CPUTIME_ID);
	if (sscanf(line, "connect %" SCNu64, &count) == 1)
		return connect_up_to(where, count);
	if (sscanf(line, "write %" SCNu64 " %" SCNu64 " %" SCNu64, &over, &count, &depth) == 3)
		return write_in_turn(over, count, depth);
	errno = EINVAL;
	fail(line);
	return 0;
}

int
main(int argc, char *argv[])
{
	errno = EINVAL;
	if (argc != 5)
		fail("usage: fabric_connections target|client ADDRESS PORT QUEUE_SIZE");
	bool is_target = !strcmp(argv[1], "target");
	queue_size = (unsigned)strtoul(argv[4], NULL, 10);
	raise_file_limit();
	struct rdma_addrinfo *where,
		hints = {.ai_port_space = RDMA_PS_TCP, .ai_flags = is_target ? RAI_PASSIVE : 0};
	must("rdma_getaddrinfo", rdma_getaddrinfo(argv[2], argv[3], &hints, &where));
	channel = rdma_create_event_channel();
	if (!channel)
		fail("rdma_create_event_channel");
	if (is_target)
		listen_at(where);
	answer_commands(command, where);
	return 0;
}
