/* SPDX-License-Identifier: BSD-3-Clause */
/* cq.c -- completion channels and completion queues. */
#include "softrnic.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A poller looks after everybody else's sockets at least once in so many polls. */
#define POLLS_FOR_OTHERS 32

/* ---- channels ---- */

struct ibv_comp_channel *
ibv_create_comp_channel(struct ibv_context *context)
{
	int ret = engine_usable();
	struct channel *channel = ret ? NULL : calloc(1, sizeof(*channel));
	if (!channel) {
		errno = ret ? ret : ENOMEM;
		return NULL;
	}
	channel->ibv.context = context;
	channel->ibv.fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
	if (channel->ibv.fd < 0) {
		free(channel);
		return NULL;
	}
	pthread_mutex_init(&channel->lock, NULL);
	object_count(OBJECT_CHANNEL, 1);
	return &channel->ibv;
}

static void
free_channel(struct channel *channel)
{
	uncancelled_close(channel->ibv.fd);
	pthread_mutex_destroy(&channel->lock);
	free(channel);
}

/* As with a kernel's, a thread that waits for an event goes on waiting; it is the last to leave. */
int
ibv_destroy_comp_channel(struct ibv_comp_channel *ibv_channel)
{
	struct channel *channel = container_of(ibv_channel, struct channel, ibv);
	if (engine_usable())
		return EPERM;
	pthread_mutex_lock(&channel->lock);
	bool has_queues = channel->ibv.refcnt, has_users = channel->users;
	channel->is_destroyed = !has_queues;
	pthread_mutex_unlock(&channel->lock);
	if (has_queues)
		return EBUSY;
	object_count(OBJECT_CHANNEL, -1);
	if (!has_users)
		free_channel(channel);
	return 0;
}

/* Also of a thread that is cancelled. */
static void
leave(void *argument)
{
	struct channel *channel = argument;
	pthread_mutex_lock(&channel->lock);
	bool is_last = --channel->users == 0 && channel->is_destroyed;
	pthread_mutex_unlock(&channel->lock);
	if (is_last)
		free_channel(channel);
}

/* The channel for whose next event this thread waits, serving. */
static __thread struct channel *waited_for;

static void
channel_push(struct channel *channel, struct cq *cq)
{
	pthread_mutex_lock(&channel->lock);
	/* One event goes to this very thread: to tell by the descriptor would take system calls. */
	bool is_own = channel == waited_for && !channel->unannounced;
	if (is_own)
		channel->unannounced = 1;
	if (!cq->pending_events++) {
		cq->next_pending = NULL;
		if (channel->first)
			channel->last->next_pending = cq;
		else
			channel->first = cq;
		channel->last = cq;
	}
	bool has_other_waiters = channel->waiters > (channel == waited_for);
	pthread_mutex_unlock(&channel->lock);
	if (!is_own) {
		uncancelled_event_add(channel->ibv.fd);
		if (has_other_waiters)
			engine_kick();
	}
}

/* With the lock held: one event less, shown or not. False: there is none, or it is just coming. */
static bool
take_event(struct channel *channel)
{
	if (!channel->unannounced)
		return uncancelled_event_take(channel->ibv.fd);
	channel->unannounced--;
	return true;
}

static void
unlink_pending(struct channel *channel, struct cq *cq)
{
	struct cq **link = &channel->first, *previous = NULL;
	while (*link && *link != cq) {
		previous = *link;
		link = &(*link)->next_pending;
	}
	if (!*link)
		return;
	*link = cq->next_pending;
	if (channel->last == cq)
		channel->last = previous;
}

/* The next queue with an event, which is then fetched; or NULL, and the thread `enters`. */
static struct cq *
channel_pop(struct channel *channel, bool enters)
{
	pthread_mutex_lock(&channel->lock);
	struct cq *cq = channel->first;
	if (cq && take_event(channel)) {
		unlink_pending(channel, cq);
		cq->fetched_events++;
		if (--cq->pending_events) { /* to the end of the line */
			cq->next_pending = NULL;
			if (channel->first)
				channel->last->next_pending = cq;
			else
				channel->first = cq;
			channel->last = cq;
		}
	} else {
		cq = NULL;
	}
	if (!cq && enters)
		channel->users++;
	pthread_mutex_unlock(&channel->lock);
	return cq;
}

static bool
has_events(void *argument)
{
	struct channel *channel = argument;
	pthread_mutex_lock(&channel->lock);
	bool has = channel->first;
	pthread_mutex_unlock(&channel->lock);
	return has;
}

