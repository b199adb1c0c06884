/* SPDX-License-Identifier: BSD-3-Clause */
/* transmit.c -- from FPDUs to the socket, as far as it takes them. */
#include "softrnic.h"

#include <errno.h>
#include <sys/socket.h>

#define IOVECS 64

/* What of the oldest FPDU is left to send, as iovecs. */
static unsigned
iovecs_of(const struct out *out, uint32_t skip, struct iovec *iovecs)
{
	unsigned count = 0;
	struct iovec all[OUT_SEGMENTS + 2];
	unsigned parts = 0;
	if (out->segment_count) {
		all[parts++] = (struct iovec){(void *)out->bytes, out->head};
		for (unsigned i = 0; i < out->segment_count; i++)
			all[parts++] = out->segments[i];
		all[parts++] = (struct iovec){(void *)(out->bytes + out->head), out->tail};
	} else {
		all[parts++] = (struct iovec){(void *)out->bytes, (size_t)out->head + out->tail};
	}
	for (unsigned i = 0; i < parts; i++) {
		if (skip >= all[i].iov_len) {
			skip -= (uint32_t)all[i].iov_len;
			continue;
		}
		iovecs[count].iov_base = (char *)all[i].iov_base + skip;
		iovecs[count++].iov_len = all[i].iov_len - skip;
		skip = 0;
	}
	return count;
}

/*
 * Hold what a response reads from: the right to it may have been taken back. That is told when its
 * turn has come: what goes before it goes.
 */
static bool
hold_source(struct qp *qp, const struct out *out, bool is_next, struct mr **held, unsigned *count)
{
	uint16_t error;
	if (!out->is_response || !out->segment_count || qp->tx.copies)
		return true;
	struct mr *mr = mr_get(qp->ibv.pd, out->rkey, out->source, out->segments[0].iov_len,
			       IBV_ACCESS_REMOTE_READ, &error);
	if (mr)
		held[(*count)++] = mr;
	else if (is_next)
		sender_fail_response(&qp->tx, error, out->msn);
	return mr;
}

/* What is sent from where it lies. */
static void
touch(const struct msghdr *message, bool begins)
{
	for (size_t i = 0; i < message->msg_iovlen; i++)
		memory_touch(message->msg_iov[i].iov_base, message->msg_iov[i].iov_len, begins);
}

static void
transmit(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	struct iovec iovecs[IOVECS];
	struct mr *held[OUT_RING];
	unsigned count = 0, held_count = 0;
	size_t size = 0;
	for (uint32_t i = tx->out_head; i != tx->out_tail; i++) {
		const struct out *out = &tx->outs[i % OUT_RING];
		uint32_t skip = i == tx->out_head ? tx->out_sent : 0;
		if (count + OUT_SEGMENTS + 2 > IOVECS)
			break;
		if (!hold_source(qp, out, i == tx->out_head, held, &held_count))
			break;
		count += iovecs_of(out, skip, iovecs + count);
		size += out->size - skip;
	}
	struct msghdr message = {.msg_iov = iovecs, .msg_iovlen = count};
	touch(&message, true);
	ssize_t sent = count ? uncancelled_sendmsg(qp->source.fd, &message) : 0;
	if (sent < 0 && errno == EFAULT && memory_mend(&message))
		sent = uncancelled_sendmsg(qp->source.fd, &message);
	int failure = errno;
	touch(&message, false);
	for (unsigned i = 0; i < held_count; i++)
		mr_put(held[i]);
	if (sent < 0) {
		if (failure == EINTR)
			return;
		if (failure != EAGAIN && failure != EWOULDBLOCK && failure != ENOBUFS) {
			tx->is_lost = true;
			sender_fail(tx);
			return;
		}
		sent = 0;
	}
	size_t left = (size_t)sent;
	while (left) {
		const struct out *out = &tx->outs[tx->out_head % OUT_RING];
		uint32_t rest = out->size - tx->out_sent;
		if (left < rest) {
			tx->out_sent += (uint32_t)left;
			break;
		}
		left -= rest;
		tx->out_sent = 0;
		tx->out_head++;
		if (out->ends_request)
			tx->sent_upto = out->request;
	}
	sender_sent(qp);
	if (tx->out_head == tx->out_tail)
		tx->copied = 0;
	if ((size_t)sent < size) {
		tx->blocked = true;
		if (!(qp->source.events & EPOLLOUT))
			(void)engine_change(&qp->source, EPOLLOUT, 0);
	}
}

void
sender_run(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	if (!qp->has_stream || tx->waits_first || tx->is_shut)
		return;
	atomic_store_explicit(&tx->owes, false, memory_order_relaxed);
	atomic_store_explicit(&tx->gathers, false, memory_order_relaxed);
	while (!tx->blocked && !tx->has_failed) {
		if (!tx->closes)
			sender_fill(qp);
		if (tx->out_head == tx->out_tail || tx->has_failed)
			break;
		transmit(qp);
	}
	if (tx->closes && (tx->out_head == tx->out_tail || tx->has_failed)) {
		tx->is_shut = true;
		shutdown(qp->source.fd, SHUT_WR);
	}
}

void
sender_retry(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	pthread_mutex_lock(&tx->lock);
	if (tx->blocked) {
		tx->blocked = false;
		sender_run(qp);
		if (!tx->blocked)
			(void)engine_change(&qp->source, 0, EPOLLOUT);
	}
	pthread_mutex_unlock(&tx->lock);
}

void
sender_end_gathering(struct qp *qp)
{
	if (!atomic_load_explicit(&qp->tx.gathers, memory_order_relaxed))
		return;
	pthread_mutex_lock(&qp->tx.lock);
	sender_run(qp);
	pthread_mutex_unlock(&qp->tx.lock);
	post_done(qp);
}
