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
	uint64_t wr_id;
	struct object *local;
	uint32_t local_number;
	bool is_signalled;
	size_t offset, len;
	uint64_t hash; /* of the source, at level 4 */
	struct guard *guard;
};

/* A queue, oldest request first. It grows: devices round sizes up. */
struct queue {
	struct request *requests;
	uint32_t capacity, head, tail; /* capacity: a power of two */
};

struct requests {
	struct requests *next, **link; /* of all of this process: for who looks for leaks */
	pthread_mutex_t lock;
	struct queue_sizes sizes;
	struct queue sq, rq;
	uint32_t signalled;        /* in the send queue */
	uint32_t last_unsignalled; /* behind the last signalled one */
	bool has_warned_sq, has_warned_rq, has_warned_cq, has_warned_unsignalled;
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
	free(requests->sq.requests);
	free(requests->rq.requests);
	free(requests);
}

static struct request *
request_at(const struct queue *queue, uint32_t position)
{
	return &queue->requests[position & (queue->capacity - 1)];
}

static uint32_t
length_of(const struct queue *queue)
{
	return queue->tail - queue->head;
}

static bool
make_room(struct queue *queue)
{
	if (length_of(queue) < queue->capacity)
		return true;
	uint32_t capacity = queue->capacity ? 2 * queue->capacity : 16;
	struct request *requests = aligned_alloc(CACHE_LINE, capacity * sizeof(*requests));
	if (!requests)
		return false;
	for (uint32_t i = queue->head; i != queue->tail; i++)
		requests[i & (capacity - 1)] = *request_at(queue, i);
	free(queue->requests);
	queue->requests = requests;
	queue->capacity = capacity;
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
	uint32_t receives = length_of(&requests->rq);
	if (!sizes->sq && !sizes->cq)
		log_write(4, "queue", "%s#%u rq=%u/%u", kind, owner->number, receives, sizes->rq);
	else
		log_write(4, "queue", "%s#%u sq=%u/%u rq=%u/%u cq=%u/%u", kind, owner->number,
			  length_of(&requests->sq), sizes->sq, receives, sizes->rq,
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
tell_of_queues(struct call *call, struct object *owner, struct requests *requests, bool is_receive)
{
	const struct queue_sizes *sizes = &requests->sizes;
	const char *kind = kind_names[atomic_load(&owner->state) >> 2];
	uint32_t sends = length_of(&requests->sq), receives = length_of(&requests->rq);
	uint32_t completions = requests->signalled + (sizes->rcq ? 0 : receives);
	bool is_srq = atomic_load(&owner->state) >> 2 == KIND_SRQ;
	if (!is_receive && sends > sizes->sq)
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
	if (!is_receive && !requests->signalled && sends >= sizes->sq)
		warn_once(&requests->has_warned_unsignalled, call, owner,
			  "the send queue of %s#%u is full of %u requests with "
			  "RPMA_F_COMPLETION_ON_ERROR: nothing will ever retire them; ask for a "
			  "completion (RPMA_F_COMPLETION_ALWAYS) within every sq_size requests",
			  kind, owner->number, sends);
}

static inline void
check_queues(struct call *call, struct object *owner, struct requests *requests, bool is_receive)
{
	const struct queue_sizes *sizes = &requests->sizes;
	uint32_t sends = length_of(&requests->sq), receives = length_of(&requests->rq);
	if (is_receive ? receives > sizes->rq || (sizes->rcq && receives > sizes->rcq)
		       : sends > sizes->sq || (!requests->signalled && sends >= sizes->sq))
		tell_of_queues(call, owner, requests, is_receive);
	else if (sizes->cq && requests->signalled + (sizes->rcq ? 0 : receives) > sizes->cq)
		tell_of_queues(call, owner, requests, is_receive);
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
		call->posted = queue->tail++;
		struct request *request = request_at(queue, call->posted);
		*request = (struct request){
			.function = call->function,
			.wr_id = (uint64_t)(uintptr_t)posting->op_context,
			.local = posting->local,
			.local_number = posting->local ? posting->local->number : 0,
			.is_signalled = posting->is_signalled,
			.offset = posting->offset,
			.len = posting->len,
		};
		if (!posting->is_receive) {
			requests->signalled += posting->is_signalled;
			requests->last_unsignalled =
				posting->is_signalled ? 0 : requests->last_unsignalled + 1;
		}
		if (log_level >= 4) {
			if (request->local && request->len)
				watch(request);
			log_occupancy(owner, requests);
		}
		check_queues(call, owner, requests, posting->is_receive);
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

static void
retire(struct call *call, struct requests *requests, struct queue *queue, struct request *request)
{
	if (!request->function)
		return;
	if (request->guard)
		inflight_unguard(request->guard);
	if (call && request->hash && has_local(request)) {
		const char *from = request->local->local.ptr + request->offset;
		if (memory_is_mapped(from, request->len) &&
		    inflight_hash(from, request->len) != request->hash)
			(void)finding(call, request->local,
				      "the source of %s(), %zu bytes at offset %zu of mr_local#%u, "
				      "op_context=0x%llx, was changed while it was in flight",
				      request->function->name, request->len, request->offset,
				      request->local_number, (unsigned long long)request->wr_id);
	}
	if (queue == &requests->sq && request->is_signalled)
		requests->signalled--;
	request->function = NULL;
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
	if (call->posted - queue->head < length_of(queue)) {
		struct request *request = request_at(queue, call->posted);
		if (!is_receive && !request->is_signalled && requests->last_unsignalled)
			requests->last_unsignalled--;
		retire(NULL, requests, queue, request);
		if (call->posted + 1 == queue->tail)
			queue->tail--;
		drop_retired(queue);
	}
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
			   (is_receive || request->is_signalled || wc->status != IBV_WC_SUCCESS);
		if (is_found)
			break;
	}
	if (is_found) {
		for (uint32_t i = is_receive ? position : queue->head; i != position + 1; i++)
			retire(call, requests, queue, request_at(queue, i));
		drop_retired(queue);
		if (requests->last_unsignalled > length_of(&requests->sq))
			requests->last_unsignalled = length_of(&requests->sq);
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

void
requests_complete(struct call *call, struct object *cq, const struct ibv_wc *wc)
{
	struct object *owner = cq->cq.owner;
	struct requests *sends = requests_of(owner, false), *receives = requests_of(owner, true);
	bool is_receive =
		cq->cq.is_rcq || (wc->status == IBV_WC_SUCCESS && wc->opcode & IBV_WC_RECV);
	if (log_level >= 4)
		log_wc(cq, wc);
	/* Where the request failed there is no opcode; the queue is then where its wr_id is. */
	if (is_receive)
		(void)complete(call, receives, true, wc);
	else if (!complete(call, sends, false, wc) && wc->status != IBV_WC_SUCCESS)
		(void)complete(call, receives, true, wc);
	if (log_level >= 4 && sends)
		log_occupancy(owner, sends);
}

unsigned
requests_using(struct object *owner, const struct object *local)
{
	bool is_srq = atomic_load(&owner->state) >> 2 == KIND_SRQ;
	struct requests *requests = requests_of(owner, is_srq);
	unsigned count = 0;
	if (!requests || (!is_srq && atomic_load(&owner->conn.state) == CONN_ENDED))
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

void
requests_before_end(struct call *call, struct object *conn, bool is_delete)
{
	struct requests *requests = conn->conn.requests;
	if (!requests)
		return;
	pthread_mutex_lock(&requests->lock);
	uint32_t signalled = requests->signalled, unsignalled = requests->last_unsignalled;
	pthread_mutex_unlock(&requests->lock);
	if (unsignalled)
		warning(call, conn,
			"behind the last request of conn#%u that asks for a completion %u more %s "
			"posted: whether they are carried out will never be known",
			conn->number, unsignalled, unsignalled == 1 ? "was" : "were");
	if (is_delete && signalled)
		warning(call, conn, "%u completions of conn#%u were never collected", signalled,
			conn->number);
}

void
requests_forget(struct object *owner)
{
	struct requests *requests = *object_requests(owner);
	if (!requests)
		return;
	pthread_mutex_lock(&requests->lock);
	struct queue *queues[] = {&requests->sq, &requests->rq};
	for (unsigned which = 0; which < 2; which++) {
		for (uint32_t i = queues[which]->head; i != queues[which]->tail; i++)
			retire(NULL, requests, queues[which], request_at(queues[which], i));
		queues[which]->head = queues[which]->tail;
	}
	requests->last_unsignalled = 0;
	pthread_mutex_unlock(&requests->lock);
}
