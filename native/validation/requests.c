/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * requests.c -- what is in the queues of connections: requests from their posting until a work
 * completion retires them, as far as the program has been told.
 */
#include "../common/wc_opcodes.h"
#include "validation.h"
#include "line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64

struct request {
	const struct function *function; /* NULL: retired, or never posted */
	uint64_t number;                 /* of those posted to the queue */
	uint64_t wr_id;
	struct object *local;
	uint32_t local_number;
	bool is_signalled;
	size_t offset, len;
	uint64_t hash; /* of the source, at level 4 */
	struct guard *guard;
};

/*
 * A queue, oldest request first. It grows: devices round sizes up. Receives complete in any order,
 * those of a shared queue by as many connections as it has: retired ones lie between others.
 */
struct queue {
	struct request *requests;
	uint32_t capacity, head, tail; /* capacity: a power of two */
	uint32_t length;               /* not retired */
	uint64_t posted;               /* the number of the last */
};

#define USERS 64

struct requests {
	struct requests *next, **link; /* of all of this process: for who looks for leaks */
	pthread_mutex_t lock;
	struct queue_sizes sizes;
	struct queue sq, rq;
	uint32_t signalled; /* in the send queue */
	uint64_t answered; /* up to this one of the send queue: the peer has, or errors were told */
	bool has_received; /* a message of the peer's */
	bool has_warned_sq, has_warned_rq, has_warned_cq, has_warned_unsignalled;
	/* Of a connection with a shared receive queue, and of that queue: by its qp_num. */
	uint32_t qp_num;
	struct requests *next_user, **users;
};

static struct requests *all;

struct requests *
requests_new(const struct queue_sizes *sizes)
{
	struct requests *requests = calloc(1, sizeof(*requests));
	if (!requests)
		return NULL; /* its queues are then not watched */
	pthread_mutex_init(&requests->lock, NULL);
	requests->sizes = *sizes;
	objects_lock();
	requests->next = all;
	requests->link = &all;
	if (all)
		all->link = &requests->next;
	all = requests;
	objects_unlock();
	return requests;
}

void
requests_delete(struct requests *requests)
{
	if (!requests)
		return;
	*requests->link = requests->next;
	if (requests->next)
		requests->next->link = requests->link;
	pthread_mutex_destroy(&requests->lock);
	free(requests->users);
	free(requests->sq.requests);
	free(requests->rq.requests);
	free(requests);
}

static struct request *
request_at(const struct queue *queue, uint32_t position)
{
	return &queue->requests[position & (queue->capacity - 1)];
}

static bool
make_room(struct queue *queue)
{
	if (queue->tail - queue->head < queue->capacity)
		return true;
	bool is_roomy = queue->length < queue->capacity / 2;
	uint32_t capacity = is_roomy ? queue->capacity : queue->capacity ? 2 * queue->capacity : 16;
	struct request *requests = aligned_alloc(CACHE_LINE, capacity * sizeof(*requests));
	uint32_t length = 0;
	if (!requests)
		return false;
	for (uint32_t i = queue->head; i != queue->tail; i++) {
		const struct request *request = request_at(queue, i);
		if (request->function)
			requests[length++] = *request;
	}
	free(queue->requests);
	queue->requests = requests;
	queue->capacity = capacity;
	queue->head = 0;
	queue->tail = length;
	return true;
}

/* Those of a connection's receives, or of its shared receive queue's. */
static struct requests *
requests_of(struct object *owner, bool is_receive)
{
	if (atomic_load(&owner->state) >> 2 == KIND_SRQ)
		return owner->srq.requests;
	if (is_receive && owner->conn.srq)
		return owner->conn.srq->srq.requests;
	return owner->conn.requests;
}

