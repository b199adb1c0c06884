/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * validation_calls.c -- what calls of the data path cost on the normal librpma and on its debug
 * build: validation_calls NORMAL DEBUG, two paths. Both are loaded, each has a connection of its
 * own, and they take turns of BATCH calls, so that both meet the same device in the same mood.
 * Prints "CALL NORMAL DEBUG ADDED": nanoseconds, medians over ROUNDS of the means of the calls of a
 * turn; ADDED is that of the differences within a round.
 */
#include <dlfcn.h>
#include <librpma.h>
#include <stdint.h>
#include <time.h>

#define FUNCTIONS(X)                                                                               \
	X(rpma_conn_cfg_delete)                                                                    \
	X(rpma_conn_cfg_new)                                                                       \
	X(rpma_conn_cfg_set_cq_size)                                                               \
	X(rpma_conn_cfg_set_rq_size)                                                               \
	X(rpma_conn_cfg_set_sq_size)                                                               \
	X(rpma_conn_delete)                                                                        \
	X(rpma_conn_disconnect)                                                                    \
	X(rpma_conn_get_cq)                                                                        \
	X(rpma_conn_next_event)                                                                    \
	X(rpma_conn_req_connect)                                                                   \
	X(rpma_conn_req_new)                                                                       \
	X(rpma_cq_get_wc)                                                                          \
	X(rpma_cq_wait)                                                                            \
	X(rpma_ep_listen)                                                                          \
	X(rpma_ep_next_conn_req)                                                                   \
	X(rpma_ep_shutdown)                                                                        \
	X(rpma_err_2str)                                                                           \
	X(rpma_mr_dereg)                                                                           \
	X(rpma_mr_get_descriptor)                                                                  \
	X(rpma_mr_get_descriptor_size)                                                             \
	X(rpma_mr_reg)                                                                             \
	X(rpma_mr_remote_delete)                                                                   \
	X(rpma_mr_remote_from_descriptor)                                                          \
	X(rpma_peer_delete)                                                                        \
	X(rpma_peer_new)                                                                           \
	X(rpma_read)                                                                               \
	X(rpma_recv)                                                                               \
	X(rpma_send)                                                                               \
	X(rpma_utils_conn_event_2str)                                                              \
	X(rpma_utils_get_ibv_context)                                                              \
	X(rpma_write)

struct api {
#define MEMBER(name) __typeof__(&name) name;
	FUNCTIONS(MEMBER)
};

#define NAME(name) #name,
static const char *const names[] = {FUNCTIONS(NAME)};

/* The one that the calls below go to. */
static struct api *api;

#define rpma_conn_cfg_delete api->rpma_conn_cfg_delete
#define rpma_conn_cfg_new api->rpma_conn_cfg_new
#define rpma_conn_cfg_set_cq_size api->rpma_conn_cfg_set_cq_size
#define rpma_conn_cfg_set_rq_size api->rpma_conn_cfg_set_rq_size
#define rpma_conn_cfg_set_sq_size api->rpma_conn_cfg_set_sq_size
#define rpma_conn_delete api->rpma_conn_delete
#define rpma_conn_disconnect api->rpma_conn_disconnect
#define rpma_conn_get_cq api->rpma_conn_get_cq
#define rpma_conn_next_event api->rpma_conn_next_event
#define rpma_conn_req_connect api->rpma_conn_req_connect
#define rpma_conn_req_new api->rpma_conn_req_new
#define rpma_cq_get_wc api->rpma_cq_get_wc
#define rpma_cq_wait api->rpma_cq_wait
#define rpma_ep_listen api->rpma_ep_listen
#define rpma_ep_next_conn_req api->rpma_ep_next_conn_req
#define rpma_ep_shutdown api->rpma_ep_shutdown
#define rpma_err_2str api->rpma_err_2str
#define rpma_mr_dereg api->rpma_mr_dereg
#define rpma_mr_get_descriptor api->rpma_mr_get_descriptor
#define rpma_mr_get_descriptor_size api->rpma_mr_get_descriptor_size
#define rpma_mr_reg api->rpma_mr_reg
#define rpma_mr_remote_delete api->rpma_mr_remote_delete
#define rpma_mr_remote_from_descriptor api->rpma_mr_remote_from_descriptor
#define rpma_peer_delete api->rpma_peer_delete
#define rpma_peer_new api->rpma_peer_new
#define rpma_read api->rpma_read
#define rpma_recv api->rpma_recv
#define rpma_send api->rpma_send
#define rpma_utils_conn_event_2str api->rpma_utils_conn_event_2str
#define rpma_utils_get_ibv_context api->rpma_utils_get_ibv_context
#define rpma_write api->rpma_write

