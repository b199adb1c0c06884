/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * librpma.h -- remote access to (persistent) memory over RDMA, the API of librpma 1.3.
 *
 * Functions return 0 or a negative RPMA_E_* code, unless something else is said. Objects are
 * created by *_new and the like through a pointer to a handle, which is left alone when the call
 * fails, and deleted through a pointer to the handle, which is set to NULL. Sizes, lengths and
 * offsets are in bytes. RPMA_E_INVAL is returned for a NULL that is not allowed, RPMA_E_NOMEM when
 * memory runs out, RPMA_E_PROVIDER when a call of libibverbs or librdmacm fails; rpma_errormsg()
 * says which, and why.
 *
 * Threads: the functions that say so below can be called on one object by several threads at a
 * time; any function can be called by several threads on objects that have nothing to do with each
 * other.
 */
#ifndef LIBRPMA_H
#define LIBRPMA_H 1

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the version of the API ---- */

#define RPMA_MAJOR_VERSION 1
#define RPMA_MINOR_VERSION 3

/*
 * NULL if the library supports that version of the API, with
 * rpma_check_version(RPMA_MAJOR_VERSION, RPMA_MINOR_VERSION) the one that this header describes;
 * otherwise a static string that says why not.
 */
const char *rpma_check_version(unsigned major_required, unsigned minor_required);

/* ---- errors ---- */

#define RPMA_E_UNKNOWN (-100000)       /* the provider failed without saying why */
#define RPMA_E_NOSUPP (-100001)        /* not supported */
#define RPMA_E_PROVIDER (-100002)      /* libibverbs or librdmacm has failed */
#define RPMA_E_NOMEM (-100003)         /* out of memory */
#define RPMA_E_INVAL (-100004)         /* an argument cannot be */
#define RPMA_E_NO_COMPLETION (-100005) /* there is no completion */
#define RPMA_E_NO_EVENT (-100006)      /* there is no event */
#define RPMA_E_AGAIN (-100007)         /* it may succeed the next time */
#define RPMA_E_SHARED_CHANNEL                                                                      \
	(-100008) /* the completion channel is shared: use rpma_conn_wait()                        \
		   */
#define RPMA_E_NOT_SHARED_CHNL                                                                     \
	(-100009) /* the completion channel is not shared: use rpma_cq_wait() */

/* A static string for a code. */
const char *rpma_err_2str(int ret);

/*
 * The message of the last error of the calling thread; it is never cleared, and means something
 * right after a call that has failed.
 */
const char *rpma_errormsg(void);

/* ---- devices ---- */

#define RPMA_DEFAULT_TIMEOUT_MS 1000

enum rpma_util_ibv_context_type {
	RPMA_UTIL_IBV_CONTEXT_LOCAL, /* the device that has an address */
	RPMA_UTIL_IBV_CONTEXT_REMOTE /* the device that leads to an address */
};

/* The device for a numeric IPv4 or IPv6 address, or a name. It stays open. */
int rpma_utils_get_ibv_context(const char *addr, enum rpma_util_ibv_context_type type,
			       struct ibv_context **ibv_ctx_ptr);

/* Whether the device has on-demand paging for RDMA reads and writes: 1 or 0. */
int rpma_utils_ibv_context_is_odp_capable(struct ibv_context *ibv_ctx, int *is_odp_capable);

/* ---- what a peer tells the other one of itself ---- */

struct rpma_peer_cfg;

int rpma_peer_cfg_new(struct rpma_peer_cfg **pcfg_ptr);
int rpma_peer_cfg_delete(struct rpma_peer_cfg **pcfg_ptr);

/* Whether what arrives at this peer's persistent memory is in its persistence domain. Thread-safe.
 */
int rpma_peer_cfg_set_direct_write_to_pmem(struct rpma_peer_cfg *pcfg, bool supported);
int rpma_peer_cfg_get_direct_write_to_pmem(const struct rpma_peer_cfg *pcfg, bool *supported);