static void
count_waiter(struct channel *channel, int change)
{
	pthread_mutex_lock(&channel->lock);
	channel->waiters += (unsigned)change;
	pthread_mutex_unlock(&channel->lock);
}

static void
end_wait(void *channel)
{
	waited_for = NULL;
	count_waiter(channel, -1);
}

static int
wait_for_event(struct channel *channel)
{
	volatile int ret;
	count_waiter(channel, 1);
	waited_for = channel;
	pthread_cleanup_push(end_wait, channel);
	ret = engine_wait(channel->ibv.fd, has_events, channel);
	pthread_cleanup_pop(1);
	return ret;
}

/* NULL with errno: there is none, or the wait has been interrupted. */
static struct cq *
look_for_event(struct channel *channel)
{
	struct cq *volatile cq = NULL;
	pthread_cleanup_push(leave, channel);
	while (!cq) {
		int flags = fcntl(channel->ibv.fd, F_GETFL);
		if (flags < 0)
			break;
		bool blocks = !(flags & O_NONBLOCK);
		if (!blocks)
			(void)engine_poll();
		else if (wait_for_event(channel) < 0)
			break;
		cq = channel_pop(channel, false);
		if (!cq && !blocks) {
			errno = EAGAIN;
			break;
		}
	}
	pthread_cleanup_pop(0);
	return cq;
}

int
ibv_get_cq_event(struct ibv_comp_channel *ibv_channel, struct ibv_cq **ibv_cq, void **cq_context)
{
	struct channel *channel = container_of(ibv_channel, struct channel, ibv);
	int ret = engine_usable();
	if (ret) {
		errno = ret;
		return -1;
	}
	pthread_testcancel(); /* as in a read(), also where there is no need to wait */
	struct cq *cq = channel_pop(channel, true);
	if (!cq) {
		cq = look_for_event(channel);
		int failure = errno;
		leave(channel);
		errno = failure;
	}
	if (!cq)
		return -1;
	*ibv_cq = &cq->ibv;
	*cq_context = cq->ibv.cq_context;
	return 0;
}

void
ibv_ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
	if (!count || engine_usable())
		return;
	pthread_mutex_lock(&cq->mutex);
	cq->comp_events_completed += count;
	pthread_cond_signal(&cq->cond);
	pthread_mutex_unlock(&cq->mutex);
}

/* ---- queues ---- */

static struct ibv_wc *
new_entries(uint32_t cqe, uint32_t *mask)
{
	/* One more than asked for, and a few: programs count on what hardware rounds up. */
	uint32_t size = 16;
	while (size < cqe + 1)
		size *= 2;
	*mask = size - 1;
	return calloc(size, sizeof(struct ibv_wc));
}

struct ibv_cq *
cq_new(struct ibv_context *context, int cqe, void *cq_context, struct ibv_comp_channel *channel)
{
	int ret = engine_usable();
	if (!ret && (cqe < 1 || cqe > MAX_CQE))
		ret = EINVAL;
	struct cq *cq = ret ? NULL : calloc(1, sizeof(*cq));
	if (cq) {
		cq->entries = new_entries((uint32_t)cqe, &cq->mask);
		if (!cq->entries) {
			free(cq);
			cq = NULL;
		}
	}
	if (!cq) {
		errno = ret ? ret : ENOMEM;
		return NULL;
	}
	static _Atomic uint32_t handles;
	cq->head = cq->tail = positions_begin;
	cq->ibv.context = context;
	cq->ibv.channel = channel;
	cq->ibv.cq_context = cq_context;
	cq->ibv.cqe = (int)cq->mask + 1;
	cq->ibv.handle = atomic_fetch_add(&handles, 1);
	pthread_mutex_init(&cq->ibv.mutex, NULL);
	pthread_cond_init(&cq->ibv.cond, NULL);
	pthread_mutex_init(&cq->lock, NULL);
	pthread_mutex_init(&cq->poll_lock, NULL);
	object_count(OBJECT_CQ, 1);
	if (channel) {
		struct channel *ours = container_of(channel, struct channel, ibv);
		pthread_mutex_lock(&ours->lock);
		channel->refcnt++;
		pthread_mutex_unlock(&ours->lock);
	}
	return &cq->ibv;
}

struct ibv_cq *
ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
	      struct ibv_comp_channel *channel, int comp_vector)
{
	if (comp_vector < 0 || comp_vector >= context->num_comp_vectors) {
		errno = EINVAL;
		return NULL;
	}
	return cq_new(context, cqe, cq_context, channel);
}

