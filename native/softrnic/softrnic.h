/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * softrnic.h -- the device's objects, and what its files do for each other.
 *
 * Locks are taken in this order: a queue pair's receiver, its sender, a receive queue, a completion
 * queue, a completion channel. None is held during a system call that can wait.
 */
#ifndef SOFTRNIC_SOFTRNIC_H
#define SOFTRNIC_SOFTRNIC_H

#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "device.h"
#include "engine.h"
#include "say.h"
#include "uncancelled.h"
#include "wire.h"

#define MAX_SGE 16
#define MAX_INLINE 1024
#define MAX_QUEUE 32768
#define MAX_CQE (1 << 22)
#define MAX_MESSAGE 0x80000000u

#define container_of(pointer, type, member) ((type *)(((char *)(pointer)) - offsetof(type, member)))

/* ---- devices and contexts (device.c, async.c) ---- */

struct context {
	struct verbs_context verbs;
	pthread_mutex_t lock;
	struct async_event *first, *last;
	/* Threads that wait for an event, who keep it; and whether the program has closed it. */
	unsigned users;
	bool is_closed;
};

void context_free(struct context *context);

struct async_event {
	struct ibv_async_event event;
	struct async_event *next;
};

/* What an object reports counts in *reported. */
void async_report(struct ibv_context *context, enum ibv_event_type type, void *object,
		  unsigned *reported);
/*
 * Forget what was reported of an object and not yet fetched. Returns how many were fetched, whose
 * acknowledgement its destruction awaits.
 */
unsigned async_forget(struct ibv_context *context, const void *object, const unsigned *reported);

/* ---- how many there are (objects.c) ---- */

enum object { OBJECT_PD, OBJECT_CQ, OBJECT_QP, OBJECT_MR, OBJECT_SRQ, OBJECT_CHANNEL };
void object_count(enum object kind, int change);

/* ---- memory (memory.c) ---- */

struct pd {
	struct ibv_pd ibv;
	_Atomic unsigned users;
};

struct mr {
	struct ibv_mr ibv;
	uint64_t iova;
	unsigned access;
	bool invalidated; /* by a Send with Invalidate: no remote access until registered anew */
	_Atomic unsigned users;
	struct mr *next; /* in its hash chain */
};

/* IBV_ACCESS_REMOTE_*, or 0: a local read. */
struct mr *mr_get(struct ibv_pd *pd, uint32_t key, uint64_t address, uint64_t size, unsigned access,
		  uint16_t *error);
void mr_put(struct mr *mr);
/* Told when the device begins to read or to write memory, and when it is done; NULL: nobody is. */
typedef void memory_watcher(void *memory, size_t length, bool begins);
extern _Atomic(memory_watcher *) memory_watched_by;
static inline void
memory_touch(void *memory, size_t length, bool begins)
{
	memory_watcher *watcher = atomic_load_explicit(&memory_watched_by, memory_order_relaxed);
	if (__builtin_expect(watcher != NULL, 0))
		watcher(memory, length, begins);
}
/* By the other side. An enum wire_error, or 0. */
uint16_t mr_invalidate(struct ibv_pd *pd, uint32_t key);
int advise_mr(struct ibv_pd *pd, enum ibv_advise_mr_advice advice, uint32_t flags,
	      struct ibv_sge *sges, uint32_t count);
/*
 * After a system call's EFAULT. A page may be missing whose like a handler of SIGBUS puts there
 * where the device itself copies: so it is asked to. Returns whether it is worth another try.
 */
bool memory_mend(const struct msghdr *message);
/* A piece of a region, which the device reads or writes until it is put. */
struct piece {
	struct mr *mr;
	void *bytes;
	uint32_t length;
};

/* With the right to it, as mr_get(). False, with an error: there is none. */
bool piece_get(struct ibv_pd *pd, uint32_t key, uint64_t address, uint32_t length, unsigned access,
	       struct piece *piece, uint16_t *error);
/*
 * Up to `count` pieces that cover at most `size` bytes of a segment list from `offset` on, which
 * *covered tells. Returns how many, or -1: a segment may not be used so.
 */
int sge_pieces(struct ibv_pd *pd, const struct ibv_sge *sges, unsigned sge_count, uint32_t offset,
	       uint32_t size, unsigned access, struct piece *pieces, unsigned count,
	       uint32_t *covered);