/* The bytes to send to the other peer, of the size that the second function tells. Thread-safe. */
int rpma_peer_cfg_get_descriptor(const struct rpma_peer_cfg *pcfg, void *desc);
int rpma_peer_cfg_get_descriptor_size(const struct rpma_peer_cfg *pcfg, size_t *desc_size);

/* RPMA_E_INVAL for fewer bytes than a descriptor has. They are believed: send them over a safe way.
 */
int rpma_peer_cfg_from_descriptor(const void *desc, size_t desc_size,
				  struct rpma_peer_cfg **pcfg_ptr);

/* ---- peers ---- */

struct rpma_peer;

/* A protection domain of a device. */
int rpma_peer_new(struct ibv_context *ibv_ctx, struct rpma_peer **peer_ptr);

/* Its connections and regions go before it; the handle stays when that fails. */
int rpma_peer_delete(struct rpma_peer **peer_ptr);

/* ---- memory regions ---- */

struct rpma_mr_local;
struct rpma_mr_remote;

#define RPMA_MR_USAGE_READ_SRC (1 << 0)
#define RPMA_MR_USAGE_READ_DST (1 << 1)
#define RPMA_MR_USAGE_WRITE_SRC (1 << 2)
#define RPMA_MR_USAGE_WRITE_DST (1 << 3)
#define RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY (1 << 4)
#define RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT (1 << 5)
#define RPMA_MR_USAGE_SEND (1 << 6)
#define RPMA_MR_USAGE_RECV (1 << 7)

/* Registers memory for the operations in `usage`, which are not none. */
int rpma_mr_reg(struct rpma_peer *peer, void *ptr, size_t size, int usage,
		struct rpma_mr_local **mr_ptr);

/* The handle stays when that fails. */
int rpma_mr_dereg(struct rpma_mr_local **mr_ptr);

/* The bytes to send to the other peer: little endian, of the size that the second function tells.
 */
int rpma_mr_get_descriptor(const struct rpma_mr_local *mr, void *desc);
int rpma_mr_get_descriptor_size(const struct rpma_mr_local *mr, size_t *desc_size);

/* RPMA_E_INVAL for fewer bytes than a descriptor has, or a usage of nothing. */
int rpma_mr_remote_from_descriptor(const void *desc, size_t desc_size,
				   struct rpma_mr_remote **mr_ptr);

int rpma_mr_get_ptr(const struct rpma_mr_local *mr, void **ptr);
int rpma_mr_get_size(const struct rpma_mr_local *mr, size_t *size);
int rpma_mr_remote_get_size(const struct rpma_mr_remote *mr, size_t *size);

/* RPMA_MR_USAGE_FLUSH_TYPE_*, those that the region was registered with. */
int rpma_mr_remote_get_flush_type(const struct rpma_mr_remote *mr, int *flush_type);
int rpma_mr_remote_delete(struct rpma_mr_remote **mr_ptr);

/* ibv_advise_mr(3) about a part of a region; RPMA_E_NOSUPP where the device has no advice to take.
 */
int rpma_mr_advise(struct rpma_mr_local *mr, size_t offset, size_t len, int advice, uint32_t flags);

/* ---- the configuration of a connection ---- */

struct rpma_conn_cfg;
struct rpma_srq;

/*
 * A timeout of RPMA_DEFAULT_TIMEOUT_MS, cq_size, sq_size and rq_size of 10, rcq_size 0, completion
 * channels that are not shared, no shared receive queue. Setting and getting are thread-safe.
 */
int rpma_conn_cfg_new(struct rpma_conn_cfg **cfg_ptr);
int rpma_conn_cfg_delete(struct rpma_conn_cfg **cfg_ptr);

/* For finding the other side, in milliseconds. */
int rpma_conn_cfg_set_timeout(struct rpma_conn_cfg *cfg, int timeout_ms);
int rpma_conn_cfg_get_timeout(const struct rpma_conn_cfg *cfg, int *timeout_ms);

/* How many completions fit. */
int rpma_conn_cfg_set_cq_size(struct rpma_conn_cfg *cfg, uint32_t cq_size);
int rpma_conn_cfg_get_cq_size(const struct rpma_conn_cfg *cfg, uint32_t *cq_size);