static void
log_occupancy(const struct object *owner, const struct requests *requests)
{
	const struct queue_sizes *sizes = &requests->sizes;
	const char *kind = kind_names[atomic_load(&owner->state) >> 2];
	uint32_t receives = requests->rq.length;
	if (!sizes->sq && !sizes->cq)
		log_write(4, "queue", "%s#%u rq=%u/%u", kind, owner->number, receives, sizes->rq);
	else
		log_write(4, "queue", "%s#%u sq=%u/%u rq=%u/%u cq=%u/%u", kind, owner->number,
			  requests->sq.length, sizes->sq, receives, sizes->rq,
			  requests->signalled + (sizes->rcq ? 0 : receives), sizes->cq);
}

/* The same once, and later only as the reason for a failure. */
#define warn_once(has_warned, call, owner, ...)                                                    \
	do {                                                                                       \
		if (*(has_warned))                                                                 \
			hint((call), __VA_ARGS__);                                                 \
		else                                                                               \
			warning((call), (owner), __VA_ARGS__);                                     \
		*(has_warned) = true;                                                              \
	} while (0)

/* What is wrong with the queues, as they are with the request that is about to be posted. */
static void COLD
tell_of_queues(struct call *call, struct object *owner, struct requests *requests, bool is_receive,
	       bool is_signalled)
{
	const struct queue_sizes *sizes = &requests->sizes;
	const char *kind = kind_names[atomic_load(&owner->state) >> 2];
	uint32_t sends = requests->sq.length, receives = requests->rq.length;
	uint32_t completions = requests->signalled + (sizes->rcq ? 0 : receives);
	bool is_srq = atomic_load(&owner->state) >> 2 == KIND_SRQ;
	bool is_full = !is_receive && sends > sizes->sq;
	/* None of those before it will ever make room. */
	bool is_stuck = is_full && sends > 1 && requests->signalled == is_signalled;
	if (is_full && !is_stuck)
		warn_once(&requests->has_warned_sq, call, owner,
			  "%u requests of %s#%u have not completed: more than its send queue's "
			  "sq_size of %u; collect completions first",
			  sends, kind, owner->number, sizes->sq);
	if (is_receive && receives > sizes->rq)
		warn_once(&requests->has_warned_rq, call, owner,
			  "%u receives of %s#%u have not completed: more than its receive queue's "
			  "rq_size of %u",
			  receives, kind, owner->number, sizes->rq);
	if (is_receive && sizes->rcq && receives > sizes->rcq)
		warn_once(&requests->has_warned_cq, call, owner,
			  "the receive CQ of %s#%u can overflow: %u receives are posted, and its "
			  "rcq_size is %u",
			  kind, owner->number, receives, sizes->rcq);
	if (!is_srq && completions > sizes->cq)
		warn_once(&requests->has_warned_cq, call, owner,
			  "the CQ of %s#%u can overflow: %u requests will complete, and its "
			  "cq_size is %u",
			  kind, owner->number, completions, sizes->cq);
	if (is_stuck)
		warn_once(&requests->has_warned_unsignalled, call, owner,
			  "the send queue of %s#%u is full of %u requests with "
			  "RPMA_F_COMPLETION_ON_ERROR: nothing will ever retire them; ask for a "
			  "completion (RPMA_F_COMPLETION_ALWAYS) within every sq_size requests",
			  kind, owner->number, sends - 1);
}

static inline void
check_queues(struct call *call, struct object *owner, struct requests *requests, bool is_receive,
	     bool is_signalled)
{
	const struct queue_sizes *sizes = &requests->sizes;
	uint32_t sends = requests->sq.length, receives = requests->rq.length;
	if (is_receive ? receives > sizes->rq || (sizes->rcq && receives > sizes->rcq)
		       : sends > sizes->sq)
		tell_of_queues(call, owner, requests, is_receive, is_signalled);
	else if (sizes->cq && requests->signalled + (sizes->rcq ? 0 : receives) > sizes->cq)
		tell_of_queues(call, owner, requests, is_receive, is_signalled);
}

