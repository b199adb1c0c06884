/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * owed.c -- what is put off for a moment, to travel with what the program sends next.
 *
 * Acknowledgements, and requests of a program that posts many. Whoever puts something off has the
 * engine's word that somebody looks after it, or sends it at once.
 */
#include "softrnic.h"

/* Queue pairs that owe, or owed a moment ago. */
static struct {
	pthread_mutex_t lock;
	struct qp *first;
} owers = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* With tx.lock. */
static void
list(struct qp *qp)
{
	if (qp->tx.is_listed)
		return;
	qp->tx.is_listed = true;
	qp_get(qp);
	pthread_mutex_lock(&owers.lock);
	qp->next_owing = owers.first;
	owers.first = qp;
	pthread_mutex_unlock(&owers.lock);
}

bool
owed_add(struct qp *qp)
{
	qp->tx.owed_since = engine_now();
	atomic_store(&qp->tx.owes, true);
	list(qp);
	return engine_owe();
}

static void
pay(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	pthread_mutex_lock(&tx->lock);
	tx->is_listed = false;
	if (atomic_load(&tx->owes)) {
		/* Until it is due it may wait on, if there is somebody to see to it. */
		if (engine_now() - tx->owed_since < ENGINE_OWED_NS && engine_owe())
			list(qp);
		else
			sender_run(qp);
	}
	pthread_mutex_unlock(&tx->lock);
	post_done(qp);
}

void
owed_pay_all(void)
{
	pthread_mutex_lock(&owers.lock);
	struct qp *qp = owers.first;
	owers.first = NULL;
	pthread_mutex_unlock(&owers.lock);
	while (qp) {
		struct qp *next = qp->next_owing;
		pay(qp);
		qp_release(qp);
		qp = next;
	}
}

void
owed_forget(struct qp *qp)
{
	bool was_there = false;
	pthread_mutex_lock(&qp->tx.lock);
	pthread_mutex_lock(&owers.lock);
	struct qp **link = &owers.first;
	while (*link && *link != qp)
		link = &(*link)->next_owing;
	if (*link) { /* else it is being paid, if it is listed at all */
		*link = qp->next_owing;
		qp->tx.is_listed = false;
		was_there = true;
	}
	pthread_mutex_unlock(&owers.lock);
	pthread_mutex_unlock(&qp->tx.lock);
	if (was_there)
		qp_release(qp);
}