#include "pair.h"

#define BATCH 16
#define ROUNDS 2000

enum { NORMAL, DEBUG, LIBRARIES };

static struct api apis[LIBRARIES];
static struct pair pairs[LIBRARIES];

static void
load(const char *path, struct api *into)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		exit(3);
	}
	void **members = (void **)(void *)into;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		members[i] = dlsym(library, names[i]);
}

static void
use(int library)
{
	api = &apis[library];
}

static uint64_t
now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int
compare(const void *one, const void *other)
{
	const double a = *(const double *)one, b = *(const double *)other;
	return (a > b) - (a < b);
}

static double
median(double *values)
{
	qsort(values, ROUNDS, sizeof(*values), compare);
	return values[ROUNDS / 2];
}

/* Times of one call, by library. call: made once on the pair; after: what it leaves is cleared. */
static void
measure(const char *name, void (*before)(struct pair *), void (*call)(struct pair *),
	void (*after)(struct pair *))
{
	static double times[LIBRARIES][ROUNDS], added[ROUNDS];
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t sums[LIBRARIES] = {0};
		for (int turn = 0; turn < LIBRARIES; turn++) {
			int library = (turn + round) % LIBRARIES;
			struct pair *pair = &pairs[library];
			use(library);
			for (int n = 0; n < BATCH; n++) {
				if (before)
					before(pair);
				uint64_t start = now();
				call(pair);
				sums[library] += now() - start;
				if (after)
					after(pair);
			}
		}
		for (int library = 0; library < LIBRARIES; library++)
			times[library][round] = (double)sums[library] / BATCH;
		added[round] = times[DEBUG][round] - times[NORMAL][round];
	}
	printf("%s %.1f %.1f %.1f\n", name, median(times[NORMAL]), median(times[DEBUG]),
	       median(added));
}

static void
post_write(struct pair *pair)
{
	must(rpma_write(pair->conn, pair->remote, 0, pair->local, 0, 8, RPMA_F_COMPLETION_ALWAYS,
			NULL));
}

static void
post_read(struct pair *pair)
{
	must(rpma_read(pair->conn, pair->local, 0, pair->remote, 0, 8, RPMA_F_COMPLETION_ALWAYS,
		       NULL));
}

static void
post_receive(struct pair *pair)
{
	must(rpma_recv(pair->passive, pair->target_mr, 0, 8, NULL));
}

static void
collect(struct pair *pair)
{
	struct ibv_wc wc;
	int ret;
	while ((ret = rpma_cq_get_wc(pair->cq, 1, &wc, NULL)) == RPMA_E_NO_COMPLETION)
		;
	must(ret);
}

/* The receive that was posted is used up. */
static void
send_message(struct pair *pair)
{
	must(rpma_send(pair->conn, pair->local, 0, 8, RPMA_F_COMPLETION_ALWAYS, NULL));
	collect(pair);
	(void)completion(pair->passive_cq);
}

static void
poll_empty(struct pair *pair)
{
	struct ibv_wc wc;
	must(rpma_cq_get_wc(pair->cq, 1, &wc, NULL) != RPMA_E_NO_COMPLETION);
}

static void
write_and_let_come(struct pair *pair)
{
	post_write(pair);
	usleep(50);
}

int
main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	for (int library = 0; library < LIBRARIES; library++) {
		load(argv[1 + library], &apis[library]);
		use(library);
		must(rpma_conn_cfg_new(&pairs[library].cfg));
		pair_new(&pairs[library]);
		must(rpma_ep_shutdown(&pairs[library].ep));
	}
	measure("rpma_write", NULL, post_write, collect);
	measure("rpma_read", NULL, post_read, collect);
	measure("rpma_recv", NULL, post_receive, send_message);
	measure("rpma_cq_get_wc,_none", NULL, poll_empty, NULL);
	measure("rpma_cq_get_wc,_one", write_and_let_come, collect, NULL);
	return 0;
}