static bool
is_source(const struct function *function)
{
	size_t id = (size_t)(function - functions);
	return id == FUNCTION_rpma_write || id == FUNCTION_rpma_write_with_imm ||
	       id == FUNCTION_rpma_send || id == FUNCTION_rpma_send_with_imm;
}

/* Level 4 watches the memory. */
static void
watch(struct request *request)
{
	struct mr_local *region = &request->local->local;
	if (is_source(request->function))
		request->hash = inflight_hash(region->ptr + request->offset, request->len);
	else
		request->guard = inflight_guard(request->local, request->offset, request->len,
						request->function);
}

void
requests_post(struct call *call, struct object *owner, const struct posting *posting)
{
	struct requests *requests = requests_of(owner, posting->is_receive);
	if (!requests)
		return;
	pthread_mutex_lock(&requests->lock);
	struct queue *queue = posting->is_receive ? &requests->rq : &requests->sq;
	if (make_room(queue)) {
		struct request *request = request_at(queue, queue->tail++);
		queue->length++;
		call->posted = ++queue->posted;
		*request = (struct request){
			.function = call->function,
			.number = call->posted,
			.wr_id = (uint64_t)(uintptr_t)posting->op_context,
			.local = posting->local,
			.local_number = posting->local ? posting->local->number : 0,
			.is_signalled = posting->is_signalled,
			.offset = posting->offset,
			.len = posting->len,
		};
		if (!posting->is_receive)
			requests->signalled += posting->is_signalled;
		if (log_level >= 4) {
			if (request->local && request->len)
				watch(request);
			log_occupancy(owner, requests);
		}
		check_queues(call, owner, requests, posting->is_receive, posting->is_signalled);
	}
	pthread_mutex_unlock(&requests->lock);
}

/* It is where it was: its region has not gone, nor another come. */
static bool
has_local(const struct request *request)
{
	return request->local && object_is_live(request->local) &&
	       request->local->number == request->local_number;
}

/* Level 4, when the source is no longer in flight: is it as it was when it was posted? */
static bool
has_changed(struct request *request)
{
	uint64_t hash = request->hash;
	request->hash = 0;
	if (!hash || !has_local(request))
		return false;
	const char *from = request->local->local.ptr + request->offset;
	return memory_is_mapped(from, request->len) && inflight_hash(from, request->len) != hash;
}

static void
retire(struct call *call, struct requests *requests, struct queue *queue, struct request *request)
{
	if (!request->function)
		return;
	if (request->guard)
		inflight_unguard(request->guard);
	if (call && has_changed(request))
		(void)finding(call, request->local,
			      "the source of %s(), %zu bytes at offset %zu of mr_local#%u, "
			      "op_context=0x%llx, was changed while it was in flight",
			      request->function->name, request->len, request->offset,
			      request->local_number, (unsigned long long)request->wr_id);
	if (queue == &requests->sq && request->is_signalled)
		requests->signalled--;
	request->function = NULL;
	queue->length--;
}

static void
drop_retired(struct queue *queue)
{
	while (queue->head != queue->tail && !request_at(queue, queue->head)->function)
		queue->head++;
}

void
requests_retract(struct call *call, struct object *owner, bool is_receive)
{
	struct requests *requests = requests_of(owner, is_receive);
	if (!requests)
		return;
	pthread_mutex_lock(&requests->lock);
	struct queue *queue = is_receive ? &requests->rq : &requests->sq;
	for (uint32_t i = queue->tail; i != queue->head; i--) {
		struct request *request = request_at(queue, i - 1);
		if (request->number != call->posted)
			continue;
		retire(NULL, requests, queue, request);
		if (i == queue->tail)
			queue->tail--;
		break;
	}
	drop_retired(queue);
	pthread_mutex_unlock(&requests->lock);
}