/* Of a completion queue of the receives' own; 0 for none. */
int rpma_conn_cfg_set_rcq_size(struct rpma_conn_cfg *cfg, uint32_t rcq_size);
int rpma_conn_cfg_get_rcq_size(const struct rpma_conn_cfg *cfg, uint32_t *rcq_size);

/* How many requests can be under way. */
int rpma_conn_cfg_set_sq_size(struct rpma_conn_cfg *cfg, uint32_t sq_size);
int rpma_conn_cfg_get_sq_size(const struct rpma_conn_cfg *cfg, uint32_t *sq_size);

/* How many receives can be posted. */
int rpma_conn_cfg_set_rq_size(struct rpma_conn_cfg *cfg, uint32_t rq_size);
int rpma_conn_cfg_get_rq_size(const struct rpma_conn_cfg *cfg, uint32_t *rq_size);

/* Whether both completion queues of a connection have one channel. */
int rpma_conn_cfg_set_compl_channel(struct rpma_conn_cfg *cfg, bool shared);
int rpma_conn_cfg_get_compl_channel(const struct rpma_conn_cfg *cfg, bool *shared);

/* A receive queue that connections share. */
int rpma_conn_cfg_set_srq(struct rpma_conn_cfg *cfg, struct rpma_srq *srq);
int rpma_conn_cfg_get_srq(const struct rpma_conn_cfg *cfg, struct rpma_srq **srq_ptr);

/* ---- shared receive queues ---- */

struct rpma_srq_cfg;
struct rpma_cq;

/* rq_size and rcq_size of 100. Setting and getting are thread-safe. */
int rpma_srq_cfg_new(struct rpma_srq_cfg **cfg_ptr);
int rpma_srq_cfg_delete(struct rpma_srq_cfg **cfg_ptr);
int rpma_srq_cfg_set_rq_size(struct rpma_srq_cfg *cfg, uint32_t rq_size);
int rpma_srq_cfg_get_rq_size(const struct rpma_srq_cfg *cfg, uint32_t *rq_size);
int rpma_srq_cfg_set_rcq_size(struct rpma_srq_cfg *cfg, uint32_t rcq_size);
int rpma_srq_cfg_get_rcq_size(const struct rpma_srq_cfg *cfg, uint32_t *rcq_size);

/* With the defaults if `cfg` is NULL; without a completion queue of its own if rcq_size is 0. */
int rpma_srq_new(struct rpma_peer *peer, struct rpma_srq_cfg *cfg, struct rpma_srq **srq_ptr);
int rpma_srq_delete(struct rpma_srq **srq_ptr);

/* Posts a receive for a message of any of its connections. Thread-safe. */
int rpma_srq_recv(struct rpma_srq *srq, struct rpma_mr_local *dst, size_t offset, size_t len,
		  const void *op_context);

/* Its completion queue, or NULL. */
int rpma_srq_get_rcq(const struct rpma_srq *srq, struct rpma_cq **rcq_ptr);

/* ---- connections ---- */

struct rpma_conn;

enum rpma_conn_event {
	RPMA_CONN_UNDEFINED = -1,
	RPMA_CONN_ESTABLISHED, /* it can be used */
	RPMA_CONN_CLOSED,      /* one side has disconnected */
	RPMA_CONN_LOST,        /* it has failed */
	RPMA_CONN_REJECTED,    /* the other side does not want it, or nobody listens */
	RPMA_CONN_UNREACHABLE  /* there is no way to the other side */
};

/* A static string for an event. */
const char *rpma_utils_conn_event_2str(enum rpma_conn_event conn_event);

struct rpma_conn_private_data {
	void *ptr;
	uint8_t len;
};

/* Readable when there is an event. */
int rpma_conn_get_event_fd(const struct rpma_conn *conn, int *fd);

/* Waits for it, unless the descriptor above is non-blocking: then RPMA_E_NO_EVENT if there is none.
 */
int rpma_conn_next_event(struct rpma_conn *conn, enum rpma_conn_event *event);

