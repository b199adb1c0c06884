/* SPDX-License-Identifier: BSD-3-Clause */
/* async.c -- asynchronous events of queue pairs, completion queues and shared receive queues. */
#include "softrnic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct context *
of(struct ibv_context *context)
{
	return container_of(context, struct context, verbs.context);
}

static void *
object_of(const struct ibv_async_event *event)
{
	switch (event->event_type) {
	case IBV_EVENT_CQ_ERR:
		return event->element.cq;
	case IBV_EVENT_SRQ_ERR:
	case IBV_EVENT_SRQ_LIMIT_REACHED:
		return event->element.srq;
	default:
		return event->element.qp;
	}
}

void
async_report(struct ibv_context *ibv_context, enum ibv_event_type type, void *object,
	     unsigned *reported)
{
	struct context *context = of(ibv_context);
	struct async_event *event = calloc(1, sizeof(*event));
	if (!event)
		return;
	event->event.event_type = type;
	event->event.element.qp = object; /* a union of pointers */
	pthread_mutex_lock(&context->lock);
	if (context->first)
		context->last->next = event;
	else
		context->first = event;
	context->last = event;
	(*reported)++;
	uncancelled_event_add(ibv_context->async_fd);
	pthread_mutex_unlock(&context->lock);
}

unsigned
async_forget(struct ibv_context *ibv_context, const void *object, const unsigned *reported)
{
	struct context *context = of(ibv_context);
	unsigned count = 0;
	pthread_mutex_lock(&context->lock);
	struct async_event **link = &context->first, *previous = NULL;
	while (*link) {
		struct async_event *event = *link;
		/* One whose count somebody has taken already will be fetched, or found gone. */
		if (object_of(&event->event) == object) {
			*link = event->next;
			if (context->last == event)
				context->last = previous;
			(void)uncancelled_event_take(ibv_context->async_fd);
			free(event);
			count++;
		} else {
			previous = event;
			link = &event->next;
		}
	}
	count = *reported - count;
	pthread_mutex_unlock(&context->lock);
	return count;
}

static bool
take_first(struct context *context, struct ibv_async_event *event)
{
	pthread_mutex_lock(&context->lock);
	struct async_event *first = context->first;
	if (first) {
		*event = first->event;
		context->first = first->next;
	}
	pthread_mutex_unlock(&context->lock);
	free(first);
	return first;
}

/* Also of a thread that is cancelled: the last one of a closed device ends it. */
static void
leave(void *argument)
{
	struct context *context = argument;
	pthread_mutex_lock(&context->lock);
	bool is_last = --context->users == 0 && context->is_closed;
	pthread_mutex_unlock(&context->lock);
	if (is_last)
		context_free(context);
}

int
ibv_get_async_event(struct ibv_context *ibv_context, struct ibv_async_event *event)
{
	struct context *context = of(ibv_context);
	int ret = engine_usable();
	if (ret) {
		errno = ret;
		return -1;
	}
	volatile bool has_event = false;
	pthread_mutex_lock(&context->lock);
	context->users++;
	pthread_mutex_unlock(&context->lock);
	pthread_cleanup_push(leave, context);
	eventfd_t value;
	while (!has_event && read(ibv_context->async_fd, &value, sizeof(value)) >= 0)
		has_event = take_first(context, event);
	pthread_cleanup_pop(0);
	int failure = errno;
	leave(context);
	errno = failure;
	return has_event ? 0 : -1;
}

/* The count that destroying the object waits for. */
static void
acknowledge(pthread_mutex_t *mutex, pthread_cond_t *cond, uint32_t *count)
{
	pthread_mutex_lock(mutex);
	(*count)++;
	pthread_cond_signal(cond);
	pthread_mutex_unlock(mutex);
}

void
ibv_ack_async_event(struct ibv_async_event *event)
{
	if (engine_usable())
		return;
	switch (event->event_type) {
	case IBV_EVENT_CQ_ERR: {
		struct ibv_cq *cq = event->element.cq;
		acknowledge(&cq->mutex, &cq->cond, &cq->async_events_completed);
		return;
	}
	case IBV_EVENT_SRQ_ERR:
	case IBV_EVENT_SRQ_LIMIT_REACHED: {
		struct ibv_srq *srq = event->element.srq;
		acknowledge(&srq->mutex, &srq->cond, &srq->events_completed);
		return;
	}
	default: {
		struct ibv_qp *qp = event->element.qp;
		acknowledge(&qp->mutex, &qp->cond, &qp->events_completed);
		return;
	}
	}
}