/* The request that completed; with a send, all before it. False: none that is known. */
static bool
complete(struct call *call, struct requests *requests, bool is_receive, const struct ibv_wc *wc)
{
	bool is_found = false;
	if (!requests)
		return false;
	pthread_mutex_lock(&requests->lock);
	struct queue *queue = is_receive ? &requests->rq : &requests->sq;
	uint32_t position = queue->head;
	for (; position != queue->tail; position++) {
		const struct request *request = request_at(queue, position);
		is_found = request->function && request->wr_id == wc->wr_id &&
			   (is_receive || request->is_signalled ||
			    (wc->status != IBV_WC_SUCCESS && request->number > requests->answered));
		if (is_found)
			break;
	}
	if (is_found) {
		for (uint32_t i = is_receive ? position : queue->head; i != position + 1; i++)
			retire(call, requests, queue, request_at(queue, i));
		drop_retired(queue);
	}
	pthread_mutex_unlock(&requests->lock);
	return is_found;
}

static const char *
opcode_text(unsigned opcode)
{
	switch (opcode) {
	case IBV_WC_SEND:
		return "SEND";
	case IBV_WC_RDMA_WRITE:
		return "RDMA_WRITE";
	case IBV_WC_RDMA_READ:
		return "RDMA_READ";
	case IBV_WC_FLUSH:
		return "FLUSH";
	case IBV_WC_ATOMIC_WRITE:
		return "ATOMIC_WRITE";
	case IBV_WC_RECV:
		return "RECV";
	case IBV_WC_RECV_RDMA_WITH_IMM:
		return "RECV_RDMA_WITH_IMM";
	default:
		return "OTHER";
	}
}

static void
log_wc(const struct object *cq, const struct ibv_wc *wc)
{
	static const char *const statuses[] = {
		"SUCCESS",          "LOC_LEN_ERR",       "LOC_QP_OP_ERR",     "LOC_EEC_OP_ERR",
		"LOC_PROT_ERR",     "WR_FLUSH_ERR",      "MW_BIND_ERR",       "BAD_RESP_ERR",
		"LOC_ACCESS_ERR",   "REM_INV_REQ_ERR",   "REM_ACCESS_ERR",    "REM_OP_ERR",
		"RETRY_EXC_ERR",    "RNR_RETRY_EXC_ERR", "LOC_RDD_VIOL_ERR",  "REM_INV_RD_REQ_ERR",
		"REM_ABORT_ERR",    "INV_EECN_ERR",      "INV_EEC_STATE_ERR", "FATAL_ERR",
		"RESP_TIMEOUT_ERR", "GENERAL_ERR"};
	char owner[32] = "-", opcode[64] = "", imm[32] = "";
	if (cq->cq.owner && atomic_load(&cq->cq.owner->state) >> 2 == KIND_CONN)
		(void)snprintf(owner, sizeof(owner), "conn#%u", cq->cq.owner->number);
	if (wc->status == IBV_WC_SUCCESS) {
		(void)snprintf(opcode, sizeof(opcode), " opcode=%s byte_len=%u",
			       opcode_text(wc->opcode), wc->byte_len);
		if (wc->wc_flags & IBV_WC_WITH_IMM)
			(void)snprintf(imm, sizeof(imm), " imm=0x%x", be32toh(wc->imm_data));
	}
	log_write(4, "wc", "%s cq#%u wr_id=0x%llx status=%s%s%s", owner, cq->number,
		  (unsigned long long)wc->wr_id,
		  (size_t)wc->status < sizeof(statuses) / sizeof(*statuses) ? statuses[wc->status]
									    : "?",
		  opcode, imm);
}

/* ---- what a message tells of what was sent before it ---- */

static uint32_t
user_of(uint32_t qp_num)
{
	return (qp_num * 0x9e3779b1u) >> 26;
}
_Static_assert(USERS == 1 << (32 - 26), "user_of() is below USERS");