/* What the other side sent with its request, or its answer to ours; it lives as the connection
 * does. */
int rpma_conn_get_private_data(const struct rpma_conn *conn, struct rpma_conn_private_data *pdata);

/* What the other side has said of itself: from then on, persistent flushes rely on it. */
int rpma_conn_apply_remote_peer_cfg(struct rpma_conn *conn, const struct rpma_peer_cfg *pcfg);

int rpma_conn_get_qp_num(const struct rpma_conn *conn, uint32_t *qp_num);
int rpma_conn_get_cq(const struct rpma_conn *conn, struct rpma_cq **cq_ptr);

/* The completion queue of the receives; NULL if they have none of their own. */
int rpma_conn_get_rcq(const struct rpma_conn *conn, struct rpma_cq **rcq_ptr);

/* RPMA_CONN_CLOSED follows. */
int rpma_conn_disconnect(struct rpma_conn *conn);

/* The handle is NULL afterwards, also when that fails. */
int rpma_conn_delete(struct rpma_conn **conn_ptr);

#define RPMA_W_WAIT_FOR_COMPLETION (1)

/* The descriptor of a shared completion channel. */
int rpma_conn_get_compl_fd(const struct rpma_conn *conn, int *fd);

/* Waits for a completion of either queue; then take all that the queue has. `is_rcq` can be NULL.
 */
int rpma_conn_wait(struct rpma_conn *conn, int flags, struct rpma_cq **cq, bool *is_rcq);

/* ---- connecting ---- */

struct rpma_conn_req;

/* Finds the way to the other side; with the defaults if `cfg` is NULL. */
int rpma_conn_req_new(struct rpma_peer *peer, const char *addr, const char *port,
		      const struct rpma_conn_cfg *cfg, struct rpma_conn_req **req_ptr);

/* Refuses a request of the other side. The handle is NULL afterwards, also when that fails. */
int rpma_conn_req_delete(struct rpma_conn_req **req_ptr);

/* Connects, or accepts; either way the request is gone. RPMA_CONN_ESTABLISHED follows. */
int rpma_conn_req_connect(struct rpma_conn_req **req_ptr,
			  const struct rpma_conn_private_data *pdata, struct rpma_conn **conn_ptr);

/* What the other side sent with its request; ptr is NULL if it sent nothing. */
int rpma_conn_req_get_private_data(const struct rpma_conn_req *req,
				   struct rpma_conn_private_data *pdata);

/* As rpma_recv(), before the connection is there, so that its first message finds a receive. */
int rpma_conn_req_recv(struct rpma_conn_req *req, struct rpma_mr_local *dst, size_t offset,
		       size_t len, const void *op_context);

struct rpma_ep;

int rpma_ep_listen(struct rpma_peer *peer, const char *addr, const char *port,
		   struct rpma_ep **ep_ptr);

/* The handle stays when that fails. */
int rpma_ep_shutdown(struct rpma_ep **ep_ptr);

/* Readable when there is a request. */
int rpma_ep_get_fd(const struct rpma_ep *ep, int *fd);

/* Waits for it, unless the descriptor above is non-blocking: then RPMA_E_NO_EVENT if there is none.
 */
int rpma_ep_next_conn_req(struct rpma_ep *ep, const struct rpma_conn_cfg *cfg,
			  struct rpma_conn_req **req_ptr);

/* ---- operations; thread-safe ---- */

/* When an operation leaves a completion, with `op_context` as its wr_id. */
#define RPMA_F_COMPLETION_ON_ERROR (1 << 0)
#define RPMA_F_COMPLETION_ALWAYS (1 << 1 | RPMA_F_COMPLETION_ON_ERROR)

#define RPMA_ATOMIC_WRITE_ALIGNMENT 8

enum rpma_flush_type {
	RPMA_FLUSH_TYPE_PERSISTENT, /* to the persistence domain of the other side */
	RPMA_FLUSH_TYPE_VISIBILITY, /* to where the processors of the other side see it */
};

