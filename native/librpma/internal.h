/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h -- what the files of librpma share: its objects, and what one asks of another. */
#ifndef RPMA_INTERNAL_H
#define RPMA_INTERNAL_H

#include "librpma.h"

#include <rdma/rdma_cma.h>
#include <stdatomic.h>

/* ---- messages (log.c) ---- */

/* An error is kept for rpma_errormsg(), whatever the threshold is. */
#define say_error(...) message(RPMA_LOG_LEVEL_ERROR, __FILE_NAME__, __LINE__, __func__, __VA_ARGS__)
#define say_warning(...)                                                                           \
	message(RPMA_LOG_LEVEL_WARNING, __FILE_NAME__, __LINE__, __func__, __VA_ARGS__)
#define say_notice(...)                                                                            \
	message(RPMA_LOG_LEVEL_NOTICE, __FILE_NAME__, __LINE__, __func__, __VA_ARGS__)

void message(enum rpma_log_level level, const char *file, int line, const char *function,
	     const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Says that a call of libibverbs or librdmacm has failed, with an errno; RPMA_E_PROVIDER. */
#define provider_failed(call, error) provider_error(__FILE_NAME__, __LINE__, __func__, call, error)

int provider_error(const char *file, int line, const char *function, const char *call, int error);

/* Says that an argument cannot be; RPMA_E_INVAL. */
#define invalid(...) (say_error(__VA_ARGS__), RPMA_E_INVAL)

/* ---- objects ---- */

struct rpma_peer {
	struct ibv_pd *pd;
	bool is_iwarp;       /* whose reads need memory that can be written remotely */
	bool is_odp_capable; /* memory that cannot be pinned is paged on demand */
};

struct rpma_peer_cfg {
	_Atomic bool direct_write_to_pmem;
};

struct rpma_mr_local {
	struct ibv_mr *mr;
	int usage;
};

struct rpma_mr_remote {
	uint64_t address, size;
	uint32_t rkey;
	uint8_t usage;
};

struct rpma_cq {
	struct ibv_cq *cq;
	struct ibv_comp_channel *channel;
	bool is_shared; /* the channel, which then belongs to the connection */
};

struct rpma_srq {
	struct ibv_srq *srq;
	struct rpma_cq *rcq; /* NULL: receives complete into the connection's queue */
};

/* Several threads set and get fields at a time. */
struct rpma_conn_cfg {
	_Atomic int timeout_ms;
	_Atomic uint32_t cq_size, rcq_size, sq_size, rq_size;
	_Atomic bool shared_channel;
	_Atomic(struct rpma_srq *) srq;
};

struct rpma_srq_cfg {
	_Atomic uint32_t rq_size, rcq_size;
};

struct rpma_ep {
	struct rpma_peer *peer;
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
};

/* An id with a queue pair and what that needs. */
struct endpoint_queues {
	struct ibv_comp_channel *channel; /* the shared one, or NULL */
	struct rpma_cq *cq, *rcq;
};

struct rpma_conn_req {
	struct rpma_peer *peer;
	struct rdma_cm_id *id;
	struct endpoint_queues queues;
	struct rpma_conn_private_data data;
	bool is_passive; /* it came to an endpoint */
};

struct rpma_conn {
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct endpoint_queues queues;
	struct rpma_conn_private_data data;
	_Atomic bool direct_write_to_pmem;
	/* Where the reads go that make a flush. */
	struct ibv_mr *flush_mr;
	uint64_t *flush_words;
};

/* ---- what they ask of each other ---- */

/* Access flags for ibv_reg_mr(3). */
int peer_access(const struct rpma_peer *peer, int usage);

/* ibv_reg_mr(3), paged on demand where the memory cannot be pinned; NULL and errno. */
struct ibv_mr *peer_reg(const struct rpma_peer *peer, void *ptr, size_t size, int usage);

/* The addresses of a node, for listening or connecting; free with rdma_freeaddrinfo(3). */
int address_find(const char *addr, const char *port, bool is_passive, struct rdma_addrinfo **found);

/* With a channel of its own, unless it is given one. */
int cq_new(struct ibv_context *context, uint32_t size, struct ibv_comp_channel *shared,
	   struct rpma_cq **cq_ptr);
int cq_delete(struct rpma_cq **cq_ptr);

/* The configuration, or the defaults for NULL. */
const struct rpma_conn_cfg *conn_cfg_or_default(const struct rpma_conn_cfg *cfg);
const struct rpma_srq_cfg *srq_cfg_or_default(const struct rpma_srq_cfg *cfg);

int queues_delete(struct endpoint_queues *queues);

/* A copy of what the other side sent; *data is empty when it sent nothing. */
int private_data_copy(struct rpma_conn_private_data *data, const struct rdma_cm_event *event);
void private_data_free(struct rpma_conn_private_data *data);

/* A request that came to an endpoint, with its id; the event is still the caller's. */
int conn_req_from_event(struct rpma_peer *peer, struct rdma_cm_event *event,
			const struct rpma_conn_cfg *cfg, struct rpma_conn_req **req_ptr);

/* A connection of what a request has: the id, which is given a channel for its events, and the
 * rest. */
int conn_new(struct rpma_conn_req *req, struct rpma_conn **conn_ptr);

int post_recv(struct ibv_qp *qp, struct ibv_srq *srq, const struct rpma_mr_local *dst,
	      size_t offset, size_t len, const void *op_context);

#endif
