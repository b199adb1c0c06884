/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * validation_calls.c -- what calls of the data path cost: by the call, on the librpma that the
 * dynamic linker picks. Prints "CALL NANOSECONDS", the median of ROUNDS times BATCH calls each;
 * the calls of a batch follow each other, so that two readings of the clock are shared by many.
 */
#include "pair.h"

#include <stdint.h>
#include <time.h>

#define BATCH 32
#define ROUNDS 2000
#define DEPTH (4 * BATCH)

static struct pair pair;
static uint64_t samples[ROUNDS];

static uint64_t
now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int
compare(const void *one, const void *other)
{
	const uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
	return (a > b) - (a < b);
}

static void
report(const char *name)
{
	qsort(samples, ROUNDS, sizeof(*samples), compare);
	printf("%s %.2f\n", name, (double)samples[ROUNDS / 2] / BATCH);
}

/* All that was posted: one completion tells of it. */
static void
drain(void)
{
	struct ibv_wc wc;
	int ret;
	must(rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 8, RPMA_F_COMPLETION_ALWAYS,
			NULL));
	while ((ret = rpma_cq_get_wc(pair.cq, 1, &wc, NULL)) == RPMA_E_NO_COMPLETION)
		;
	must(ret);
}

static void
measure_write(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t start = now();
		for (int n = 0; n < BATCH; n++)
			must(rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 8,
					RPMA_F_COMPLETION_ON_ERROR, NULL));
		samples[i] = now() - start;
		drain();
	}
	report("rpma_write");
}

static void
measure_read(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t start = now();
		for (int n = 0; n < BATCH; n++)
			must(rpma_read(pair.conn, pair.local, 0, pair.remote, 0, 8,
				       RPMA_F_COMPLETION_ON_ERROR, NULL));
		samples[i] = now() - start;
		drain();
	}
	report("rpma_read");
}

/* No work completion is there. */
static void
measure_empty_cq(void)
{
	struct ibv_wc wc;
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t start = now();
		for (int n = 0; n < BATCH; n++)
			must(rpma_cq_get_wc(pair.cq, 1, &wc, NULL) != RPMA_E_NO_COMPLETION);
		samples[i] = now() - start;
	}
	report("rpma_cq_get_wc,_none");
}

/* One work completion in each call, when all have come. */
static void
measure_cq(void)
{
	struct ibv_wc wc;
	for (int i = 0; i < ROUNDS; i++) {
		for (int n = 0; n < BATCH; n++)
			must(rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 8,
					RPMA_F_COMPLETION_ALWAYS, NULL));
		while (memcmp(pair.target, pair.source, 8) != 0)
			;
		usleep(100);
		uint64_t start = now();
		for (int n = 0; n < BATCH; n++) {
			int ret;
			while ((ret = rpma_cq_get_wc(pair.cq, 1, &wc, NULL)) ==
			       RPMA_E_NO_COMPLETION)
				;
			must(ret);
		}
		samples[i] = now() - start;
	}
	report("rpma_cq_get_wc,_one");
}

/* Last: what is posted stays. */
static void
measure_receive(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t start = now();
		for (int n = 0; n < BATCH; n++)
			must(rpma_recv(pair.passive, pair.target_mr, 0, 8, NULL));
		samples[i] = now() - start;
		for (int n = 0; n < BATCH; n++)
			must(rpma_send(pair.conn, pair.local, 0, 8,
				       n + 1 < BATCH ? RPMA_F_COMPLETION_ON_ERROR
						     : RPMA_F_COMPLETION_ALWAYS,
				       NULL));
		(void)completion(pair.cq);
		for (int n = 0; n < BATCH; n++)
			(void)completion(pair.passive_cq);
	}
	report("rpma_recv");
}

int
main(void)
{
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_sq_size(pair.cfg, DEPTH));
	must(rpma_conn_cfg_set_rq_size(pair.cfg, DEPTH));
	must(rpma_conn_cfg_set_cq_size(pair.cfg, 2 * DEPTH));
	pair_new(&pair);
	measure_write();
	measure_read();
	measure_empty_cq();
	measure_cq();
	measure_receive();
	return 0;
}