void pieces_put(const struct piece *pieces, unsigned count);
/* Whether the local segments may be used so. */
bool sges_ok(struct ibv_pd *pd, const struct ibv_sge *sges, unsigned count, unsigned access);

/* ---- completion queues (cq.c, cq_ex.c) ---- */

struct channel {
	struct ibv_comp_channel ibv;
	pthread_mutex_t lock;
	struct cq *first, *last; /* with events not yet fetched */
	/* Of these, events that the descriptor does not show: their thread is about to take them.
	 */
	unsigned unannounced;
	unsigned waiters; /* threads that may serve while they wait for an event */
	/* Threads that look for an event, who keep it; and whether the program has destroyed it. */
	unsigned users;
	bool is_destroyed;
};

#define DIRECT_QPS 4

struct cq {
	union {
		struct ibv_cq ibv;
		struct ibv_cq_ex ex;
	};
	pthread_mutex_t lock;
	struct ibv_wc *entries;
	uint32_t mask, head, tail;
	enum { NOT_ARMED, ARMED_SOLICITED, ARMED } armed;
	bool overrun;
	_Atomic bool is_armed; /* read without the lock */
	struct qp *qps[DIRECT_QPS];
	_Atomic unsigned qp_count;
	/* Read and written without a lock: hints. */
	_Atomic int polls_for_others;
	_Atomic unsigned others_interval;
	unsigned async_reported;
	/* Under the channel's lock: */
	unsigned pending_events, fetched_events;
	struct cq *next_pending;
	/* Extended; one thread at a time, from start_poll to end_poll, before all other locks: */
	pthread_mutex_t poll_lock;
	bool is_single_threaded; /* the program sees to that itself */
	struct ibv_wc current;
	uint64_t current_time;
};

void cq_push(struct ibv_cq *cq, const struct ibv_wc *wc, bool solicited);
/* Whether polling it looks at each of its queue pairs. */
bool cq_is_direct(struct ibv_cq *cq);
void cq_attach(struct ibv_cq *cq, struct qp *qp);
void cq_detach(struct ibv_cq *cq, struct qp *qp);
/* Forget the completions of a queue pair that goes away. */
void cq_clean(struct ibv_cq *cq, uint32_t qp_num);
int poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *wcs);
int req_notify_cq(struct ibv_cq *cq, int solicited_only);
struct ibv_cq_ex *create_cq_ex(struct ibv_context *context, struct ibv_cq_init_attr_ex *attr);
struct ibv_cq *cq_new(struct ibv_context *context, int cqe, void *cq_context,
		      struct ibv_comp_channel *channel);
int cq_take_one(struct cq *cq); /* into `current`; ENOENT: empty */

/* ---- receive queues (receive_queue.c) ---- */

struct receive {
	uint64_t wr_id;
	unsigned sge_count;
	uint64_t size; /* of all segments */
	struct ibv_sge sges[MAX_SGE];
};

struct posted_receive {
	uint64_t wr_id;
	unsigned sge_count;
};

struct receive_queue {
	pthread_mutex_t lock;
	unsigned mask, limit, max_sge;
	uint32_t head, tail;
	bool flushes; /* the queue pair is in the error state */
	struct posted_receive *posted;
	struct ibv_sge *sges; /* max_sge for each */
};

int receive_queue_init(struct receive_queue *rq, uint32_t max_wr, uint32_t max_sge);
void receive_queue_fini(struct receive_queue *rq);
bool receive_queue_take(struct receive_queue *rq, struct receive *receive);
uint32_t receive_queue_length(struct receive_queue *rq);
/* Complete a queue pair's receives, those of its queue, now and when they are posted, in order. */
void receive_flush(struct qp *qp, uint64_t wr_id);
void receive_queue_flush(struct qp *qp);
/* Without completing anything. */
void receive_queue_forget(struct receive_queue *rq);

struct srq {
	struct ibv_srq ibv;
	struct receive_queue rq;
	uint32_t limit_event; /* armed: report when fewer are posted */
	unsigned async_reported;
	_Atomic unsigned users;
	pthread_mutex_t stalled_lock;
	/* Queue pairs whose peers' messages wait for a receive. */
	struct qp *first_stalled, *last_stalled;
	_Atomic unsigned stalled_count;
};

