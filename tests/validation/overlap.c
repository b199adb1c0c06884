/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * overlap.c -- a program that reads twice into the same place, as one does whose first attempt took
 * too long. The second is posted at the very moment that the soft RNIC writes what the first has
 * brought: its destination is a file that is empty until then, where the device's thread is
 * stopped.
 */
#include "pair.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>

#define PATIENCE_S 60

static sem_t is_writing, goes_on;

static int
wait_for(sem_t *semaphore)
{
	struct timespec until;
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	while (sem_timedwait(semaphore, &until)) {
		if (errno != EINTR)
			return -1;
	}
	return 0;
}

/* The file has a page when this returns, and the access happens again. */
static void
on_bus_error(int number)
{
	(void)number;
	(void)sem_post(&is_writing);
	if (wait_for(&goes_on))
		_exit(5);
}

int
main(void)
{
	static struct pair pair;
	struct rpma_mr_local *into;
	struct sigaction action = {.sa_handler = on_bus_error};
	int file = memfd_create("destination", MFD_CLOEXEC);
	char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (file < 0 || memory == MAP_FAILED || sem_init(&is_writing, 0, 0) ||
	    sem_init(&goes_on, 0, 0) || sigaction(SIGBUS, &action, NULL))
		return 3;
	pair_new(&pair);
	memcpy(pair.target, "12345678", 8);
	must(rpma_mr_reg(pair.peer, memory, PAGE, RPMA_MR_USAGE_READ_DST, &into));
	must(rpma_read(pair.conn, into, 0, pair.remote, 0, PAGE, RPMA_F_COMPLETION_ALWAYS,
		       (void *)1));
	if (wait_for(&is_writing))
		return 5;
	must(rpma_read(pair.conn, into, 0, pair.remote, 0, PAGE, RPMA_F_COMPLETION_ALWAYS,
		       (void *)2));
	if (ftruncate(file, PAGE) || sem_post(&goes_on))
		return 3;
	for (uint64_t number = 1; number <= 2; number++) {
		struct ibv_wc wc = completion(pair.cq);
		if (wc.status != IBV_WC_SUCCESS || wc.wr_id != number)
			return 4;
	}
	if (memcmp(memory, "12345678", 8) != 0)
		return 4;
	must(rpma_mr_dereg(&into));
	pair_disconnect(&pair);
	pair_delete(&pair);
	return 0;
}
