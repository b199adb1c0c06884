/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The binding's C interface: what Python calls. Read twice, by cffi and by the compiler, so it
 * holds plain declarations only. A function returns 0, a code of librpma, or one of these.
 */

#define RPMAPY_AGAIN 1            /* a slice of the wait is over: see to signals, then call again */
#define RPMAPY_E_CLOSED -200001   /* an object of the call is closed */
#define RPMAPY_E_FORKED -200002   /* an object of the call belongs to the parent process */
#define RPMAPY_E_CHILDREN -200003 /* close: objects that need this one are still open */
#define RPMAPY_E_ARGUMENT -200004 /* an argument is out of its range: Python says which */
#define RPMAPY_E_TIMEOUT -200005  /* the deadline has passed */
#define RPMAPY_E_COMPLETION -200006 /* a request failed: rpmapy_operation_failure() */
#define RPMAPY_E_ENDED -200007      /* the connection ended: rpmapy_conn_ended() */
#define RPMAPY_E_BUSY -200008       /* another thread is inside an operation of this connection */
#define RPMAPY_E_QUEUE_FULL -200009 /* the send or receive queue takes no further request */
#define RPMAPY_E_SRQ_CLOSED                                                                        \
	-200010 /* the configuration names a shared receive queue that is closed */

#define RPMAPY_MESSAGE_SIZE 1024
#define RPMAPY_WR_ID_RESERVED 0x8000000000000000 /* a wr_id from here on is the binding's own */
#define RPMAPY_FOREVER 0x7fffffffffffffff

struct rpmapy_peer;
struct rpmapy_peer_cfg;
struct rpmapy_local;
struct rpmapy_remote;
struct rpmapy_conn_cfg;
struct rpmapy_srq_cfg;
struct rpmapy_srq;
struct rpmapy_ep;
struct rpmapy_conn_req;
struct rpmapy_conn;
struct rpmapy_cq;

/* ---- handle.c: lifetime, common to all objects ---- */

int rpmapy_init(void);
int rpmapy_close(void *handle);
void rpmapy_release(void *handle);
void *rpmapy_cell_new(void);
void rpmapy_cell_free(void *cell);
int rpmapy_state(const void *handle);
unsigned rpmapy_children(const void *handle);

/* ---- library.c: which librpma is loaded ---- */

const char *rpmapy_library_path(void);
const char *rpmapy_ibverbs_path(void);
const char *rpmapy_rdmacm_path(void);
bool rpmapy_has_check_version(void);
bool rpmapy_has_errormsg(void);
bool rpmapy_is_debug_build(void);
const char *rpmapy_check_version(unsigned major, unsigned minor);
const char *rpmapy_err_2str(int code);
const char *rpmapy_conn_event_2str(int event);
const char *rpmapy_wc_status_2str(int status);

/* ---- log.c: librpma's log function, the last error message ---- */

struct rpmapy_log_record {
	int level;
	int line;
	int thread;
	unsigned dropped; /* records lost before this one, the ring being full */
	double when;      /* seconds since the epoch */
	char file[96];
	char function[96];
	char message[RPMAPY_MESSAGE_SIZE];
};

const char *rpmapy_errormsg(void);
const char *rpmapy_call_message(void);
int rpmapy_log_set_threshold(int threshold, int level);
int rpmapy_log_get_threshold(int threshold, int *level);
void rpmapy_log_listen(bool on);
int rpmapy_log_next(struct rpmapy_log_record *record);
bool rpmapy_log_drained(void);
void rpmapy_log_delivered(void);
void rpmapy_log_message(int level, const char *message);

/* ---- device.c ---- */

struct rpmapy_device_attributes {
	uint64_t node_guid;
	uint64_t max_memory_region_size;
	uint32_t max_message_size;
	int max_queue_size;
	int max_completion_queue_size;
	int transport;
	int link_layer;
	int port_state;
	char firmware[64];
};

int rpmapy_device_names(char *names, size_t size);
int rpmapy_device_for_address(const char *address, int side, bool is_second_attempt,
			      struct ibv_context **context);
const char *rpmapy_device_name(struct ibv_context *context);
int rpmapy_device_attributes(struct ibv_context *context, struct rpmapy_device_attributes *out);
int rpmapy_device_is_odp_capable(struct ibv_context *context, int *capable);

/* ---- peer.c, memory.c ---- */

int rpmapy_peer_new(struct ibv_context *context, struct rpmapy_peer **out);

int rpmapy_peer_cfg_new(struct rpmapy_peer_cfg **out);
int rpmapy_peer_cfg_from_descriptor(const void *descriptor, size_t size,
				    struct rpmapy_peer_cfg **out);
