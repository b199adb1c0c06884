/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * responder.c -- the target's answers to flush requests and to compare-and-swaps, by a thread for
 * each client. RC has a message arrive after the writes before it, so what a request names is in
 * memory when the request is met here.
 *
 * Little endian; a flush request is 32 bytes and its answer 16, a compare-and-swap 48 and 24:
 *
 *     request  u64 id, u64 offset, u64 length, u32 pool, u32 0 [, u64 expected, u64 desired]
 *     answer   u64 id, u32 status, u32 0 [, u64 found]
 *
 * and a flush request for n = 2 to 16 ranges of a pool, with one answer for all of them, 16 + 12 n:
 *
 *     request  u64 id, u32 pool, u32 n, n times: u64 offset, u32 length
 *
 * Whatever completes a receive is answered, in order. The id of a message that is no request (its
 * length is another, or it came as a write's immediate data) is taken to be 0. A message of more
 * than 208 bytes fails its receive, and with it the connection.
 */
#include "../common/faults.h"
#include "pool.h"

#include <endian.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH 16
#define BUCKETS 64
/* In a batch: what has come beyond that waits for the next one. */
#define PIECES 128
#define STACK_SIZE (128 * 1024L)
/* In the wr_id of an answer: the others are those of receives, the numbers of their buffers. */
#define IS_ANSWER ((uint64_t)1 << 62)

struct pool {
	struct pool *next;
	uint32_t number;
	bool may_write;
	struct rpmapy_durable *durable;
	struct handle *hold; /* a child of the durable, which it keeps open */
	bool in_use;         /* by a batch: then it must stay */
	bool leaving;        /* no further batch is to use it */
	/* The thread's own. */
	bool has_failed;
};

struct request {
	uint64_t id;
	uint64_t found; /* by a compare-and-swap */
	uint32_t receive;
	uint32_t status;
	bool is_swap;
	struct pool *pool; /* NULL: there is nothing to flush */
};

/* One of the ranges that are to be flushed. */
struct piece {
	struct range range;
	struct pool *pool;
};

/* A receive that has completed, whose buffer has not been looked at. */
struct arrival {
	uint32_t receive;
	uint32_t length; /* 0: it is no request, by its length or kind */
};

struct counts {
	_Atomic uint64_t requests, ranges, bytes, failures, bad_requests;
};

struct rpmapy_answering {
	struct handle handle;
	struct rpmapy_conn *conn;
	struct rpmapy_local *messages;
	char *base; /* of the messages */
	uint32_t depth, ring;
	int wake_fd, ended_fd; /* for the thread, and for those who wait for its end */

	pthread_mutex_t life; /* of what is between this and the pools */
	pthread_t thread;
	bool started, joined;
	_Atomic bool stopping;
	_Atomic int ended;
	struct counts counts;

	pthread_mutex_t lock; /* of the pools */
	pthread_cond_t unused;
	struct pool *pools[BUCKETS];

	/* The thread's own. */
	struct arrival *arrivals; /* room for depth: a receive is posted again after it was taken */
	struct request *requests; /* of the batch: room for depth */
	struct piece *pieces;     /* what they want flushed: room for PIECES */
	struct range *ranges;     /* of them, as they are flushed: room for as many */
	uint32_t arrived, piece_count;
	uint64_t sent, retired; /* answers: posted, and those of them whose buffers are free */
	bool is_broken;         /* a request to the RNIC failed: the connection is over */
};

/* ---- pools ---- */

static struct pool **
find(struct rpmapy_answering *answering, uint32_t number)
{
	struct pool **pool = &answering->pools[number % BUCKETS];
	while (*pool && (*pool)->number != number)
		pool = &(*pool)->next;
	return pool;
}

static void
free_pool(struct pool *pool)
{
	handle_discard(pool->hold);
	free(pool);
}

static int
add_pool(struct rpmapy_answering *answering, struct pool *pool)
{
	pthread_mutex_lock(&answering->lock);
	struct pool **place = find(answering, pool->number);
	bool is_new = !*place;
	if (is_new)
		*place = pool;
	pthread_mutex_unlock(&answering->lock);
	return is_new ? 0 : RPMAPY_E_ARGUMENT;
}

/* The number must be free. */
int
rpmapy_answering_set_pool(struct rpmapy_answering *answering, uint32_t number,
			  struct rpmapy_durable *durable, bool may_write)
{
	int ret = handles_enter(&answering->handle, &durable->handle, NULL);
	if (ret)
		return ret;
	struct pool *pool = calloc(1, sizeof(*pool));
	struct handle *hold = handle_new(sizeof(*hold), NULL, &durable->handle, NULL);
	if (pool && hold) {
		pool->number = number;
		pool->may_write = may_write;
		pool->durable = durable;
		pool->hold = hold;
		ret = add_pool(answering, pool);
	} else {
		ret = RPMA_E_NOMEM;
	}
	if (ret) {
		if (hold)
			handle_discard(hold);
		free(pool);
	}
	handles_leave(&answering->handle, &durable->handle, NULL);
	return ret;
}

/* When it returns, no flush uses the pool any more. Clearing what is not there is fine. */
int
rpmapy_answering_clear_pool(struct rpmapy_answering *answering, uint32_t number)
{
	int ret = handle_enter(&answering->handle);
	if (ret)
		return ret;
	pthread_mutex_lock(&answering->lock);
	struct pool *pool = *find(answering, number);
	bool is_ours = pool && !pool->leaving;
	if (is_ours) {
		pool->leaving = true;
		while (pool->in_use)
			pthread_cond_wait(&answering->unused, &answering->lock);
		*find(answering, number) = pool->next;
	}
	pthread_mutex_unlock(&answering->lock);
	if (is_ours)
		free_pool(pool);
	handle_leave(&answering->handle);
	return 0;
}

static void
clear_pools(struct rpmapy_answering *answering)
{
	for (int i = 0; i < BUCKETS; i++) {
		while (answering->pools[i]) {
			struct pool *pool = answering->pools[i];
			answering->pools[i] = pool->next;
			free_pool(pool);
		}
	}
}

/* ---- a batch of requests ---- */

static void
count(_Atomic uint64_t *counter, uint64_t more)
{
	atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

/*
 * Under the lock of the pools, which keeps the memory: atomic for all who swap through a target,
 * and for the RNIC's atomic writes, as both go through this machine's caches.
 */
static uint32_t
swap(struct request *request, const struct range *word, struct rpmapy_durable *durable,
     const char *message)
{
	uint64_t words[2];
	char *place = durable->memory + word->offset;
	if (word->length != sizeof(uint64_t) || (uintptr_t)place % sizeof(uint64_t) ||
	    word->offset % sizeof(uint64_t))
		return RPMAPY_FLUSH_BAD_REQUEST;
	memcpy(words, message + RPMAPY_FLUSH_REQUEST_SIZE, sizeof(words));
	uint64_t found = words[0]; /* as it is in memory: little endian, like the words */
	(void)__atomic_compare_exchange_n((uint64_t *)(void *)place, &found, words[1], false,
					  __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	request->found = found;
	return rpmapy_durable_failed(durable) ? RPMAPY_FLUSH_STORAGE_FAILED : RPMAPY_FLUSH_OK;
}

/* How many ranges a message of this length has, if it is a request; else 0. */
static uint32_t
ranges_of(uint32_t length)
{
	if (length == RPMAPY_FLUSH_REQUEST_SIZE || length == RPMAPY_SWAP_REQUEST_SIZE)
		return 1;
	if (length < RPMAPY_LIST_HEAD_SIZE + 2 * RPMAPY_LIST_RANGE_SIZE ||
	    length > RPMAPY_LIST_HEAD_SIZE + RPMAPY_LIST_MOST * RPMAPY_LIST_RANGE_SIZE ||
	    (length - RPMAPY_LIST_HEAD_SIZE) % RPMAPY_LIST_RANGE_SIZE)
		return 0;
	return (length - RPMAPY_LIST_HEAD_SIZE) / RPMAPY_LIST_RANGE_SIZE;
}

static void
read_one(struct request *request, const char *message, struct range *range, uint32_t words[2])
{
	uint64_t numbers[3];
	memcpy(numbers, message, sizeof(numbers));
	memcpy(words, message + sizeof(numbers), 2 * sizeof(*words));
	request->id = le64toh(numbers[0]);
	*range = (struct range){le64toh(numbers[1]), le64toh(numbers[2])};
}

static void
read_list(struct request *request, const char *message, struct range *ranges, uint32_t count,
	  uint32_t words[2])
{
	uint64_t number;
	uint32_t length;
	memcpy(&number, message, sizeof(number));
	memcpy(words, message + sizeof(number), 2 * sizeof(*words));
	request->id = le64toh(number);
	message += RPMAPY_LIST_HEAD_SIZE;
	for (uint32_t i = 0; i < count; i++, message += RPMAPY_LIST_RANGE_SIZE) {
		memcpy(&number, message, sizeof(number));
		memcpy(&length, message + sizeof(number), sizeof(length));
		ranges[i] = (struct range){le64toh(number), le32toh(length)};
	}
}

/*
 * Under the lock of the pools: the status, as far as it is known without flushing. The message is
 * read once: a client that is up to no good can write into it meanwhile.
 */
static uint32_t
check(struct rpmapy_answering *answering, struct request *request, const char *message,
      uint32_t length)
{
	struct range ranges[RPMAPY_LIST_MOST];
	uint32_t words[2], count = ranges_of(length);
	bool is_list = count > 1;
	if (is_list)
		read_list(request, message, ranges, count, words);
	else
		read_one(request, message, ranges, words);
	struct pool *pool = *find(answering, le32toh(words[0]));
	if (le32toh(words[1]) != (is_list ? count : 0) || !pool || pool->leaving ||
	    !pool->may_write)
		return RPMAPY_FLUSH_BAD_REQUEST;
	uint64_t size = pool->durable->size;
	for (uint32_t i = 0; i < count; i++) {
		if (ranges[i].offset > size || ranges[i].length > size - ranges[i].offset)
			return RPMAPY_FLUSH_BAD_REQUEST;
	}
	if (request->is_swap)
		return swap(request, ranges, pool->durable, message);
	if (pool->durable->method == RPMAPY_DURABLE_NONE)
		return RPMAPY_FLUSH_NOT_DURABLE;
	pool->in_use = true;
	pool->has_failed = false;
	request->pool = pool;
	for (uint32_t i = 0; i < count; i++)
		answering->pieces[answering->piece_count++] = (struct piece){ranges[i], pool};
	return RPMAPY_FLUSH_OK;
}

/*
 * The requests that have arrived become the batch, as far as there is room for what they want
 * flushed, and their number is returned.
 */
static uint32_t
take_requests(struct rpmapy_answering *answering)
{
	uint32_t taken = 0;
	answering->piece_count = 0;
	pthread_mutex_lock(&answering->lock);
	for (; taken < answering->arrived; taken++) {
		const struct arrival *arrival = &answering->arrivals[taken];
		struct request *request = &answering->requests[taken];
		if (ranges_of(arrival->length) > PIECES - answering->piece_count)
			break;
		*request = (struct request){.receive = arrival->receive,
					    .status = RPMAPY_FLUSH_BAD_REQUEST,
					    .is_swap = arrival->length == RPMAPY_SWAP_REQUEST_SIZE};
		if (arrival->length)
			request->status = check(answering, request,
						answering->base + (size_t)arrival->receive *
									  RPMAPY_REQUEST_ROOM,
						arrival->length);
	}
	pthread_mutex_unlock(&answering->lock);
	answering->arrived -= taken;
	memmove(answering->arrivals, answering->arrivals + taken,
		answering->arrived * sizeof(*answering->arrivals));
	count(&answering->counts.requests, taken);
	return taken;
}

static bool
is_before(const struct piece *one, const struct piece *other)
{
	if (one->pool != other->pool)
		return (uintptr_t)one->pool < (uintptr_t)other->pool;
	return one->range.offset < other->range.offset;
}

/* By insertion: they tend to come in order, and they are few. */
static void
sort(struct rpmapy_answering *answering)
{
	struct piece *pieces = answering->pieces;
	for (uint32_t i = 1; i < answering->piece_count; i++) {
		struct piece piece = pieces[i];
		uint32_t at = i;
		for (; at > 0 && is_before(&piece, &pieces[at - 1]); at--)
			pieces[at] = pieces[at - 1];
		pieces[at] = piece;
	}
}

/*
 * The next range, of the pieces from *at on, which are of one pool: what overlaps or touches is
 * one. By pages: where its pages do. False: there is none left.
 */
static bool
next_range(const struct piece *pieces, uint32_t *at, uint32_t end, bool by_pages,
	   struct range *range)
{
	if (*at == end)
		return false;
	const struct rpmapy_durable *durable = pieces[*at].pool->durable;
	uint64_t begin = pieces[*at].range.offset, last = begin;
	for (; *at < end; (*at)++) {
		const struct range *next = &pieces[*at].range;
		uint64_t reach = by_pages ? durable_page_up(durable, last) : last;
		uint64_t from = by_pages ? durable_page_down(durable, next->offset) : next->offset;
		if (from > reach)
			break;
		if (next->offset + next->length > last)
			last = next->offset + next->length;
	}
	*range = (struct range){begin, last - begin};
	return true;
}

/* What of a batch is of one pool: pieces[at .. end - 1], and from them ranges[at ...]. */
struct part {
	uint32_t at, end, count;
	struct pool *pool;
};

static bool
next_part(struct rpmapy_answering *answering, struct part *part)
{
	const struct piece *pieces = answering->pieces;
	*part = (struct part){.at = part->end, .end = part->end};
	if (part->at == answering->piece_count)
		return false;
	part->pool = pieces[part->at].pool;
	while (part->end < answering->piece_count && pieces[part->end].pool == part->pool)
		part->end++;
	bool by_pages = part->pool->durable->method == RPMAPY_DURABLE_MSYNC;
	struct range range;
	for (uint32_t i = part->at; next_range(pieces, &i, part->end, by_pages, &range);) {
		if (range.length)
			answering->ranges[part->at + part->count++] = range;
	}
	return true;
}

/* To the byte: what lies between is not flushed, though it may be in the same page. */
static void
copy_part(struct rpmapy_answering *answering, const struct part *part)
{
	struct range range;
	int ret = 0;
	for (uint32_t i = part->at;
	     !ret && next_range(answering->pieces, &i, part->end, false, &range);)
		ret = durable_copy(part->pool->durable, range.offset, range.length);
}

static void
persist_part(struct rpmapy_answering *answering, const struct part *part)
{
	const struct range *ranges = answering->ranges + part->at;
	int ret = durable_persist(part->pool->durable, ranges, part->count);
	/* All of them: which pages a failed write-back was of, the kernel does not say. */
	part->pool->has_failed = ret != 0;
	for (uint32_t i = 0; !ret && i < part->count; i++) {
		count(&answering->counts.ranges, 1);
		count(&answering->counts.bytes, ranges[i].length);
	}
}

static void
flush(struct rpmapy_answering *answering, uint32_t taken)
{
	struct request *requests = answering->requests;
	if (!answering->piece_count)
		return;
	sort(answering);
	for (struct part part = {0}; next_part(answering, &part);) {
		copy_part(answering, &part);
		if (part.end - part.at < answering->piece_count)
			rounds_begin(part.pool->durable, answering->ranges + part.at, part.count);
	}
	for (struct part part = {0}; next_part(answering, &part);)
		persist_part(answering, &part);
	pthread_mutex_lock(&answering->lock);
	for (uint32_t i = 0; i < taken; i++) {
		if (!requests[i].pool)
			continue;
		if (requests[i].pool->has_failed)
			requests[i].status = RPMAPY_FLUSH_STORAGE_FAILED;
		requests[i].pool->in_use = false;
	}
	pthread_cond_broadcast(&answering->unused);
	pthread_mutex_unlock(&answering->lock);
}

/* ---- the connection ---- */

static void
complete(struct rpmapy_answering *answering, const struct rpmapy_wc *wc)
{
	if (wc->status != IBV_WC_SUCCESS) {
		answering->is_broken = true;
	} else if (wc->wr_id & IS_ANSWER) {
		answering->retired = (wc->wr_id & ~IS_ANSWER) + 1;
	} else if (wc->wr_id < answering->depth && answering->arrived < answering->depth) {
		bool is_request = wc->opcode == IBV_WC_RECV && ranges_of(wc->byte_len);
		answering->arrivals[answering->arrived++] = (struct arrival){
			.receive = (uint32_t)wc->wr_id, .length = is_request ? wc->byte_len : 0};
	}
}

/* Take all completions that are there. */
static int
collect(struct rpmapy_answering *answering, bool *any)
{
	struct rpmapy_wc wcs[BATCH];
	int ret, got;
	*any = false;
	do {
		ret = cq_get_wc(&answering->conn->cq, BATCH, wcs, &got);
		for (int i = 0; i < got; i++)
			complete(answering, &wcs[i]);
		*any = *any || got > 0;
	} while (got == BATCH);
	return ret == RPMA_E_NO_COMPLETION ? 0 : ret;
}

/* Sleep until there may be something, a slice at most. */
static int
rest(struct rpmapy_answering *answering)
{
	struct rpmapy_conn *conn = answering->conn;
	bool ended = atomic_load(&conn->ended) != RPMA_CONN_UNDEFINED;
	struct pollfd fds[] = {{.fd = conn->cq.fd, .events = POLLIN},
			       {.fd = answering->wake_fd, .events = POLLIN},
			       {.fd = ended ? -1 : conn->event_fd, .events = POLLIN}};
	int64_t sleep = SLICE_NS;
	if (ended) {
		int64_t left = atomic_load(&conn->grace_until) - now_ns();
		if (left <= 0)
			return RPMAPY_E_ENDED;
		if (left < sleep)
			sleep = left;
	}
	struct timespec slice = {.tv_nsec = sleep};
	if (ppoll(fds, 3, &slice, NULL) <= 0)
		return 0;
	int ret = 0;
	if (fds[2].revents) /* it is read as in every other wait, and so is one of a completion */
		ret = conn_wait_completion_event(conn, &conn->cq, now_ns(), NULL);
	else if (fds[0].revents)
		ret = rpma_cq_wait(conn->cq.cq);
	return ret == RPMAPY_E_TIMEOUT || ret == RPMAPY_AGAIN || ret == RPMA_E_NO_COMPLETION ? 0
											     : ret;
}

/* Wait for completions, and take them; or for the end, when there may be none. */
static int
wait_for_some(struct rpmapy_answering *answering)
{
	struct polling polling = {0};
	bool any;
	int ret;
	for (;;) {
		ret = collect(answering, &any);
		if (ret || any || atomic_load(&answering->stopping))
			break;
		if (wait_polls(&polling, &answering->conn->cq))
			continue;
		ret = rest(answering);
		if (ret)
			break;
	}
	wait_learn(&polling, &answering->conn->cq);
	return ret;
}

static bool
goes_on(const struct rpmapy_answering *answering, int ret)
{
	return !ret && !answering->is_broken && !atomic_load(&answering->stopping);
}

/* librpma(3): a connection is used by one thread at a time. The messages may have been closed. */
static int
post_begin(struct rpmapy_answering *answering)
{
	int ret = handle_enter(&answering->messages->handle);
	if (ret)
		return ret;
	handle_use(&answering->conn->handle);
	call_begin();
	return 0;
}

static void
post_end(struct rpmapy_answering *answering)
{
	handle_done(&answering->conn->handle);
	handle_leave(&answering->messages->handle);
}

/* Its buffer is free once a signalled answer after it has been sent: every quarter of the ring. */
static int
send_answer(struct rpmapy_answering *answering, const struct request *request)
{
	uint64_t number = answering->sent;
	uint32_t quarter = answering->ring < 4 ? 1 : answering->ring / 4;
	bool signalled = number % quarter == quarter - 1;
	size_t offset = (size_t)answering->depth * RPMAPY_REQUEST_ROOM +
			(size_t)(number % answering->ring) * RPMAPY_ANSWER_ROOM;
	uint64_t id = htole64(request->id);
	uint32_t words[] = {htole32(request->status), 0};
	char *place = answering->base + offset;
	memcpy(place, &id, sizeof(id));
	memcpy(place + sizeof(id), words, sizeof(words));
	memcpy(place + RPMAPY_FLUSH_ANSWER_SIZE, &request->found, sizeof(request->found));
	size_t length = request->is_swap ? RPMAPY_SWAP_ANSWER_SIZE : RPMAPY_FLUSH_ANSWER_SIZE;
	int flags = signalled ? RPMA_F_COMPLETION_ALWAYS : RPMA_F_COMPLETION_ON_ERROR;
	int ret = post_begin(answering);
	if (ret)
		return ret;
	ret = post_result(rpma_send(answering->conn->handle.object,
				    answering->messages->handle.object, offset, length, flags,
				    (const void *)(uintptr_t)(IS_ANSWER | number)));
	post_end(answering);
	if (!ret)
		answering->sent++;
	return ret;
}

static int
post_receive(struct rpmapy_answering *answering, uint32_t receive)
{
	int ret = post_begin(answering);
	if (ret)
		return ret;
	ret = post_result(rpma_recv(answering->conn->handle.object,
				    answering->messages->handle.object,
				    (size_t)receive * RPMAPY_REQUEST_ROOM, RPMAPY_REQUEST_ROOM,
				    (const void *)(uintptr_t)receive));
	post_end(answering);
	return ret;
}

/* The receive goes back first: the client may send its next request as soon as it is answered. */
static int
answer(struct rpmapy_answering *answering, const struct request *request)
{
	if (request->status == RPMAPY_FLUSH_BAD_REQUEST)
		count(&answering->counts.bad_requests, 1);
	else if (request->status == RPMAPY_FLUSH_STORAGE_FAILED)
		count(&answering->counts.failures, 1);
	int ret = post_receive(answering, request->receive);
	while (!ret && !answering->is_broken) {
		uint64_t under_way = answering->sent - answering->retired;
		if (under_way < answering->ring) {
			ret = send_answer(answering, request);
			if (ret != RPMAPY_E_QUEUE_FULL || !under_way)
				break;
		}
		if (atomic_load(&answering->stopping))
			return 0;
		ret = wait_for_some(answering);
	}
	return ret;
}

static int
serve(struct rpmapy_answering *answering)
{
	bool any;
	/* Some may have come while answers were sent. */
	int ret = answering->arrived ? collect(answering, &any) : wait_for_some(answering);
	uint32_t taken = take_requests(answering);
	flush(answering, taken);
	for (uint32_t i = 0; i < taken && !ret && !answering->is_broken; i++)
		ret = answer(answering, &answering->requests[i]);
	return ret;
}

static int
reason(const struct rpmapy_answering *answering, int ret)
{
	if (answering->is_broken || ret == RPMAPY_E_ENDED ||
	    atomic_load(&answering->conn->ended) != RPMA_CONN_UNDEFINED)
		return RPMAPY_ANSWERING_DISCONNECTED;
	return ret ? ret : RPMAPY_ANSWERING_STOPPED;
}

/* Make an eventfd readable, for good. */
static void
raise_flag(int fd)
{
	uint64_t one = 1;
	ssize_t written = write(fd, &one, sizeof(one));
	(void)written; /* eight bytes into a counter of 0 or 1 */
}

/* It does not enter the connection's handle, which stays open: the answering is its child. */
static void *
run(void *opaque)
{
	struct rpmapy_answering *answering = opaque;
	struct rpmapy_conn *conn = answering->conn;
	int ret = 0;
	log_quiet_begin(); /* a client that goes away is no error of the target */
	call_begin();
	while (goes_on(answering, ret))
		ret = serve(answering);
	if (ret && ret != RPMAPY_E_ENDED) /* perhaps because of its end, which is not noticed yet */
		(void)conn_wait_completion_event(conn, &conn->cq, now_ns(), NULL);
	log_quiet_end();
	atomic_store(&answering->ended, reason(answering, ret));
	raise_flag(answering->ended_fd);
	return NULL;
}

/* ---- its life ---- */

static int
start_thread(struct rpmapy_answering *answering)
{
	pthread_attr_t attributes;
	sigset_t blocked = all_but_faults(), before; /* signals are the program's */
	if (pthread_attr_init(&attributes))
		return RPMA_E_NOMEM;
	long least = sysconf(_SC_THREAD_STACK_MIN);
	(void)pthread_attr_setstacksize(&attributes,
					(size_t)(STACK_SIZE + (least > 0 ? least : 0)));
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	int ret = pthread_create(&answering->thread, &attributes, run, answering);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return ret ? RPMA_E_NOMEM : 0;
}

/* Once. */
int
rpmapy_answering_start(struct rpmapy_answering *answering)
{
	int ret = handle_enter(&answering->handle);
	if (ret)
		return ret;
	pthread_mutex_lock(&answering->life);
	if (answering->started || atomic_load(&answering->stopping))
		ret = RPMAPY_E_BUSY;
	else
		ret = start_thread(answering);
	if (!ret)
		answering->started = true;
	pthread_mutex_unlock(&answering->life);
	handle_leave(&answering->handle);
	return ret;
}

static void
stop(struct rpmapy_answering *answering)
{
	pthread_mutex_lock(&answering->life);
	atomic_store(&answering->stopping, true);
	if (answering->started && !answering->joined) {
		raise_flag(answering->wake_fd);
		pthread_join(answering->thread, NULL);
		answering->joined = true;
	} else if (!answering->started) {
		atomic_store(&answering->ended, RPMAPY_ANSWERING_STOPPED);
		raise_flag(answering->ended_fd);
	}
	pthread_mutex_unlock(&answering->life);
}

/* When it returns the thread has ended; after the flush that it was at, if it was. */
int
rpmapy_answering_stop(struct rpmapy_answering *answering)
{
	int ret = handle_enter(&answering->handle);
	if (ret)
		return ret;
	stop(answering);
	handle_leave(&answering->handle);
	return 0;
}

static int
answering_delete(void *object)
{
	stop(object);
	clear_pools(object);
	return 0;
}

static void
answering_finish(struct handle *handle)
{
	struct rpmapy_answering *answering = (struct rpmapy_answering *)handle;
	clear_pools(answering); /* in a forked child, where nothing else was done */
	if (answering->wake_fd >= 0)
		close(answering->wake_fd);
	if (answering->ended_fd >= 0)
		close(answering->ended_fd);
	free(answering->arrivals);
	free(answering->requests);
	free(answering->pieces);
	free(answering->ranges);
	/* Never in a forked child, where it would wait for threads that are not there. */
	if (handle->generation == handle_generation())
		pthread_cond_destroy(&answering->unused);
	pthread_mutex_destroy(&answering->lock);
	pthread_mutex_destroy(&answering->life);
}

/*
 * How many answers can be under way: as many as have room in the messages, in the send queue, and,
 * should all of them fail, in the completion queue, beside the receives.
 */
static uint32_t
ring_size(const struct rpmapy_conn *conn, const struct rpmapy_local *messages, uint32_t depth)
{
	size_t receives = (size_t)depth * RPMAPY_REQUEST_ROOM;
	if (messages->size < receives || conn->common.cq_size <= depth)
		return 0;
	size_t room = (messages->size - receives) / RPMAPY_ANSWER_ROOM;
	uint32_t most = conn->common.cq_size - depth;
	if (conn->common.sq_size < most)
		most = conn->common.sq_size;
	return room < most ? (uint32_t)room : most;
}

static int
answering_setup(struct rpmapy_answering *answering)
{
	uint32_t depth = answering->depth;
	uintptr_t base = 0;
	answering->arrivals = calloc(depth, sizeof(*answering->arrivals));
	answering->requests = calloc(depth, sizeof(*answering->requests));
	answering->pieces = calloc(PIECES, sizeof(*answering->pieces));
	answering->ranges = calloc(PIECES, sizeof(*answering->ranges));
	if (!answering->arrivals || !answering->requests || !answering->pieces ||
	    !answering->ranges)
		return RPMA_E_NOMEM;
	answering->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	answering->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (answering->wake_fd < 0 || answering->ended_fd < 0)
		return RPMA_E_NOMEM;
	int ret = rpmapy_mr_get_ptr(answering->messages, &base);
	answering->base = (char *)base;
	return ret;
}

/*
 * The memory of the messages must stay until this is closed, even if the region does not: it is no
 * parent, since a region that the garbage collector meets first must close at once.
 *
 * The connection has one completion queue, which is the answering's alone from the start on, and
 * its receives i = 0 .. depth - 1 are posted: 208 bytes at i * 208 of the messages, of wr_id i.
 */
int
rpmapy_answering_new(struct rpmapy_conn *conn, struct rpmapy_local *messages, uint32_t depth,
		     struct rpmapy_answering **out)
{
	const int usage = RPMA_MR_USAGE_RECV | RPMA_MR_USAGE_SEND;
	if (!depth || depth > RPMAPY_FLUSH_DEPTH_MAX || conn->has_rcq || conn->channel_fd >= 0 ||
	    (messages->usage & usage) != usage || messages->peer != conn->common.peer ||
	    !ring_size(conn, messages, depth))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&conn->handle, &messages->handle, NULL);
	if (ret)
		return ret;
	struct rpmapy_answering *answering =
		handle_new(sizeof(*answering), answering_delete, &conn->handle, NULL);
	if (answering) {
		answering->handle.finish = answering_finish;
		answering->conn = conn;
		answering->messages = messages;
		answering->depth = depth;
		answering->ring = ring_size(conn, messages, depth);
		answering->wake_fd = answering->ended_fd = -1;
		pthread_mutex_init(&answering->life, NULL);
		pthread_mutex_init(&answering->lock, NULL);
		pthread_cond_init(&answering->unused, NULL);
		ret = answering_setup(answering);
	} else {
		ret = RPMA_E_NOMEM;
	}
	handles_leave(&conn->handle, &messages->handle, NULL);
	if (ret) {
		if (answering)
			handle_discard(&answering->handle);
		return ret;
	}
	answering->handle.object = answering;
	*out = answering;
	return 0;
}

/* Readable once it has ended; good as long as the handle. */
int
rpmapy_answering_fd(const struct rpmapy_answering *answering)
{
	return answering->ended_fd;
}

/* Why it ended: RPMAPY_ANSWERING_*, or the code of what went wrong. */
int
rpmapy_answering_ended(const struct rpmapy_answering *answering)
{
	return atomic_load(&answering->ended);
}

void
rpmapy_answering_counts(const struct rpmapy_answering *answering,
			struct rpmapy_answering_counts *counts)
{
	const struct counts *now = &answering->counts;
	*counts = (struct rpmapy_answering_counts){.requests = atomic_load(&now->requests),
						   .ranges = atomic_load(&now->ranges),
						   .bytes = atomic_load(&now->bytes),
						   .failures = atomic_load(&now->failures),
						   .bad_requests = atomic_load(&now->bad_requests)};
}
