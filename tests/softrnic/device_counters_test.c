/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device_counters_test.c -- positions in rings and sequence numbers have 32 bits, and wrap: here
 * they do so soon.
 */
#include "softrnic.h"

#include "device_test.h"

/* Requests of a round, by turns Reads, atomics and Sends: all counters wrap within them. */
enum { ROUND = 72, DEPTHS = 12, PIECE = 64, WORD = 40960, RECEIVED = 49152 };

static void
post_one(struct both *both, uint64_t i)
{
	struct side *a = &both->a, *b = &both->b;
	struct ibv_sge sge = sge_of(a, i * PIECE, i % 3 == 1 ? 8 : PIECE);
	struct ibv_send_wr wr;
	switch (i % 3) {
	case 0:
		wr = wr_of(IBV_WR_RDMA_READ, i, &sge, 1, b, i * PIECE);
		break;
	case 1:
		wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, i, &sge, 1, b, WORD);
		wr.wr.atomic.compare_add = 1;
		break;
	default:
		wr = wr_of(IBV_WR_SEND, i, &sge, 1, NULL, 0);
		CHECK(post_receive(b, i, RECEIVED, PIECE), 0);
		break;
	}
	CHECK(post(a, &wr), 0);
}

static void
take_one(struct both *both, uint64_t i)
{
	struct side *a = &both->a;
	uint64_t word;
	TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
	memcpy(&word, a->bytes + i * PIECE, sizeof(word));
	if (i % 3 == 0) /* a Read has brought its own piece */
		CHECK(memcmp(a->bytes + i * PIECE, both->b.bytes + i * PIECE, PIECE), 0);
	else if (i % 3 == 1)
		CHECK(word, i / 3);
	else
		TAKE_THIS(both->b.recv_cq, i, IBV_WC_SUCCESS);
}

static void
over_the_wrap(unsigned depth, uint32_t before)
{
	struct both both;
	uint64_t posted = 0, taken = 0;
	positions_begin = -before;
	both_init(&both, &(struct options){.ird = depth, .ord = depth});
	fill(both.b.bytes, WORD, depth);
	while (taken < ROUND) {
		/* More under way than the peer takes at a time, then none. */
		while (posted < ROUND && posted - taken < 2 * depth)
			post_one(&both, posted++);
		while (taken < posted)
			take_one(&both, taken++);
	}
	both_fini(&both);
}

static void
test_reads_and_atomics_over_the_wrap(void)
{
	for (unsigned depth = 1; depth <= DEPTHS; depth++) {
		for (uint32_t before = 1; before <= 2 * DEPTHS; before += 2) {
			int failed = failures;
			over_the_wrap(depth, before);
			if (failures != failed)
				printf("%u reads at a time, %u before the wrap\n", depth, before);
		}
	}
}

/* Nobody asks again and again where, for half of all positions, nothing wanted a completion. */
static void
test_unsignalled_requests_without_end(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	struct sender *tx = &to_qp(a->qp)->tx;
	struct ibv_sge sge = sge_of(a, 0, 8);
	struct ibv_wc wc;
	pthread_mutex_lock(&tx->lock);
	tx->signalled_upto = tx->acked_upto - INT32_MAX;
	pthread_mutex_unlock(&tx->lock);
	for (uint64_t i = 0; i < 200; i++) {
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, i, &sge, 1, b, 0);
		wr.send_flags = 0;
		int64_t until = now_ms() + PATIENCE_MS;
		while (post(a, &wr) == ENOMEM && now_ms() < until)
			CHECK(ibv_poll_cq(a->send_cq, 1, &wc), 0);
	}
	check_empty(__LINE__, a->send_cq, 50);
	pthread_mutex_lock(&tx->lock);
	uint32_t asked = tx->read_msn - positions_begin - 1;
	pthread_mutex_unlock(&tx->lock);
	CHECK(asked > 0 && asked < 50, 1);
	both_fini(&both);
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_reads_and_atomics_over_the_wrap);
	RUN(test_unsignalled_requests_without_end);
	return report();
}