int
ibv_resize_cq(struct ibv_cq *ibv_cq, int cqe)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	uint32_t mask;
	if (engine_usable())
		return EPERM;
	if (cqe < 1 || cqe > MAX_CQE)
		return EINVAL;
	struct ibv_wc *entries = new_entries((uint32_t)cqe, &mask);
	if (!entries)
		return ENOMEM;
	pthread_mutex_lock(&cq->lock);
	uint32_t count = cq->tail - cq->head;
	int ret = count > mask + 1 ? EINVAL : 0;
	if (!ret) {
		for (uint32_t i = 0; i < count; i++)
			entries[i] = cq->entries[(cq->head + i) & cq->mask];
		struct ibv_wc *old = cq->entries;
		cq->entries = entries;
		entries = old;
		cq->mask = mask;
		cq->head = 0;
		cq->tail = count;
		cq->ibv.cqe = (int)mask + 1;
	}
	pthread_mutex_unlock(&cq->lock);
	free(entries);
	return ret;
}

int
ibv_destroy_cq(struct ibv_cq *ibv_cq)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	if (engine_usable())
		return EPERM;
	pthread_mutex_lock(&cq->lock);
	bool is_used = cq->qp_count;
	pthread_mutex_unlock(&cq->lock);
	if (is_used)
		return EBUSY;
	unsigned fetched = 0;
	if (ibv_cq->channel) {
		struct channel *channel = container_of(ibv_cq->channel, struct channel, ibv);
		pthread_mutex_lock(&channel->lock);
		if (cq->pending_events) {
			unlink_pending(channel, cq);
			while (cq->pending_events && take_event(channel))
				cq->pending_events--;
		}
		fetched = cq->fetched_events;
		channel->ibv.refcnt--;
		pthread_mutex_unlock(&channel->lock);
	}
	/* Until the program has acknowledged all it was given, it may still use the queue. */
	unsigned async_fetched = async_forget(ibv_cq->context, ibv_cq, &cq->async_reported);
	pthread_mutex_lock(&cq->ibv.mutex);
	while (cq->ibv.comp_events_completed != fetched ||
	       cq->ibv.async_events_completed != async_fetched)
		uncancelled_cond_wait(&cq->ibv.cond, &cq->ibv.mutex);
	pthread_mutex_unlock(&cq->ibv.mutex);
	pthread_mutex_destroy(&cq->ibv.mutex);
	pthread_cond_destroy(&cq->ibv.cond);
	pthread_mutex_destroy(&cq->lock);
	pthread_mutex_destroy(&cq->poll_lock);
	free(cq->entries);
	free(cq);
	object_count(OBJECT_CQ, -1);
	return 0;
}

void
cq_push(struct ibv_cq *ibv_cq, const struct ibv_wc *wc, bool solicited)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	bool notify = false, overruns = false;
	pthread_mutex_lock(&cq->lock);
	if (cq->tail - cq->head > cq->mask) {
		overruns = !cq->overrun;
		cq->overrun = true;
	} else {
		cq->entries[cq->tail++ & cq->mask] = *wc;
	}
	if (cq->armed == ARMED ||
	    (cq->armed == ARMED_SOLICITED && (solicited || wc->status != IBV_WC_SUCCESS))) {
		cq->armed = NOT_ARMED;
		atomic_store_explicit(&cq->is_armed, false, memory_order_relaxed);
		notify = ibv_cq->channel;
	}
	pthread_mutex_unlock(&cq->lock);
	if (notify)
		channel_push(container_of(ibv_cq->channel, struct channel, ibv), cq);
	if (overruns)
		async_report(ibv_cq->context, IBV_EVENT_CQ_ERR, ibv_cq, &cq->async_reported);
}

bool
cq_is_direct(struct ibv_cq *ibv_cq)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	return atomic_load_explicit(&cq->qp_count, memory_order_relaxed) <= DIRECT_QPS;
}

void
cq_attach(struct ibv_cq *ibv_cq, struct qp *qp)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	pthread_mutex_lock(&cq->lock);
	if (cq->qp_count < DIRECT_QPS)
		cq->qps[cq->qp_count] = qp;
	cq->qp_count++;
	pthread_mutex_unlock(&cq->lock);
}

void
cq_detach(struct ibv_cq *ibv_cq, struct qp *qp)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	pthread_mutex_lock(&cq->lock);
	cq->qp_count--;
	for (unsigned i = 0; i < DIRECT_QPS; i++) {
		if (cq->qps[i] != qp)
			continue;
		for (unsigned j = i + 1; j < DIRECT_QPS; j++)
			cq->qps[j - 1] = cq->qps[j];
		cq->qps[DIRECT_QPS - 1] = NULL;
		break;
	}
	pthread_mutex_unlock(&cq->lock);
}