struct ibv_srq *create_srq_ex(struct ibv_context *context, struct ibv_srq_init_attr_ex *attr);
int get_srq_num(struct ibv_srq *srq, uint32_t *number);
int post_srq_recv(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);
bool srq_take(struct srq *srq, struct receive *receive);
void srq_stall(struct srq *srq, struct qp *qp);
void srq_unstall(struct srq *srq, struct qp *qp);

/* ---- queue pairs (qp.c, post.c, sender.c, transmit.c, receiver.c, control.c) ---- */

struct request {
	uint64_t wr_id;
	enum ibv_wr_opcode opcode;
	unsigned flags; /* enum ibv_send_flags */
	__be32 imm;
	uint32_t invalidate;
	uint64_t remote_address;
	uint32_t rkey;
	uint32_t length;
	uint64_t compare_add, swap;
	uint32_t msn;              /* of a send, once on its way */
	uint32_t requested;        /* once it is: FPDUs up to its last one */
	enum ibv_wc_status failed; /* found wanting when its turn came */
	unsigned sge_count;        /* 0: inline data, or none */
	struct ibv_sge *sges;
	uint8_t *inline_data;
};

/* In an Immediate Data message, behind the data: it belongs to the Send that follows. */
#define IMM_OF_SEND 0xffffffffu

/* One FPDU on its way to the socket. */
#define OUT_BYTES 240
#define OUT_COPIED 160 /* payload up to this size is copied behind the header */
#define OUT_SEGMENTS 4
struct out {
	uint8_t bytes[OUT_BYTES]; /* header, copied payload, padding and CRC */
	uint16_t head, tail;      /* bytes before and behind the segments */
	uint32_t size;            /* all of it */
	uint8_t segment_count;
	/* A response's source: it may be taken back on the way. */
	bool is_response;
	uint32_t rkey;
	uint64_t source;
	uint32_t msn; /* of the request that it answers */
	bool ends_request;
	uint32_t request; /* what is before this position has gone when this has */
	struct iovec segments[OUT_SEGMENTS];
};
#define OUT_RING 32
#define OUT_COPIES (128 * 1024)

/* An inbound read or atomic, to be answered. */
struct inbound {
	bool is_atomic;
	uint32_t msn;
	struct read_request read;
	uint32_t request_id;
	uint64_t original;
};

/* An outbound read, atomic, or zero-length read that acknowledges what was sent before it. */
struct outbound {
	enum { OUTBOUND_READ, OUTBOUND_ATOMIC, OUTBOUND_ACK } kind;
	uint32_t request; /* position in the send queue: what is before it has been processed */
};

struct sender {
	pthread_mutex_t lock;
	/* The send queue: positions count up; [head, next) sent and not completed, [next, tail)
	 * not. */
	struct request *requests;
	uint32_t mask, head, next, tail;
	uint32_t limit; /* as many requests may be posted at once */
	struct ibv_sge *sges;
	uint8_t *inline_data;
	uint32_t offset; /* of requests[next], already on its way */
	bool imm_sent;   /* of requests[next]: of a Send, on its way; of a Write, next */
	bool turn;       /* a response has gone last */
	uint32_t send_msn, read_msn, atomic_response_msn, terminate_msn;
	uint32_t requested; /* FPDUs made that the peer counts when it takes them */
	/* FPDUs: [out_head, out_tail). */
	struct out *outs;
	/* With CRCs: copies of payload, which must not change once its CRC is known. */
	uint8_t *copies;
	uint32_t copied;
	uint32_t out_head, out_tail;
	uint32_t out_sent; /* bytes of outs[out_head] */
	/* Inbound requests to answer; a power of two of them, at least IRD. */
	struct inbound *inbounds;
	uint32_t inbound_head, inbound_tail, inbound_mask;
	uint32_t response_offset;
	/* Outbound requests not answered; a power of two of them, at least ORD. */
	struct outbound *outbounds;
	uint32_t outbound_head, outbound_tail, outbound_mask;
	bool forgets; /* the queue pair goes away, or is reset: nothing completes any more */
	/* The peer acknowledges, by answers to zero-length reads. Else what TCP has is complete. */
	bool acknowledged;
	uint32_t sent_upto;      /* position up to which TCP has it all */
	unsigned acks;           /* outstanding zero-length reads */
	uint32_t acked_upto;     /* position up to which an answer is asked for */
	uint32_t signalled_upto; /* 1 + the last request on its way that wants a completion */
	uint32_t bytes_unasked;  /* sent since an answer was asked for */
	_Atomic bool blocked;    /* the socket takes no more for now */
	bool waits_first;        /* a responder that must not send yet */
	bool closes;             /* shut down once all is out */
	bool is_shut;
	/* The socket, a local segment, or a response's source: break the stream. */
	_Atomic bool has_failed;
	bool is_lost;             /* the socket: nothing can be told */
	struct terminate failure; /* to tell the peer, if it is about one of its requests */
	/* Acknowledgements or requests are put off; requests, which a poll sends (owed.c). */
	_Atomic bool owes, gathers;
	bool is_listed;
	unsigned owed_rounds;
	uint32_t tail_answered; /* the send queue's tail when the last inbound one came */
	int64_t owed_since;
};

