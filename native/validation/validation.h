/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * validation.h -- the debug build of librpma that librpma(7) describes: every call is checked and
 * traced here, and done by the normal library.
 *
 * wrappers.c, which is generated, has the exported functions. Each looks its handles up (object.c),
 * claims them for its thread and says what is wrong (call.c, finding.c), asks a check written by
 * hand (connection.c, memory.c, requests.c), forwards the call (normal.c) and traces it (line.c,
 * log.c). What programs hold are pointers to struct object, never the normal library's.
 */
#ifndef RPMA_VALIDATION_H
#define RPMA_VALIDATION_H

#include <librpma.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct call;
struct line;
struct object;
struct requests;
struct thread;

#include "interface.h"

#define VISIBLE __attribute__((visibility("default")))
#define COLD __attribute__((cold, noinline))
#define PRINTF(text, values) __attribute__((format(printf, text, values)))

#define MESSAGE_SIZE 1024

/* ---- objects: object.c ---- */

enum kind {
	KIND_NONE,
	KIND_PEER_CFG,
	KIND_PEER,
	KIND_MR_LOCAL,
	KIND_MR_REMOTE,
	KIND_CONN_CFG,
	KIND_SRQ_CFG,
	KIND_SRQ,
	KIND_EP,
	KIND_CONN_REQ,
	KIND_CONN,
	KIND_CQ,
	KINDS
};

enum life { NEVER_LIVED, LIVES, ENDED, IN_MAKING };

#define STATE(kind, life) ((uint32_t)(kind) << 2 | (uint32_t)(life))

#define PLACE_FRAMES 12

/* Where in the program something happened. */
struct place {
	enum function_id function;
	pid_t thread;
	int depth;
	void *frames[PLACE_FRAMES];
};

struct mr_local {
	char *ptr;
	size_t size;
	int usage;
	_Atomic uint32_t posted; /* requests with it, roughly */
};

struct mr_remote {
	uint64_t raddr;
	uint64_t size;
	int usage;
};

enum conn_state { CONN_CONNECTING, CONN_ESTABLISHED, CONN_DISCONNECTING, CONN_ENDED };

struct conn {
	_Atomic int state;            /* enum conn_state */
	_Atomic int event;            /* that ended it, enum rpma_conn_event */
	_Atomic bool is_disconnected; /* by the program, once it was established */
	bool is_passive, has_direct_write;
	struct object *srq;
	struct requests *requests;
};

struct srq {
	struct requests *requests;
};

struct cq {
	struct object *owner; /* a connection, or a shared receive queue */
	bool is_rcq;          /* completions of receives alone */
};

/*
 * One slot of an arena that nothing else lives in: whatever pointer a program hands over can be
 * told to be one of these before it is followed, and what has ended is still there to tell about.
 */
struct object {
	_Atomic uint32_t state;
	uint32_t number; /* of its kind, in this process */
	void *normal;    /* the normal library's object */
	struct object *peer;
	_Atomic uint64_t user; /* who is in a call with it, call.c */
	union {
		struct mr_local local;
		struct mr_remote remote;
		struct conn conn;
		struct srq srq;
		struct cq cq;
		int transport;        /* of a peer's device, enum ibv_transport_type */
		_Atomic(void *) kept; /* a conn_cfg's shared receive queue, as it was set */
	};
	/* Up to here: a line of the processor's cache, for the calls of the data path. */
	_Atomic uint64_t waiter;
	struct object *found[2]; /* CQs of its own */
	unsigned generation;     /* of processes: a fork inherits its parent's */
	struct place made, ended;
} __attribute__((aligned(512)));

extern char *objects_base;
extern const char *const kind_names[KINDS];

const char *kind_ends(enum kind kind);

int objects_init(void);
/* Nobody finds it before it is published, with all that is known of it. */
struct object *object_new(struct call *call, enum kind kind, void *normal);
void object_publish(struct object *object);
/* An object that belongs to another one, or that is set in it, by the normal library's. */
struct object *object_find(struct object *owner, void *normal);
struct object *object_add_cq(struct call *call, struct object *owner, void *normal, bool is_rcq);
/* Whether a shared receive queue has any that may still receive; with objects_lock(). */
bool object_has_connections(const struct object *srq);
void object_ended(struct call *call, struct object *object, bool has_ended);
bool object_is_live(const struct object *object);
struct requests **object_requests(struct object *object);
struct object *object_depending_on(const struct object *object);
/* The next object of the kind that lives, after one, or the first; with the lock, under which no
 * slot is taken again. */
struct object *object_next(enum kind kind, const struct object *after);
void objects_lock(void);
void objects_unlock(void);
void objects_report_leaks(void);

/* ---- calls: call.c ---- */

enum claim { CLAIM_NOTHING, CLAIM_USES, CLAIM_READS, CLAIM_SETS, CLAIM_TAKES, CLAIM_WAITS };

struct function {
	const char *name;
	int level;
	bool asks;
	size_t offset; /* in struct normal */
};

extern const struct function functions[FUNCTIONS];

#define CALL_OBJECTS 3

struct call {
	const struct function *function;
	struct thread *thread;
	int refusal; /* what to return without a call of the normal library */
	int saved_errno;
	bool is_traced;
	bool has_finding;  /* a failed assertion; its message is the thread's */
	bool is_heard;     /* the normal library logged an error in it */
	bool is_temporary; /* the error was EAGAIN */
	bool is_posted;    /* requests.c has the request that it posts */
	unsigned claims;
	struct {
		struct object *object;
		enum claim claim;
	} claimed[CALL_OBJECTS];
	struct object *about[CALL_OBJECTS]; /* what a finding is about */
	uint64_t start, end;                /* ns, of a traced call */
	uint64_t posted;                    /* requests.c: the request that the call posts */
	char hint[MESSAGE_SIZE / 2];        /* why the normal library will refuse, if it does */
};

