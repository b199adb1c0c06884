/* SPDX-License-Identifier: BSD-3-Clause */
/* wait.c -- waiting so that Ctrl-C and close() are answered: in slices, or in two attempts. */
#include "../common/faults.h"
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <time.h>

/* Polling begins with so much, and is given up where waits take longer than so much. */
#define POLLING_MIN_NS (50 * 1000LL)
#define POLLING_MAX_NS (500 * 1000LL)
#define POLLING_NOTED_NS (2 * POLLING_MAX_NS)

int64_t
now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Whether another processor can work on the completion while this one polls. */
static bool
has_other_processors(void)
{
	static _Atomic int count;
	int known = atomic_load_explicit(&count, memory_order_relaxed);
	if (!known) {
		cpu_set_t allowed;
		known = sched_getaffinity(0, sizeof(allowed), &allowed) ? 1 : CPU_COUNT(&allowed);
		atomic_store_explicit(&count, known, memory_order_relaxed);
	}
	return known > 1;
}

bool
wait_polls(struct polling *polling, const struct rpmapy_cq *cq)
{
	int64_t now = now_ns();
	if (!polling->began) {
		int64_t typical = atomic_load_explicit(&cq->typical_wait, memory_order_relaxed);
		polling->began = polling->until = now;
		if (typical < POLLING_MAX_NS && has_other_processors())
			polling->until += 2 * typical + POLLING_MIN_NS;
	}
	return now < polling->until;
}

void
wait_learn(const struct polling *polling, struct rpmapy_cq *cq)
{
	if (!polling->began)
		return;
	int64_t typical = atomic_load_explicit(&cq->typical_wait, memory_order_relaxed);
	int64_t took = now_ns() - polling->began;
	/* One wait that was long, of a storage that had much to do, is not how they will all be. */
	if (took > POLLING_NOTED_NS)
		took = POLLING_NOTED_NS;
	typical += (took - typical) / 8;
	atomic_store_explicit(&cq->typical_wait, typical, memory_order_relaxed);
}

int
set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return RPMA_E_PROVIDER;
	return 0;
}

int
wait_readable(int fd, int other_fd, int64_t deadline, unsigned *ready)
{
	struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = other_fd, .events = POLLIN}};
	int64_t wait = SLICE_NS;
	if (deadline != RPMAPY_FOREVER) {
		int64_t left = deadline - now_ns();
		if (left < 0)
			left = 0;
		if (left < wait)
			wait = left;
	}
	struct timespec slice = {.tv_nsec = wait};
	int ret = ppoll(fds, 2, &slice, NULL);
	if (ret > 0) {
		*ready = (fds[0].revents ? 1u : 0u) | (fds[1].revents ? 2u : 0u);
		return 0;
	}
	if (ret < 0 && errno != EINTR)
		return RPMA_E_PROVIDER;
	if (ret == 0 && wait < SLICE_NS)
		return RPMAPY_E_TIMEOUT;
	return RPMAPY_AGAIN;
}

void
attempt_begin(struct attempt *attempt, bool is_second)
{
	attempt->blocks = is_second;
	if (is_second) {
		sigset_t blocked = all_but_faults();
		pthread_sigmask(SIG_BLOCK, &blocked, &attempt->previous);
	}
	call_begin();
}

int
attempt_end(const struct attempt *attempt, int ret)
{
	if (attempt->blocks)
		pthread_sigmask(SIG_SETMASK, &attempt->previous, NULL);
	else if (ret == RPMA_E_PROVIDER && call_failed_with(EINTR))
		return RPMAPY_AGAIN;
	return ret;
}