int rpmapy_peer_cfg_set_direct_write_to_pmem(struct rpmapy_peer_cfg *cfg, bool supported);
int rpmapy_peer_cfg_get_direct_write_to_pmem(struct rpmapy_peer_cfg *cfg, bool *supported);
int rpmapy_peer_cfg_get_descriptor(struct rpmapy_peer_cfg *cfg, void *descriptor, size_t *size);

int rpmapy_mr_reg(struct rpmapy_peer *peer, void *ptr, size_t size, int usage,
		  struct rpmapy_local **out);
int rpmapy_mr_get_descriptor(struct rpmapy_local *mr, void *descriptor, size_t *size);
int rpmapy_mr_get_ptr(struct rpmapy_local *mr, uintptr_t *ptr);
int rpmapy_mr_get_size(struct rpmapy_local *mr, size_t *size);
int rpmapy_mr_advise(struct rpmapy_local *mr, size_t offset, size_t length, int advice,
		     uint32_t flags);
bool rpmapy_mr_is_of(const struct rpmapy_local *mr, const void *child_of_peer);

int rpmapy_mr_remote_from_descriptor(const void *descriptor, size_t size,
				     struct rpmapy_remote **out);
int rpmapy_mr_remote_get_size(struct rpmapy_remote *mr, size_t *size);
int rpmapy_mr_remote_get_flush_type(struct rpmapy_remote *mr, int *flush_type);

/* ---- config.c ---- */

#define RPMAPY_CONN_CFG_TIMEOUT_MS 0
#define RPMAPY_CONN_CFG_CQ_SIZE 1
#define RPMAPY_CONN_CFG_RCQ_SIZE 2
#define RPMAPY_CONN_CFG_SQ_SIZE 3
#define RPMAPY_CONN_CFG_RQ_SIZE 4
#define RPMAPY_CONN_CFG_SHARED_CHANNEL 5
#define RPMAPY_SRQ_CFG_RQ_SIZE 0
#define RPMAPY_SRQ_CFG_RCQ_SIZE 1

int rpmapy_conn_cfg_new(struct rpmapy_conn_cfg **out);
int rpmapy_conn_cfg_set(struct rpmapy_conn_cfg *cfg, int field, uint32_t value);
int rpmapy_conn_cfg_get(struct rpmapy_conn_cfg *cfg, int field, uint32_t *value);
int rpmapy_conn_cfg_set_srq(struct rpmapy_conn_cfg *cfg, struct rpmapy_srq *srq);
int rpmapy_conn_cfg_get_srq(struct rpmapy_conn_cfg *cfg, struct rpmapy_srq **srq);

int rpmapy_srq_cfg_new(struct rpmapy_srq_cfg **out);
int rpmapy_srq_cfg_set(struct rpmapy_srq_cfg *cfg, int field, uint32_t value);
int rpmapy_srq_cfg_get(struct rpmapy_srq_cfg *cfg, int field, uint32_t *value);

/* ---- srq.c ---- */

int rpmapy_srq_new(struct rpmapy_peer *peer, struct rpmapy_srq_cfg *cfg, struct rpmapy_srq **out);
int rpmapy_srq_recv(struct rpmapy_srq *srq, struct rpmapy_local *dst, size_t offset, size_t length,
		    uint64_t wr_id);
struct rpmapy_cq *rpmapy_srq_rcq(struct rpmapy_srq *srq);

/* ---- connection.c ---- */

int rpmapy_ep_listen(struct rpmapy_peer *peer, const char *address, const char *port,
		     struct rpmapy_ep **out);
int rpmapy_ep_fd(struct rpmapy_ep *ep, int *fd);
int rpmapy_ep_next_conn_req(struct rpmapy_ep *ep, struct rpmapy_conn_cfg *cfg, int64_t deadline,
			    struct rpmapy_conn_req **out);

int rpmapy_conn_req_new(struct rpmapy_peer *peer, const char *address, const char *port,
			struct rpmapy_conn_cfg *cfg, bool is_second_attempt,
			struct rpmapy_conn_req **out);
int rpmapy_conn_req_private_data(struct rpmapy_conn_req *req, void *data, uint8_t *size);
int rpmapy_conn_req_recv(struct rpmapy_conn_req *req, struct rpmapy_local *dst, size_t offset,
			 size_t length, uint64_t wr_id);
int rpmapy_conn_req_connect(struct rpmapy_conn_req *req, const void *data, uint8_t size,
			    struct rpmapy_conn **out);

