/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What native/pool offers to Python: memory that can be made durable, and the thread that answers a
 * client's flush requests and compare-and-swaps. Read twice, as decl/binding.h is. Objects end with
 * rpmapy_close() and rpmapy_release(), as all others do.
 */

#define RPMAPY_E_NO_LIBPMEM -200101 /* libpmem.so.1 is not installed, or is no libpmem */

struct rpmapy_durable;
struct rpmapy_answering;

/* ---- durable.c: the memory of a pool; failures of the storage are errnos ---- */

#define RPMAPY_DURABLE_NONE 0  /* nothing makes it durable */
#define RPMAPY_DURABLE_MSYNC 1 /* written to a file's storage */
#define RPMAPY_DURABLE_PMEM 2  /* libpmem's pmem_persist */

int rpmapy_durable_guard(void);
int rpmapy_durable_new(void *memory, void *mapping, size_t size, int method, int fd,
		       uint64_t file_offset, struct rpmapy_durable **out);
int rpmapy_durable_flush(struct rpmapy_durable *durable, uint64_t offset, uint64_t length);
int rpmapy_durable_write_back(struct rpmapy_durable *durable);
int rpmapy_durable_failed(struct rpmapy_durable *durable);
int rpmapy_is_pmem(const void *address, size_t length);

/* ---- cache.c: what the kernel has cached of a file ---- */

int rpmapy_cache_renew(int fd, uint64_t size, int *before, uint64_t *written);

/*
 * ---- client.c: post, and take the next completion, which may be that of another request ----
 * posted, which must be 0, becomes how many were; then what is returned is the wait's.
 */

int rpmapy_write_next(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		      struct rpmapy_local *src, size_t src_offset, size_t length, uint64_t wr_id,
		      int *posted, struct rpmapy_wc *wc);
int rpmapy_read_next(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t dst_offset,
		     struct rpmapy_remote *src, size_t src_offset, size_t length, uint64_t wr_id,
		     int *posted, struct rpmapy_wc *wc);
int rpmapy_write_send_next(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
			   struct rpmapy_local *src, size_t src_offset, size_t length,
			   struct rpmapy_local *messages, size_t at, size_t size, int flags,
			   uint64_t wr_id, int *posted, struct rpmapy_wc *wc);
int rpmapy_write_many(struct rpmapy_conn *conn, struct rpmapy_remote *dst, struct rpmapy_local *src,
		      const struct rpmapy_segment *segments, size_t count, uint64_t wr_id,
		      int *posted);
int rpmapy_write_many_send(struct rpmapy_conn *conn, struct rpmapy_remote *dst,
			   struct rpmapy_local *src, const struct rpmapy_segment *segments,
			   size_t count, struct rpmapy_local *messages, size_t at, size_t size,
			   int flags, uint64_t wr_id, int *posted);

/* ---- responder.c ---- */

#define RPMAPY_FLUSH_REQUEST_SIZE 32
#define RPMAPY_FLUSH_ANSWER_SIZE 16
#define RPMAPY_SWAP_REQUEST_SIZE 48
#define RPMAPY_SWAP_ANSWER_SIZE 24
#define RPMAPY_LIST_HEAD_SIZE 16 /* of a flush request for several ranges */
#define RPMAPY_LIST_RANGE_SIZE 12
#define RPMAPY_LIST_MOST 16     /* ranges; 2 at least */
#define RPMAPY_REQUEST_ROOM 208 /* each has in the messages */
#define RPMAPY_ANSWER_ROOM 24
#define RPMAPY_FLUSH_DEPTH_MAX 1024

#define RPMAPY_FLUSH_OK 0
#define RPMAPY_FLUSH_BAD_REQUEST 1
#define RPMAPY_FLUSH_STORAGE_FAILED 2
#define RPMAPY_FLUSH_NOT_DURABLE 3

#define RPMAPY_ANSWERING_RUNS 0 /* or was not started yet */
#define RPMAPY_ANSWERING_STOPPED 1
#define RPMAPY_ANSWERING_DISCONNECTED 2

struct rpmapy_answering_counts {
	uint64_t requests;     /* that came, the bad ones too */
	uint64_t ranges;       /* flushed, after those that touch were merged */
	uint64_t bytes;        /* in them */
	uint64_t failures;     /* answers "the storage failed" */
	uint64_t bad_requests; /* answers "bad request" */
};

int rpmapy_answering_new(struct rpmapy_conn *conn, struct rpmapy_local *messages, uint32_t depth,
			 struct rpmapy_answering **out);
int rpmapy_answering_start(struct rpmapy_answering *answering);
int rpmapy_answering_set_pool(struct rpmapy_answering *answering, uint32_t number,
			      struct rpmapy_durable *durable, bool may_write);
int rpmapy_answering_clear_pool(struct rpmapy_answering *answering, uint32_t number);
int rpmapy_answering_stop(struct rpmapy_answering *answering);
int rpmapy_answering_fd(const struct rpmapy_answering *answering);
int rpmapy_answering_ended(const struct rpmapy_answering *answering);
void rpmapy_answering_counts(const struct rpmapy_answering *answering,
			     struct rpmapy_answering_counts *counts);
