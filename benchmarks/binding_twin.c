/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * binding_twin.c -- the C side of benchmarks/binding.py: what a C program does with librpma for the
 * work that binding_client.py does with rpma. The two read the same commands and answer alike.
 *
 * usage: binding_twin ADDRESS PORT QUEUE_SIZE DEPTH
 *
 * It says "ready" once it is connected. Then, for each line "WAY COUNT FILE" of its input, it runs
 * COUNT operations and answers with the nanoseconds that they took. FILE is "-", or takes the
 * nanoseconds of each operation (of the whole batch for "batch") as 64-bit numbers.
 */
#include <inttypes.h>
#include <librpma.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK 4096

static struct rpma_peer *peer;
static struct rpma_conn *conn;
static struct rpma_cq *cq;
static struct rpma_mr_local *local;
static struct rpma_mr_remote *remote;
static char *memory;
static size_t size;
static uint32_t queue_size;
static uint64_t depth;
static int cq_fd, event_fd;

static uint64_t *latencies; /* NULL: they are not wanted */
static uint64_t *posted_at;

static void
fail(const char *what, int ret)
{
	(void)fprintf(stderr, "binding_twin: %s: %s\n", what, ret ? rpma_err_2str(ret) : "failed");
	exit(1);
}

static void
must(const char *what, int ret)
{
	if (ret)
		fail(what, ret);
}

static uint64_t
now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void
check(const struct ibv_wc *wc)
{
	if (wc->status != IBV_WC_SUCCESS)
		fail(ibv_wc_status_str(wc->status), 0);
}

/* ---- 8 bytes, written and flushed, one at a time ---- */

static void
post_write_flush(void)
{
	must("rpma_write",
	     rpma_write(conn, remote, 0, local, 0, 8, RPMA_F_COMPLETION_ON_ERROR, NULL));
	must("rpma_flush", rpma_flush(conn, remote, 0, 8, RPMA_FLUSH_TYPE_VISIBILITY,
				      RPMA_F_COMPLETION_ALWAYS, NULL));
}

/* As librpma's examples do: wait for the event, then take the completion. */
static void
write_flush_event(void)
{
	struct ibv_wc wc;
	int ret;
	post_write_flush();
	do {
		must("rpma_cq_wait", rpma_cq_wait(cq));
		ret = rpma_cq_get_wc(cq, 1, &wc, NULL);
	} while (ret == RPMA_E_NO_COMPLETION);
	must("rpma_cq_get_wc", ret);
	check(&wc);
}

/* Look first, and wait only if there is nothing yet. */
static void
write_flush_look(void)
{
	struct ibv_wc wc;
	int ret;
	post_write_flush();
	while ((ret = rpma_cq_get_wc(cq, 1, &wc, NULL)) == RPMA_E_NO_COMPLETION)
		must("rpma_cq_wait", rpma_cq_wait(cq));
	must("rpma_cq_get_wc", ret);
	check(&wc);
}

/* The control: what the binding does, in C. Sleep on both descriptors, then take the event. */
static void
write_flush_poll(void)
{
	struct ibv_wc wc;
	int ret;
	post_write_flush();
	while ((ret = rpma_cq_get_wc(cq, 1, &wc, NULL)) == RPMA_E_NO_COMPLETION) {
		struct pollfd fds[2] = {{.fd = cq_fd, .events = POLLIN},
					{.fd = event_fd, .events = POLLIN}};
		if (poll(fds, 2, 100) > 0 && fds[0].revents)
			must("rpma_cq_wait", rpma_cq_wait(cq));
	}
	must("rpma_cq_get_wc", ret);
	check(&wc);
}

/* Never sleep. */
static void
write_flush_spin(void)
{
	struct ibv_wc wc;
	int ret;
	post_write_flush();
	do {
		ret = rpma_cq_get_wc(cq, 1, &wc, NULL);
	} while (ret == RPMA_E_NO_COMPLETION);
	must("rpma_cq_get_wc", ret);
	check(&wc);
}