void
requests_join(struct object *conn, uint32_t qp_num)
{
	struct requests *requests = conn->conn.requests, *shared = conn->conn.srq->srq.requests;
	if (!requests || !shared)
		return;
	pthread_mutex_lock(&shared->lock);
	if (!shared->users)
		shared->users = calloc(USERS, sizeof(*shared->users));
	if (shared->users) {
		struct requests **first = &shared->users[user_of(qp_num)];
		requests->qp_num = qp_num;
		requests->next_user = *first;
		*first = requests;
	}
	pthread_mutex_unlock(&shared->lock);
}

static void
leave(struct requests *requests, struct requests *shared)
{
	pthread_mutex_lock(&shared->lock);
	struct requests **link = shared->users ? &shared->users[user_of(requests->qp_num)] : NULL;
	while (link && *link && *link != requests)
		link = &(*link)->next_user;
	if (link && *link)
		*link = requests->next_user;
	pthread_mutex_unlock(&shared->lock);
}

/* The sends of the connection that a message has come to. */
static struct requests *
sends_of(struct object *owner, const struct ibv_wc *wc)
{
	if (atomic_load(&owner->state) >> 2 != KIND_SRQ)
		return owner->conn.requests;
	struct requests *shared = owner->srq.requests, *found = NULL;
	if (!shared)
		return NULL;
	pthread_mutex_lock(&shared->lock);
	for (found = shared->users ? shared->users[user_of(wc->qp_num)] : NULL;
	     found && found->qp_num != wc->qp_num; found = found->next_user)
		;
	pthread_mutex_unlock(&shared->lock);
	return found;
}

/*
 * The peer has answered, or all errors have been told: what was sent before has arrived, or is
 * known not to have, and its memory is the program's again. Which of the peer's messages is an
 * answer, nobody knows here; the benefit of the doubt is the program's.
 */
static void
answered(struct call *call, struct requests *requests, bool by_peer)
{
	if (!requests)
		return;
	pthread_mutex_lock(&requests->lock);
	struct queue *queue = &requests->sq;
	for (uint32_t i = queue->tail; log_level >= 4 && i != queue->head; i--) {
		struct request *request = request_at(queue, i - 1);
		if (request->number <= requests->answered)
			break;
		if (request->function && !request->is_signalled && has_changed(request))
			warning(call, request->local,
				"the source of %s(), %zu bytes at offset %zu of mr_local#%u, "
				"op_context=0x%llx, was changed before a message of the peer's "
				"told that it had arrived",
				request->function->name, request->len, request->offset,
				request->local_number, (unsigned long long)request->wr_id);
	}
	requests->answered = queue->posted;
	requests->has_received |= by_peer;
	pthread_mutex_unlock(&requests->lock);
}

/* Where the request failed there is no opcode; the queue is then where its wr_id is. */
static void
account(struct call *call, struct object *cq, const struct ibv_wc *wc)
{
	struct object *owner = cq->cq.owner;
	struct requests *receives = requests_of(owner, true);
	if (wc->status == IBV_WC_SUCCESS && wc->opcode & IBV_WC_RECV)
		answered(call, sends_of(owner, wc), true);
	if (cq->cq.is_rcq || (wc->status == IBV_WC_SUCCESS && wc->opcode & IBV_WC_RECV))
		(void)complete(call, receives, true, wc);
	else if (!complete(call, requests_of(owner, false), false, wc) &&
		 wc->status != IBV_WC_SUCCESS)
		(void)complete(call, receives, true, wc);
}

void
requests_complete(struct call *call, struct object *cq, const struct ibv_wc *wc)
{
	struct object *owner = cq->cq.owner;
	struct requests *requests = requests_of(owner, false);
	if (log_level >= 4)
		log_wc(cq, wc);
	account(call, cq, wc);
	if (log_level >= 4 && requests)
		log_occupancy(owner, requests);
}

void
requests_none_left(struct call *call, const struct object *cq)
{
	struct object *owner = cq->cq.owner;
	if (!cq->cq.is_rcq && atomic_load(&owner->state) >> 2 == KIND_CONN &&
	    atomic_load(&owner->conn.state) == CONN_ENDED)
		answered(call, owner->conn.requests, false);
}