/* A read of nothing has NULL and 0 for all of dst and src. */
int rpma_read(struct rpma_conn *conn, struct rpma_mr_local *dst, size_t dst_offset,
	      const struct rpma_mr_remote *src, size_t src_offset, size_t len, int flags,
	      const void *op_context);

/* A write of nothing has NULL and 0 for all of dst and src. */
int rpma_write(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset,
	       const struct rpma_mr_local *src, size_t src_offset, size_t len, int flags,
	       const void *op_context);

/* Consumes a receive of the other side, whose completion has `imm`. */
int rpma_write_with_imm(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset,
			const struct rpma_mr_local *src, size_t src_offset, size_t len, int flags,
			uint32_t imm, const void *op_context);

/* 8 bytes, which nobody sees in part, after all reads before; dst_offset is a multiple of 8. */
int rpma_atomic_write(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset,
		      const char src[8], int flags, const void *op_context);

/*
 * When it completes, what was written to the range before is where `type` says. RPMA_E_NOSUPP if
 * the region was not registered for that type, or, with RPMA_FLUSH_TYPE_PERSISTENT, the other side
 * has not said that it can write to persistent memory directly.
 */
int rpma_flush(struct rpma_conn *conn, struct rpma_mr_remote *dst, size_t dst_offset, size_t len,
	       enum rpma_flush_type type, int flags, const void *op_context);

/* A message of nothing has NULL and 0 for src, offset and len. */
int rpma_send(struct rpma_conn *conn, const struct rpma_mr_local *src, size_t offset, size_t len,
	      int flags, const void *op_context);
int rpma_send_with_imm(struct rpma_conn *conn, const struct rpma_mr_local *src, size_t offset,
		       size_t len, int flags, uint32_t imm, const void *op_context);

/* Posts a receive; one for nothing has NULL and 0 for dst, offset and len. */
int rpma_recv(struct rpma_conn *conn, struct rpma_mr_local *dst, size_t offset, size_t len,
	      const void *op_context);

/* ---- completions ---- */

/* Readable when there is a completion, of either queue where they share a channel. */
int rpma_cq_get_fd(const struct rpma_cq *cq, int *fd);

/* Waits for one; then take all that the queue has. RPMA_E_SHARED_CHANNEL where that is shared. */
int rpma_cq_wait(struct rpma_cq *cq);

/*
 * Takes up to `num_entries`; `num_entries_got` can be NULL if that is 1. RPMA_E_NO_COMPLETION if
 * there is none. Thread-safe.
 */
int rpma_cq_get_wc(struct rpma_cq *cq, int num_entries, struct ibv_wc *wc, int *num_entries_got);

/* ---- the log ---- */

enum rpma_log_level {
	RPMA_LOG_DISABLED = -1,
	RPMA_LOG_LEVEL_FATAL,
	RPMA_LOG_LEVEL_ERROR,
	RPMA_LOG_LEVEL_WARNING,
	RPMA_LOG_LEVEL_NOTICE,
	RPMA_LOG_LEVEL_INFO,
	RPMA_LOG_LEVEL_DEBUG,
};

enum rpma_log_threshold {
	RPMA_LOG_THRESHOLD,     /* up to which level messages are logged; RPMA_LOG_LEVEL_WARNING */
	RPMA_LOG_THRESHOLD_AUX, /* and to stderr, by the default function; RPMA_LOG_DISABLED */
	RPMA_LOG_THRESHOLD_MAX
};

/* Thread-safe, as all of the log. */
int rpma_log_set_threshold(enum rpma_log_threshold threshold, enum rpma_log_level level);
int rpma_log_get_threshold(enum rpma_log_threshold threshold, enum rpma_log_level *level);

/* file_name can be NULL; then line_no and function_name mean nothing. */
typedef void rpma_log_function(enum rpma_log_level level, const char *file_name, const int line_no,
			       const char *function_name, const char *message_format, ...);

/* To syslog(3), and to stderr as RPMA_LOG_THRESHOLD_AUX says. */
#define RPMA_LOG_USE_DEFAULT_FUNCTION (NULL)

int rpma_log_set_function(rpma_log_function *log_function);

#ifdef __cplusplus
}
#endif
#endif