void
cq_clean(struct ibv_cq *ibv_cq, uint32_t qp_num)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	pthread_mutex_lock(&cq->lock);
	uint32_t kept = cq->head;
	for (uint32_t i = cq->head; i != cq->tail; i++) {
		struct ibv_wc *wc = &cq->entries[i & cq->mask];
		if (wc->qp_num != qp_num)
			cq->entries[kept++ & cq->mask] = *wc;
	}
	cq->tail = kept;
	pthread_mutex_unlock(&cq->lock);
}

/* Where others have work they are looked at again at once, elsewhere ever more seldom. */
static void
serve_others(struct cq *cq)
{
	unsigned interval = cq->others_interval;
	if (engine_poll())
		interval = 0;
	else if (interval < POLLS_FOR_OTHERS)
		interval = 2 * interval + 1;
	cq->others_interval = interval;
	cq->polls_for_others = (int)interval;
	if (interval)
		sched_yield(); /* what is polled for may need this very processor */
}

/* Its queue pairs, held, where they are few. With the lock. */
static unsigned
get_direct(struct cq *cq, struct qp **qps)
{
	unsigned count = 0;
	if (cq->qp_count <= DIRECT_QPS) {
		for (; count < DIRECT_QPS && cq->qps[count]; count++)
			qp_get(qps[count] = cq->qps[count]);
	}
	return count;
}

/* Look at the sockets behind an empty queue; with many of them, at those that are ready. */
static void
serve(struct cq *cq)
{
	struct qp *qps[DIRECT_QPS];
	bool for_others;
	if (!atomic_load_explicit(&cq->is_armed, memory_order_relaxed))
		engine_polled(); /* a program that has armed the queue is about to sleep */
	pthread_mutex_lock(&cq->lock);
	for_others = cq->polls_for_others-- <= 0;
	unsigned count = get_direct(cq, qps);
	for_others |= count < cq->qp_count; /* too many, or one that came when they were */
	pthread_mutex_unlock(&cq->lock);
	for (unsigned i = 0; i < count; i++) {
		sender_end_gathering(qps[i]);
		receiver_run(qps[i], BY_POLLER);
		if (atomic_load_explicit(&qps[i]->tx.blocked, memory_order_relaxed)) {
			sender_retry(qps[i]);
			post_done(qps[i]);
		}
		qp_release(qps[i]);
	}
	if (for_others)
		serve_others(cq);
}

static int
take(struct cq *cq, int count, struct ibv_wc *wcs)
{
	int taken = 0;
	pthread_mutex_lock(&cq->lock);
	for (; taken < count && cq->head != cq->tail; taken++)
		wcs[taken] = cq->entries[cq->head++ & cq->mask];
	if (!taken && cq->overrun)
		taken = -EOVERFLOW;
	pthread_mutex_unlock(&cq->lock);
	return taken;
}

int
poll_cq(struct ibv_cq *ibv_cq, int count, struct ibv_wc *wcs)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	if (engine_usable())
		return -EPERM; /* a forked child: a lock may be held by nobody that lives */
	int taken = take(cq, count, wcs);
	if (taken || count <= 0)
		return taken;
	serve(cq);
	return take(cq, count, wcs);
}

int
req_notify_cq(struct ibv_cq *ibv_cq, int solicited_only)
{
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	int ret = engine_usable();
	if (ret)
		return ret;
	pthread_mutex_lock(&cq->lock);
	if (!solicited_only)
		cq->armed = ARMED;
	else if (cq->armed == NOT_ARMED)
		cq->armed = ARMED_SOLICITED;
	atomic_store_explicit(&cq->is_armed, true, memory_order_relaxed);
	struct qp *qps[DIRECT_QPS];
	unsigned count = get_direct(cq, qps);
	pthread_mutex_unlock(&cq->lock);
	for (unsigned i = 0; i < count; i++) {
		sender_end_gathering(qps[i]);
		qp_release(qps[i]);
	}
	engine_armed();
	return 0;
}

/* ---- extended queues: a completion at a time, read by functions ---- */

int
cq_take_one(struct cq *cq)
{
	int taken = poll_cq(&cq->ibv, 1, &cq->current);
	if (taken == 1) {
		cq->current_time = (uint64_t)engine_now();
		cq->ex.wr_id = cq->current.wr_id;
		cq->ex.status = cq->current.status;
		return 0;
	}
	return taken < 0 ? -taken : ENOENT;
}