bool
requests_have_received(const struct object *conn)
{
	struct requests *requests = conn->conn.requests;
	if (!requests)
		return false;
	pthread_mutex_lock(&requests->lock);
	bool has_received = requests->has_received;
	pthread_mutex_unlock(&requests->lock);
	return has_received;
}

void
requests_drain(struct call *call, const struct object *conn)
{
	struct ibv_wc wc[16];
	for (unsigned i = 0; i < 2; i++) {
		struct object *cq = conn->found[i];
		int count = 0;
		while (cq && !normal.rpma_cq_get_wc(cq->normal, 16, wc, &count)) {
			for (int j = 0; j < count; j++)
				account(call, cq, &wc[j]);
		}
	}
}

/* ---- what is left ---- */

unsigned
requests_using(struct object *owner, const struct object *local)
{
	bool is_srq = atomic_load(&owner->state) >> 2 == KIND_SRQ;
	struct requests *requests = requests_of(owner, is_srq);
	unsigned count = 0;
	if (!requests || !(is_srq ? object_has_connections(owner)
				  : atomic_load(&owner->conn.state) != CONN_ENDED))
		return 0;
	pthread_mutex_lock(&requests->lock);
	const struct queue *queues[] = {&requests->sq, &requests->rq};
	for (unsigned which = 0; which < 2; which++) {
		for (uint32_t i = queues[which]->head; i != queues[which]->tail; i++) {
			const struct request *request = request_at(queues[which], i);
			count += request->function && request->local == local &&
				 (which == 1 || request->is_signalled);
		}
	}
	pthread_mutex_unlock(&requests->lock);
	return count;
}

/* Those that nothing tells of. A message does not count: who wants to know lets the peer answer. */
static uint32_t
count_unknown(const struct requests *requests)
{
	const struct queue *queue = &requests->sq;
	uint32_t count = 0;
	for (uint32_t i = queue->tail; i != queue->head; i--) {
		const struct request *request = request_at(queue, i - 1);
		if (!request->function)
			continue;
		if (request->is_signalled || request->number <= requests->answered)
			break;
		size_t id = (size_t)(request->function - functions);
		count += id != FUNCTION_rpma_send && id != FUNCTION_rpma_send_with_imm;
	}
	return count;
}

void
requests_before_delete(struct call *call, struct object *conn)
{
	struct requests *requests = conn->conn.requests;
	bool has_ended = atomic_load(&conn->conn.state) == CONN_ENDED;
	/* Where the peer has ended it, the program has to do with that. */
	if (!requests || (has_ended && !atomic_load(&conn->conn.is_disconnected)))
		return;
	pthread_mutex_lock(&requests->lock);
	uint32_t signalled = requests->signalled, unknown = count_unknown(requests);
	pthread_mutex_unlock(&requests->lock);
	if (unknown)
		warning(call, conn,
			"behind the last request of conn#%u that asks for a completion %u more %s "
			"posted: whether they are carried out will never be known",
			conn->number, unknown, unknown == 1 ? "was" : "were");
	if (!has_ended && signalled)
		warning(call, conn, "%u completions of conn#%u were never collected", signalled,
			conn->number);
}

void
requests_forget(struct object *owner)
{
	struct requests *requests = *object_requests(owner);
	if (!requests)
		return;
	if (atomic_load(&owner->state) >> 2 == KIND_CONN && owner->conn.srq &&
	    owner->conn.srq->srq.requests)
		leave(requests, owner->conn.srq->srq.requests);
	pthread_mutex_lock(&requests->lock);
	struct queue *queues[] = {&requests->sq, &requests->rq};
	for (unsigned which = 0; which < 2; which++) {
		for (uint32_t i = queues[which]->head; i != queues[which]->tail; i++)
			retire(NULL, requests, queues[which], request_at(queues[which], i));
		queues[which]->head = queues[which]->tail;
	}
	pthread_mutex_unlock(&requests->lock);
}