int rpmapy_conn_next_event(struct rpmapy_conn *conn, int64_t deadline, int *event);
int rpmapy_conn_ended(const struct rpmapy_conn *conn);
int rpmapy_conn_private_data(struct rpmapy_conn *conn, void *data, uint8_t *size);
int rpmapy_conn_event_fd(struct rpmapy_conn *conn, int *fd);
int rpmapy_conn_compl_fd(struct rpmapy_conn *conn, int *fd);
int rpmapy_conn_qp_num(struct rpmapy_conn *conn, uint32_t *qp_num);
int rpmapy_conn_apply_remote_peer_cfg(struct rpmapy_conn *conn, struct rpmapy_peer_cfg *cfg);
int rpmapy_conn_wait(struct rpmapy_conn *conn, int64_t deadline, bool *is_rcq);
int rpmapy_conn_disconnect(struct rpmapy_conn *conn);
struct rpmapy_cq *rpmapy_conn_cq(struct rpmapy_conn *conn);
struct rpmapy_cq *rpmapy_conn_rcq(struct rpmapy_conn *conn);

/* ---- completion.c ---- */

struct rpmapy_wc {
	uint64_t wr_id;
	int status;
	int opcode;
	uint32_t vendor_err;
	uint32_t byte_len;
	uint32_t imm; /* in host order; only with IBV_WC_WITH_IMM in flags */
	uint32_t qp_num;
	unsigned flags;
};

int rpmapy_cq_fd(struct rpmapy_cq *cq, int *fd);
int rpmapy_cq_wait(struct rpmapy_cq *cq, int64_t deadline);
int rpmapy_cq_get_wc(struct rpmapy_cq *cq, int max_entries, struct rpmapy_wc *wc);
int rpmapy_cq_take(struct rpmapy_cq *cq, int max_entries, struct rpmapy_wc *wc);
int rpmapy_cq_next_wc(struct rpmapy_cq *cq, int64_t deadline, struct rpmapy_wc *wc);

/* ---- request.c: post one request and return ---- */

int rpmapy_read(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t dst_offset,
		struct rpmapy_remote *src, size_t src_offset, size_t length, int flags,
		uint64_t wr_id);
int rpmapy_write(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		 struct rpmapy_local *src, size_t src_offset, size_t length, int flags,
		 uint64_t wr_id);
int rpmapy_write_with_imm(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
			  struct rpmapy_local *src, size_t src_offset, size_t length, uint32_t imm,
			  int flags, uint64_t wr_id);
int rpmapy_atomic_write(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
			const char *src, int flags, uint64_t wr_id);
int rpmapy_flush(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		 size_t length, int type, int flags, uint64_t wr_id);
int rpmapy_send(struct rpmapy_conn *conn, struct rpmapy_local *src, size_t offset, size_t length,
		int flags, uint64_t wr_id);
int rpmapy_send_with_imm(struct rpmapy_conn *conn, struct rpmapy_local *src, size_t offset,
			 size_t length, uint32_t imm, int flags, uint64_t wr_id);
int rpmapy_recv(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t offset, size_t length,
		uint64_t wr_id);

/* ---- operation.c: post, keep the queues full, wait, in one crossing ---- */

struct rpmapy_segment {
	uint64_t dst_offset;
	uint64_t src_offset;
	uint64_t length;
};

#define RPMAPY_NO_FLUSH 0x7fffffff /* not -1, which a program may give by mistake */

int rpmapy_read_wait(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t dst_offset,
		     struct rpmapy_remote *src, size_t src_offset, size_t length, int64_t deadline);
int rpmapy_write_wait(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		      struct rpmapy_local *src, size_t src_offset, size_t length, int flush_type,
		      int64_t deadline);
int rpmapy_atomic_write_wait(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
			     const char *src, int64_t deadline);
int rpmapy_flush_wait(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		      size_t length, int type, int64_t deadline);
int rpmapy_send_wait(struct rpmapy_conn *conn, struct rpmapy_local *src, size_t offset,
		     size_t length, int64_t deadline);
int rpmapy_read_batch(struct rpmapy_conn *conn, struct rpmapy_local *dst, struct rpmapy_remote *src,
		      const struct rpmapy_segment *segments, size_t count, int64_t deadline);
int rpmapy_write_batch(struct rpmapy_conn *conn, struct rpmapy_remote *dst,
		       struct rpmapy_local *src, const struct rpmapy_segment *segments,
		       size_t count, int flush_type, int64_t deadline);
int rpmapy_operation_resume(struct rpmapy_conn *conn, int64_t deadline);
bool rpmapy_operation_abandon(struct rpmapy_conn *conn);
size_t rpmapy_operation_failure(struct rpmapy_conn *conn, struct rpmapy_wc *wc,
				struct rpmapy_wc *cause);

/* ---- allocation.c: system calls that Python's own wrappers make with the GIL held; 0 or an errno
 * ---- */

int rpmapy_msync(uintptr_t address, size_t length);
int rpmapy_populate(uintptr_t address, size_t length);
long rpmapy_file_system_magic(int fd);