static void
one_at_a_time(void (*operation)(void), uint64_t count)
{
	if (!latencies) {
		for (uint64_t i = 0; i < count; i++)
			operation();
		return;
	}
	for (uint64_t i = 0; i < count; i++) {
		uint64_t begin = now();
		operation();
		latencies[i] = now() - begin;
	}
}

/* ---- 4 KiB writes, each with its completion, `depth` of them under way ---- */

static void
window(uint64_t count)
{
	struct ibv_wc wcs[64];
	uint64_t posted = 0, done = 0;
	while (done < count) {
		while (posted < count && posted - done < depth) {
			size_t offset = posted * BLOCK % size;
			if (latencies)
				posted_at[posted] = now();
			must("rpma_write", rpma_write(conn, remote, offset, local, offset, BLOCK,
						      RPMA_F_COMPLETION_ALWAYS, (void *)posted));
			posted++;
		}
		int got = 0;
		int ret = rpma_cq_get_wc(cq, (int)depth, wcs, &got);
		if (ret == RPMA_E_NO_COMPLETION) {
			must("rpma_cq_wait", rpma_cq_wait(cq));
			continue;
		}
		must("rpma_cq_get_wc", ret);
		for (int i = 0; i < got; i++) {
			check(&wcs[i]);
			if (latencies)
				latencies[wcs[i].wr_id] = now() - posted_at[wcs[i].wr_id];
		}
		done += (uint64_t)got;
	}
}

/* ---- a batch of 4 KiB writes: the queue kept full, a completion every half queue ---- */

static void
batch(uint64_t count)
{
	struct ibv_wc wcs[64];
	uint64_t posted = 0, done = 0, interval = queue_size / 2;
	while (done < count) {
		while (posted < count && posted - done < queue_size) {
			size_t offset = posted * BLOCK % size;
			uint64_t after = posted + 1;
			int flags = after == count || after % interval == 0
					    ? RPMA_F_COMPLETION_ALWAYS
					    : RPMA_F_COMPLETION_ON_ERROR;
			must("rpma_write", rpma_write(conn, remote, offset, local, offset, BLOCK,
						      flags, (void *)after));
			posted = after;
		}
		int got = 0;
		int ret = rpma_cq_get_wc(cq, 64, wcs, &got);
		if (ret == RPMA_E_NO_COMPLETION) {
			must("rpma_cq_wait", rpma_cq_wait(cq));
			continue;
		}
		must("rpma_cq_get_wc", ret);
		for (int i = 0; i < got; i++) {
			check(&wcs[i]);
			done = wcs[i].wr_id; /* and all before it: a queue completes in order */
		}
	}
}

static void
timed_batch(uint64_t count)
{
	uint64_t begin = now();
	batch(count);
	if (latencies)
		latencies[0] = now() - begin;
}

/* ---- commands ---- */

static void
run(const char *way, uint64_t count)
{
	if (!strcmp(way, "write_flush_event"))
		one_at_a_time(write_flush_event, count);
	else if (!strcmp(way, "write_flush_look"))
		one_at_a_time(write_flush_look, count);
	else if (!strcmp(way, "write_flush_poll"))
		one_at_a_time(write_flush_poll, count);
	else if (!strcmp(way, "write_flush_spin"))
		one_at_a_time(write_flush_spin, count);
	else if (!strcmp(way, "window"))
		window(count);
	else if (!strcmp(way, "batch"))
		timed_batch(count);
	else
		fail("unknown way", 0);
}

static void
command(const char *way, uint64_t count, const char *file)
{
	latencies = posted_at = NULL;
	if (strcmp(file, "-")) {
		latencies = calloc(count, sizeof(*latencies));
		posted_at = calloc(count, sizeof(*posted_at));
		if (!latencies || !posted_at)
			fail("calloc", 0);
		/* The pages are there before the clock runs. */
		memset(latencies, 1, count * sizeof(*latencies));
		memset(posted_at, 1, count * sizeof(*posted_at));
	}
	uint64_t begin = now();
	run(way, count);
	uint64_t took = now() - begin;
	if (latencies) {
		size_t values = strcmp(way, "batch") ? count : 1;
		FILE *out = fopen(file, "wb");
		if (!out || fwrite(latencies, sizeof(*latencies), values, out) != values ||
		    fclose(out))
			fail(file, 0);
	}
	free(latencies);
	free(posted_at);
	(void)printf("%" PRIu64 "\n", took);
	(void)fflush(stdout);
}

