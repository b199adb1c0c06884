/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * binding.h -- what the C files of the binding share: handles around librpma's objects, the
 * structures behind them, and the helpers for calls and waits.
 *
 * A handle outlives the librpma object in it. Python keeps the handle as long as the Python object
 * lives, so that a call on a closed object, from any thread, finds a flag and not freed memory.
 */
#ifndef RPMAPY_BINDING_H
#define RPMAPY_BINDING_H

#include <librpma.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decl/binding.h"

/* A wait returns to Python this often, for signals and for close() from another thread. */
#define SLICE_NS (100 * 1000 * 1000LL)
/* How long the flushed completions of an ended connection may take to arrive. */
#define FLUSH_GRACE_NS (200 * 1000 * 1000LL)

/* ---- handles (handle.c) ---- */

#define HANDLE_PARENTS 2

struct handle {
	void *object;
	int (*delete_object)(void *object);
	void (*finish)(struct handle *handle); /* before its memory is freed; may be NULL */
	struct handle *parents[HANDLE_PARENTS];
	_Atomic uint32_t users;    /* calls under way, and the bit "closed" */
	_Atomic uint32_t children; /* open objects that need this one, and the bit "released" */
	unsigned generation;       /* of the process that made it: a fork begins a new one */
	bool only_memory;          /* no device behind it: a forked child may, and must, free it */
	pthread_rwlock_t threads;  /* librpma wants some objects used by one thread at a time */
};

/* The deleter that librpma's rpma_X_delete(&object) amounts to. */
#define DELETER(name, type, function)                                                              \
	static int name(void *object)                                                              \
	{                                                                                          \
		type *typed = object;                                                              \
		return function(&typed);                                                           \
	}

void *handle_new(size_t size, int (*delete_object)(void *), struct handle *parent,
		 struct handle *other_parent);
void handle_discard(struct handle *handle);
/* In calls that change an object, or post to it; of those that read a configuration, many may. */
void handle_use(struct handle *handle);
void handle_read(struct handle *handle);
void handle_done(struct handle *handle);
int handle_begin_close(struct handle *handle);
void handle_end_close(struct handle *handle);
int handle_enter(struct handle *handle);
void handle_leave(struct handle *handle);
int handles_enter(struct handle *first, struct handle *second, struct handle *third);
void handles_leave(struct handle *first, struct handle *second, struct handle *third);
unsigned handle_generation(void);

/* The handle of an object, or NULL where librpma lets the argument be NULL. */
#define HANDLE(typed) ((typed) ? &(typed)->handle : NULL)

struct rpmapy_peer {
	struct handle handle;
};

struct rpmapy_peer_cfg {
	struct handle handle;
};

struct rpmapy_local {
	struct handle handle;
	struct handle *peer; /* for comparison only */
	size_t size;
	int usage;
};

struct rpmapy_remote {
	struct handle handle;
	size_t size;
	int usage;
};

struct rpmapy_conn_cfg {
	struct handle handle;
	struct rpmapy_srq *srq; /* kept alive by the Python object of this configuration */
};

struct rpmapy_srq_cfg {
	struct handle handle;
};

struct rpmapy_ep {
	struct handle handle;
	struct rpmapy_peer *peer;
	int fd;
};

/* ---- completion queues (completion.c) ---- */

/* Completions that an operation met and that are the program's: get_wc() hands them out first. */
struct wc_queue {
	struct ibv_wc *entries;
	size_t head, length, capacity;
};

struct rpmapy_cq {
	struct handle *owner;
	struct rpmapy_conn *conn; /* NULL: the receive CQ of a shared receive queue */
	struct rpma_cq *cq;
	int fd;
	pthread_mutex_t lock;
	struct wc_queue stash;
	struct ibv_wc
		first_failure; /* the first failure that was not a flush: the cause of those */
	bool has_failed;
	_Atomic int64_t typical_wait; /* in ns: how long recent waits for a completion were */
};

struct rpmapy_srq {
	struct handle handle;
	struct handle *peer;
	struct rpmapy_cq rcq;
	bool has_rcq;
};

int cq_init(struct rpmapy_cq *cq, struct handle *owner, struct rpmapy_conn *conn,
	    struct rpma_cq *rpma_cq);
void cq_fini(struct rpmapy_cq *cq);
int cq_drain(struct rpmapy_cq *cq);
/* Those that are there; RPMA_E_NO_COMPLETION where there is none. */
int cq_get_wc(struct rpmapy_cq *cq, int max_entries, struct rpmapy_wc *out, int *got);

/* ---- connections (connection.c) ---- */

#define EVENTS 8

