/* SPDX-License-Identifier: BSD-3-Clause */
/* wait.c -- waiting so that Ctrl-C and close() are answered: in slices, or in two attempts. */
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>

int64_t
now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
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
		sigset_t all;
		sigfillset(&all);
		pthread_sigmask(SIG_BLOCK, &all, &attempt->previous);
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