static void
connect_to(const char *address, const char *port)
{
	struct ibv_context *device;
	must("rpma_utils_get_ibv_context",
	     rpma_utils_get_ibv_context(address, RPMA_UTIL_IBV_CONTEXT_REMOTE, &device));
	must("rpma_peer_new", rpma_peer_new(device, &peer));
	struct rpma_conn_cfg *cfg;
	must("rpma_conn_cfg_new", rpma_conn_cfg_new(&cfg));
	must("rpma_conn_cfg_set_sq_size", rpma_conn_cfg_set_sq_size(cfg, queue_size));
	must("rpma_conn_cfg_set_cq_size", rpma_conn_cfg_set_cq_size(cfg, queue_size));
	struct rpma_conn_req *request;
	must("rpma_conn_req_new", rpma_conn_req_new(peer, address, port, cfg, &request));
	must("rpma_conn_req_connect", rpma_conn_req_connect(&request, NULL, &conn));
	must("rpma_conn_cfg_delete", rpma_conn_cfg_delete(&cfg));
	enum rpma_conn_event event;
	must("rpma_conn_next_event", rpma_conn_next_event(conn, &event));
	if (event != RPMA_CONN_ESTABLISHED)
		fail(rpma_utils_conn_event_2str(event), 0);
	must("rpma_conn_get_cq", rpma_conn_get_cq(conn, &cq));
	must("rpma_cq_get_fd", rpma_cq_get_fd(cq, &cq_fd));
	must("rpma_conn_get_event_fd", rpma_conn_get_event_fd(conn, &event_fd));

	struct rpma_conn_private_data data;
	must("rpma_conn_get_private_data", rpma_conn_get_private_data(conn, &data));
	/* RoCE pads it with zeros, which librpma does not mind. */
	must("rpma_mr_remote_from_descriptor",
	     rpma_mr_remote_from_descriptor(data.ptr, data.len, &remote));
	must("rpma_mr_remote_get_size", rpma_mr_remote_get_size(remote, &size));
	memory = aligned_alloc(BLOCK, size);
	if (!memory)
		fail("aligned_alloc", 0);
	memset(memory, 1, size);
	must("rpma_mr_reg", rpma_mr_reg(peer, memory, size, RPMA_MR_USAGE_WRITE_SRC, &local));
}

int
main(int argc, char *argv[])
{
	if (argc != 5)
		fail("usage: binding_twin ADDRESS PORT QUEUE_SIZE DEPTH", 0);
	queue_size = (uint32_t)strtoul(argv[3], NULL, 10);
	depth = strtoull(argv[4], NULL, 10);
	if (queue_size < 2 || !depth || depth > 64 || depth > queue_size)
		fail("QUEUE_SIZE must be 2 or more, DEPTH 1 to 64 and within QUEUE_SIZE", 0);
	connect_to(argv[1], argv[2]);
	(void)puts("ready");
	(void)fflush(stdout);

	char line[512], way[64], file[384];
	uint64_t count;
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%63s %" SCNu64 " %383s", way, &count, file) != 3)
			fail("a command is WAY COUNT FILE", 0);
		command(way, count, file);
	}

	must("rpma_conn_disconnect", rpma_conn_disconnect(conn));
	must("rpma_conn_delete", rpma_conn_delete(&conn));
	must("rpma_mr_remote_delete", rpma_mr_remote_delete(&remote));
	must("rpma_mr_dereg", rpma_mr_dereg(&local));
	must("rpma_peer_delete", rpma_peer_delete(&peer));
	free(memory);
	return 0;
}
