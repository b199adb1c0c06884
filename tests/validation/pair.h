/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pair.h -- a connection from this process to itself, for programs that do something wrong with it.
 * They are compiled against <librpma.h> as any program is. $RPMA_TEST_ADDRESS: where.
 */
#ifndef PAIR_H
#define PAIR_H

#include <fcntl.h>
#include <librpma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define SIZE (4 * PAGE)

/* What any memory can be registered for. */
#define EVERY_USAGE                                                                                \
	(RPMA_MR_USAGE_READ_SRC | RPMA_MR_USAGE_READ_DST | RPMA_MR_USAGE_WRITE_SRC |               \
	 RPMA_MR_USAGE_WRITE_DST | RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY | RPMA_MR_USAGE_SEND |      \
	 RPMA_MR_USAGE_RECV)

struct pair {
	struct rpma_peer *peer;
	struct rpma_conn_cfg *cfg; /* of both sides; NULL: librpma's defaults */
	struct rpma_ep *ep;
	struct rpma_conn *conn, *passive;
	struct rpma_cq *cq, *passive_cq;
	char *source, *target; /* SIZE bytes each */
	int target_usage;      /* 0: EVERY_USAGE */
	struct rpma_mr_local *local, *target_mr;
	struct rpma_mr_remote *remote;
};

#define must(call)                                                                                 \
	do {                                                                                       \
		int must_ret = (call);                                                             \
		if (must_ret) {                                                                    \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,              \
				rpma_err_2str(must_ret));                                          \
			exit(3);                                                                   \
		}                                                                                  \
	} while (0)

static inline const char *
address(void)
{
	const char *name = getenv("RPMA_TEST_ADDRESS");
	return name ? name : "127.0.0.1";
}

static inline const char *
port(void)
{
	const char *name = getenv("RPMA_TEST_PORT");
	return name ? name : "7204";
}

static inline char *
memory(void)
{
	void *ptr = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ptr == MAP_FAILED)
		exit(3);
	return memset(ptr, 'x', SIZE);
}

/* What may be registered for flushes to persistence: $RPMA_TEST_DAX, or else memory as any. */
static inline char *
persistent_memory(void)
{
	const size_t page = 2u << 20;
	const char *dax = getenv("RPMA_TEST_DAX");
	if (!dax || !*dax)
		return memory();
	int fd = open(dax, O_RDWR);
	void *ptr = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || ptr == MAP_FAILED)
		exit(3);
	return memset(ptr, 'x', SIZE);
}

static inline struct rpma_peer *
new_peer(void)
{
	struct ibv_context *context;
	struct rpma_peer *peer;
	must(rpma_utils_get_ibv_context(address(), RPMA_UTIL_IBV_CONTEXT_LOCAL, &context));
	must(rpma_peer_new(context, &peer));
	return peer;
}

static inline struct rpma_mr_remote *
as_remote(const struct rpma_mr_local *mr)
{
	char descriptor[64];
	size_t size;
	struct rpma_mr_remote *remote;
	must(rpma_mr_get_descriptor_size(mr, &size));
	must(rpma_mr_get_descriptor(mr, descriptor));
	must(rpma_mr_remote_from_descriptor(descriptor, size, &remote));
	return remote;
}

/* The peer and what is registered with it. */
static inline void
pair_memory(struct pair *pair)
{
	pair->peer = new_peer();
	pair->source = memory();
	if (!pair->target)
		pair->target = memory();
	if (!pair->target_usage)
		pair->target_usage = EVERY_USAGE;
	must(rpma_mr_reg(pair->peer, pair->source, SIZE, EVERY_USAGE, &pair->local));
	must(rpma_mr_reg(pair->peer, pair->target, SIZE, pair->target_usage, &pair->target_mr));
	pair->remote = as_remote(pair->target_mr);
}

static inline void
expect_event(struct rpma_conn *conn, enum rpma_conn_event wanted)
{
	enum rpma_conn_event event;
	must(rpma_conn_next_event(conn, &event));
	if (event != wanted) {
		fprintf(stderr, "%s\n", rpma_utils_conn_event_2str(event));
		exit(3);
	}
}

static inline void
pair_connecting(struct pair *pair)
{
	struct rpma_conn_req *active, *passive;
	must(rpma_ep_listen(pair->peer, address(), port(), &pair->ep));
	must(rpma_conn_req_new(pair->peer, address(), port(), pair->cfg, &active));
	must(rpma_conn_req_connect(&active, NULL, &pair->conn));
	must(rpma_ep_next_conn_req(pair->ep, pair->cfg, &passive));
	must(rpma_conn_req_connect(&passive, NULL, &pair->passive));
}

static inline void
pair_established(struct pair *pair)
{
	expect_event(pair->conn, RPMA_CONN_ESTABLISHED);
	expect_event(pair->passive, RPMA_CONN_ESTABLISHED);
	must(rpma_conn_get_cq(pair->conn, &pair->cq));
	must(rpma_conn_get_cq(pair->passive, &pair->passive_cq));
}

static inline void
pair_new(struct pair *pair)
{
	pair_memory(pair);
	pair_connecting(pair);
	pair_established(pair);
}

static inline void
pair_disconnect(struct pair *pair)
{
	must(rpma_conn_disconnect(pair->conn));
	expect_event(pair->passive, RPMA_CONN_CLOSED);
	/* Without the other side's own a kernel's connection manager asks it for 80 s. */
	must(rpma_conn_disconnect(pair->passive));
	expect_event(pair->conn, RPMA_CONN_CLOSED);
}

static inline void
pair_delete(struct pair *pair)
{
	must(rpma_conn_delete(&pair->conn));
	must(rpma_conn_delete(&pair->passive));
	must(rpma_ep_shutdown(&pair->ep));
	must(rpma_mr_remote_delete(&pair->remote));
	must(rpma_mr_dereg(&pair->local));
	must(rpma_mr_dereg(&pair->target_mr));
	if (pair->cfg)
		must(rpma_conn_cfg_delete(&pair->cfg));
	must(rpma_peer_delete(&pair->peer));
}

/* The next work completion of a CQ. */
static inline struct ibv_wc
completion(struct rpma_cq *cq)
{
	struct ibv_wc wc;
	int ret = rpma_cq_get_wc(cq, 1, &wc, NULL);
	while (ret == RPMA_E_NO_COMPLETION) {
		must(rpma_cq_wait(cq));
		ret = rpma_cq_get_wc(cq, 1, &wc, NULL);
	}
	must(ret);
	return wc;
}

#endif