/* What this library keeps of a thread. */
struct thread {
	struct call *inner; /* the call that the normal library is at work for */
	pid_t id;
	char *message;                 /* MESSAGE_SIZE: rpma_errormsg() */
	const struct function *unsaid; /* the last call that failed without a message */
	int unsaid_code;
};

extern __thread struct thread this_thread __attribute__((tls_model("initial-exec")));

struct thread *thread_init(void);
struct object *call_bad_object(struct call *call, const char *name, const void *handle,
			       enum kind kind, bool optional);
void call_conflict(struct call *call, const char *name, struct object *object, enum claim claim);
void call_taken(struct call *call, const char *name, struct object *object);
struct object *call_deletes(struct call *call, const char *name, void *const *handle,
			    enum kind kind);
void call_null(struct call *call, const char *name);
int call_missing(struct call *call);
void call_failed(struct call *call, int ret);
void call_abort(struct call *call);

/* ---- what is wrong: finding.c ---- */

/* A failed assertion: what the normal library does then is undefined. Returns RPMA_E_INVAL. */
int finding(struct call *call, struct object *about, const char *format, ...) COLD PRINTF(3, 4);
/* Something else that a finding is about. */
void finding_about(struct call *call, struct object *object);
/* Why the normal library will refuse the call, if it does; a warning otherwise. */
void warning(struct call *call, struct object *about, const char *format, ...) COLD PRINTF(3, 4);
/* Why the normal library will refuse the call, if it does. */
void hint(struct call *call, const char *format, ...) COLD PRINTF(2, 3);
/* A finding outside of calls: the program ends here, if it is to. */
void finding_now(struct object *about, const char *format, ...) COLD PRINTF(2, 3);
void finding_report(struct call *call, const char *text);
void message_set(struct thread *thread, const char *format, ...) COLD PRINTF(2, 3);
void place_take(struct place *place, enum function_id function);
void findings_init(void);
bool findings_abort(void);

/* ---- the log: log.c ---- */

extern int log_level;

int log_init(void);
uint64_t log_now(void);
/* The time that the line has; log_now()'s. */
uint64_t log_line_begin(struct line *line, int level, const char *kind);
void log_line_out(struct line *line);
void log_write(int level, const char *kind, const char *format, ...) COLD PRINTF(3, 4);
/* The same on stderr as well, where the log does not go there. */
void log_loudly(int level, const char *kind, const char *format, ...) COLD PRINTF(3, 4);

/* ---- librpma's own log functions: librpma_log.c ---- */

int librpma_log_init(void);
/* To the function that the program has set, if it has. */
void librpma_log_tell(enum rpma_log_level level, const char *function, const char *message);

/* ---- the normal library: normal.c ---- */

extern const char *normal_path;

void normal_load(void);
/* Of the normal library, or of what it is linked with. */
void *normal_symbol(const char *name);

/* ---- memory: memory.c ---- */

/* len bytes of a local or of a remote region, which the call is to use so; 0, or a finding. */
int check_local(struct call *call, const char *name, struct object *local,
		const struct object *peer, size_t offset, size_t len, int usage);
int check_remote(struct call *call, const char *name, struct object *remote, size_t offset,
		 size_t len, int usage);
bool memory_is_mapped(const char *ptr, size_t size);

/* ---- requests and their completions: requests.c ---- */

struct queue_sizes {
	uint32_t sq, rq, cq, rcq;
};

/* What a call posts. */
struct posting {
	bool is_receive, is_signalled;
	struct object *local; /* NULL: no bytes of ours */
	size_t offset, len;
	const void *op_context;
};

struct requests *requests_new(const struct queue_sizes *sizes);
/* With objects_lock(). */
void requests_delete(struct requests *requests);
/* Before a request is posted, and when that has failed. owner: a conn, a conn_req or an srq. */
void requests_post(struct call *call, struct object *owner, const struct posting *posting);
void requests_retract(struct call *call, struct object *owner, bool is_receive);
/* A work completion that was polled from the CQ. */
void requests_complete(struct call *call, struct object *cq, const struct ibv_wc *wc);
/* How many of the owner's requests that will complete use the region; with objects_lock(). */
unsigned requests_using(struct object *owner, const struct object *local);
/* A CQ was polled, and has no more. */
void requests_none_left(struct call *call, const struct object *cq);
/* Whether the program has had a message of the connection's peer. */
bool requests_have_received(const struct object *conn);
/* A connection has this number, by which its shared receive queue tells of its messages. */
void requests_join(struct object *conn, uint32_t qp_num);
/* The connection's CQs are about to go, with receives of the shared queue that completed there. */
void requests_drain(struct call *call, const struct object *conn);
/* The connection is about to go: what will never be known? */
void requests_before_delete(struct call *call, struct object *conn);
/* Nothing is in flight any more. */
void requests_forget(struct object *owner);

/* ---- level 4, the memory of requests in flight: inflight.c ---- */

struct guard;

/* Before the device touches any memory. */
void inflight_init(void);
uint64_t inflight_hash(const void *from, size_t len);
struct guard *inflight_guard(struct object *local, size_t offset, size_t len,
			     const struct function *function);
void inflight_unguard(struct guard *guard);

#endif