/* What a connection request passes on to the connection made of it. */
struct conn_common {
	struct handle *peer; /* for comparison only */
	uint32_t sq_size, cq_size;
};

struct rpmapy_conn_req {
	struct handle handle;
	struct conn_common common;
};

enum operation_kind { OPERATION_READ, OPERATION_WRITE, OPERATION_ATOMIC_WRITE, OPERATION_SEND };

/* The requests of one call of the binding, from the first post to the last completion. */
struct operation {
	enum operation_kind kind;
	struct rpmapy_remote *remote;
	struct rpmapy_local *local;
	const struct rpmapy_segment *segments;
	struct rpmapy_segment single; /* segments points here when there is one */
	char value[8];                /* of an atomic write */
	int flush_type;
	size_t flush_offset, flush_length;
	size_t transfers; /* requests that move data: segments[0 .. transfers - 1] */
	size_t total;     /* requests: transfers, and the flush if there is one */
	size_t posted;
	size_t signalled; /* 1 + the last request posted with a completion asked for */
	/* From here on under the lock of the connection's CQ. */
	bool active;
	uint64_t first_tag; /* wr_id of request 0; request i has first_tag + i */
	size_t retired;
	bool has_failed;
	size_t failed_request;
	struct ibv_wc failure;
};

struct rpmapy_conn {
	struct handle handle;
	struct conn_common common;
	struct rpmapy_cq cq, rcq;
	bool has_rcq;
	int event_fd;
	int channel_fd; /* of the shared completion channel, or -1 */
	/* Events on the shared channel that a wait for the other queue met, for conn_wait(). */
	_Atomic bool cq_event, rcq_event;
	pthread_mutex_t events_lock;
	int events[EVENTS]; /* met by a wait for completions, not yet returned by next_event() */
	unsigned events_head, events_length;
	_Atomic int ended;           /* the event that ended it, or RPMA_CONN_UNDEFINED */
	_Atomic int64_t grace_until; /* once ended: how long flushed completions may still arrive */
	_Atomic bool established;
	_Atomic bool operating;
	pthread_t operator; /* while operating: the thread that is */
	struct operation operation;
	uint64_t next_tag;
};

int conn_wait_completion_event(struct rpmapy_conn *conn, struct rpmapy_cq *cq, int64_t deadline,
			       bool *is_rcq);
void operation_complete(struct operation *operation, const struct ibv_wc *wc);

/* ---- checks shared by single requests and operations (request.c) ---- */

bool local_ok(const struct handle *peer, const struct rpmapy_local *mr, int usage, size_t offset,
	      size_t length);
bool remote_ok(const struct rpmapy_remote *mr, int usage, size_t offset, size_t length);
bool flush_range(const struct rpmapy_remote *mr, int type, size_t *offset, size_t *length);
/* A failed post: RPMAPY_E_QUEUE_FULL where that is the reason, the code as it was otherwise. */
int post_result(int ret);

/* ---- calls (log.c) ---- */

int log_init(void);
/* Before each call into librpma: a message logged from here on is that call's. */
void call_begin(void);
/* Between these, errors are noted for the caller but reach no log: the binding expects them. */
void log_quiet_begin(void);
void log_quiet_end(void);
bool call_failed_with(int errno_value);

/* ---- signals (wait.c) ---- */

/*
 * A call of librpma that resolves an address waits in the kernel, where a signal makes it fail. The
 * first attempt may fail so: it returns RPMAPY_AGAIN, Python's handlers run, and the second attempt
 * has all signals blocked, since a timer could interrupt every other one.
 */
struct attempt {
	bool blocks;
	sigset_t previous;
};

void attempt_begin(struct attempt *attempt, bool is_second);
int attempt_end(const struct attempt *attempt, int ret);

/* ---- devices (device.c) ---- */

int device_usable(void);

/* ---- waits (wait.c) ---- */

int64_t now_ns(void);

/*
 * Going to sleep and waking up takes longer than most completions do. So a wait polls at first, as
 * long as recent waits suggest that it is worth it: wait_polls() until it says false, then sleep.
 */
struct polling {
	int64_t began, until; /* 0: not yet */
};

bool wait_polls(struct polling *polling, const struct rpmapy_cq *cq);
/* The wait is over, or goes on for very long. */
void wait_learn(const struct polling *polling, struct rpmapy_cq *cq);
int set_nonblocking(int fd);
/* 0: ready (which: bits 0 and 1), RPMAPY_AGAIN, RPMAPY_E_TIMEOUT. A negative fd is left out. */
int wait_readable(int fd, int other_fd, int64_t deadline, unsigned *ready);

#endif