#define IN_BUFFER 8192
enum receiver_state { IN_HEAD, IN_PAYLOAD, IN_TRAILER, IN_PARKING, IN_OVER };

/* Where the receiver is in the stream. */
struct position {
	uint8_t *buffer;
	uint32_t start, end;
	enum receiver_state state;
	struct fpdu_head head;
	uint32_t placed;  /* of head.payload */
	uint32_t trailer; /* padding and CRC */
	uint32_t crc;
};

/* FPDUs as they came: a message that waits for a receive, and what must not overtake it. */
struct parked {
	uint8_t *bytes;
	uint32_t start, end, capacity;
	uint32_t left; /* of the last one, still to come */
	bool skips;    /* the peer has gone: nothing is kept any more */
};

struct receiver {
	pthread_mutex_t lock;
	union {
		struct position position;
		struct { /* the same */
			uint8_t *buffer;
			uint32_t start, end;
			enum receiver_state state;
			struct fpdu_head head;
			uint32_t placed, trailer, crc;
		};
	};
	struct parked parked;
	/* Read without the lock: a message waits; and there is no room for more behind it. */
	_Atomic bool is_stalled, is_full;
	uint32_t send_msn, read_msn, atomic_response_msn; /* the next ones expected */
	uint32_t taken; /* FPDUs, but for answers: placed, and completed or to be answered */
	bool has_receive;
	struct receive receive;
	uint32_t received; /* of the message under way into it */
	bool has_imm;      /* for the send that follows */
	uint32_t imm;
	uint32_t read_placed; /* of the read response under way */
};

struct qp {
	union {
		struct ibv_qp ibv;
		struct ibv_qp_ex ex;
	};
	struct source source; /* the stream's socket; references keep the memory */
	_Atomic int state;    /* enum ibv_qp_state */
	struct ibv_qp_init_attr init;
	bool is_ex;
	bool has_stream;
	bool crc;
	bool first_awaited;
	_Atomic unsigned access;
	uint16_t ird, ord;
	uint8_t timeout;
	uint32_t dest_qp_num;
	struct sender tx;
	struct receiver rx;
	struct receive_queue rq; /* where there is no SRQ */
	unsigned async_reported;
	bool cq_attached;
	/* Under the SRQ's stalled_lock: */
	bool is_stalled;
	struct qp *next_stalled;
	/* Events for the connection manager. */
	pthread_mutex_t events_lock;
	struct stream_events events;
	_Atomic bool owes_established, owes_ended;
	/* ibv_wr_*: the batch under way, behind the send queue's tail. */
	pthread_mutex_t batch_lock; /* taken before all others */
	uint32_t batch_begin, batch_count, batch_room;
	int batch_error;
	struct request *batch_request;
	struct qp *next_in_table, *next_owing;
};

static inline struct qp *
to_qp(struct ibv_qp *qp)
{
	return container_of(qp, struct qp, ibv);
}

/*
 * Positions in rings count up and wrap: a ring's size is a power of two, and positions are compared
 * by their difference. All of them begin with this, and sequence numbers with the next: with 0,
 * but in tests, which begin shortly before the wrap.
 */
extern uint32_t positions_begin;

static inline struct inbound *
inbound_at(const struct sender *tx, uint32_t position)
{
	return &tx->inbounds[position & tx->inbound_mask];
}

static inline struct outbound *
outbound_at(const struct sender *tx, uint32_t position)
{
	return &tx->outbounds[position & tx->outbound_mask];
}

static inline struct request *
request_at(const struct sender *tx, uint32_t position)
{
	return &tx->requests[position & tx->mask];
}

int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
int post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);
struct ibv_qp *create_qp_ex(struct ibv_context *context, struct ibv_qp_init_attr_ex *attr);
int post_ex_init(struct qp *qp, uint64_t operations); /* EOPNOTSUPP */

/* A request of a queue pair in the error state. With tx.lock. */
void request_complete(struct qp *qp, const struct request *request, enum ibv_wc_status status);
/* What posting ends with, after tx.lock is let go. */
void post_done(struct qp *qp);

void qp_get(struct qp *qp);
void qp_release(struct qp *qp);
/*
 * End the stream: to the error state, everything posted is flushed. `terminate`: what to tell the
 * peer; NULL: nothing. `is_over`: nothing more can come. With rx.lock.
 */
void qp_break_receiving(struct qp *qp, const struct terminate *terminate, bool is_over);
/* The sender has met a failure: with rx.lock. */
void qp_break_failed(struct qp *qp);
/* Events that have become due, once no lock is held. */
void qp_tell(struct qp *qp);

/* Send what can be sent. With tx.lock. */
void sender_run(struct qp *qp);
/* The socket may take more again. Without tx.lock. */
void sender_retry(struct qp *qp);
/* The program waits for completions now: what it gathered goes out. Without tx.lock. */
void sender_end_gathering(struct qp *qp);
/*
 * An answer to the oldest outbound request has come: complete all up to it, and send what waited
 * for that. With tx.lock.
 */
void sender_answered(struct qp *qp);
/* The socket has taken all before `sent_upto`. With tx.lock. */
void sender_sent(struct qp *qp);
/* Complete requests before `position` successfully, as far as they are on their way. */
void sender_complete(struct qp *qp, uint32_t position);
void sender_flush(struct qp *qp);
/* Make FPDUs as long as there is room for them. With tx.lock. */
void sender_fill(struct qp *qp);
/* The stream is to be broken; what the peer wants to read has been taken back. */
void sender_fail(struct sender *tx);
/* What has failed has been seen to: what else there is to say can be said, if anything can. */
void sender_recover(struct sender *tx);
void sender_fail_response(struct sender *tx, uint16_t error, uint32_t msn);
/* An FPDU without payload, and a zero-length read. */
void sender_bare(struct qp *qp, const struct fpdu_head *head);
void sender_ask(struct qp *qp);
bool sender_add_inbound(struct qp *qp, const struct inbound *inbound);
void sender_terminate(struct qp *qp, const struct terminate *terminate);
/* The request that a Terminate speaks of fails; what the peer has taken before that is done. */
void sender_terminated(struct qp *qp, const struct terminate *terminate);
enum served_by { BY_PROGRESS, BY_POLLER };
/* Receive what is there. Takes rx.lock, or returns at once when another thread has it. */
void receiver_run(struct qp *qp, enum served_by by);
/* Receive what is there before the stream is broken. With rx.lock. */
void receiver_catch_up(struct qp *qp);
/* The peer has gone, and there is no room for what it sent: look for what it said at last. */
void receiver_skip(struct qp *qp);
/* A receive has been posted: go on where the lack of one had stopped it. */
void receiver_kick(struct qp *qp);

/* ---- what is put off for a moment (owed.c) ---- */

/*
 * Something may wait for something else to travel with; it goes out soon whatever the program
 * does. False: somebody has to send it now. With tx.lock.
 */
bool owed_add(struct qp *qp);
void owed_pay_all(void);
/* The queue pair goes away. Without tx.lock. */
void owed_forget(struct qp *qp);

/* ---- what waits behind a message without a receive (parked.c), with rx.lock ---- */

/*
 * Whether it may overtake: what this side's own requests wait for, and the end. All else is taken
 * in the order in which it was sent, and counted by both sides.
 */
static inline bool
parked_lets_pass(uint8_t opcode)
{
	return opcode == RDMAP_READ_RESPONSE || opcode == RDMAP_ATOMIC_RESPONSE ||
	       opcode == RDMAP_TERMINATE;
}
/* The FPDU that begins in the buffer is to be kept. False: it does not fit. */
bool parked_begin(struct receiver *rx);
/* What the buffer has of it. */
void parked_take(struct receiver *rx);
/* Receive what is parked as if it came now; then go on where the stream was. */
void parked_enter(struct receiver *rx, struct position *stream);
void parked_leave(struct receiver *rx, const struct position *stream, bool stalls);
void parked_free(struct receiver *rx);

#endif
