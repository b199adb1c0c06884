/* SPDX-License-Identifier: BSD-3-Clause */
/* device_test.c -- what requests do, between two queue pairs of one process. */
#include "device_test.h"

#define LARGEST (20u << 20)

static const size_t sizes[] = {0,        1,
			       2,        7,
			       8,        9,
			       63,       64,
			       65,       160,
			       161,      255,
			       256,      257,
			       1023,     1024,
			       1025,     4096,
			       8191,     8192,
			       8193,     65503,
			       65504,    65505,
			       65516,    65517,
			       65518,    65519,
			       65520,    65521,
			       65522,    65535,
			       65536,    131039,
			       131040,   131041,
			       1u << 20, (1u << 20) + 13,
			       LARGEST};
#define SIZES (sizeof(sizes) / sizeof(*sizes))

/* ---- moving bytes ---- */

static void
test_sizes(void)
{
	struct both both;
	both_init(&both, &(struct options){.size = LARGEST + 64});
	struct side *a = &both.a, *b = &both.b;
	for (size_t i = 0; i < SIZES; i++) {
		size_t size = sizes[i];
		uint32_t seed = (uint32_t)i * 3 + 1;
		struct ibv_sge sge = sge_of(a, 3, size);
		struct ibv_wc wc;

		fill(a->bytes + 3, size, seed);
		b->bytes[size + 5] = 0x5a;
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, i, &sge, 1, b, 5);
		CHECK(post(a, &wr), 0);
		wc = TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
		CHECK(wc.opcode, IBV_WC_RDMA_WRITE);
		CHECK(wc.qp_num, a->qp->qp_num);
		CHECK_FILLED(b->bytes + 5, size, seed);
		CHECK(b->bytes[size + 5], 0x5a);

		memset(a->bytes + 3, 0, size);
		wr = wr_of(IBV_WR_RDMA_READ, i, &sge, 1, b, 5);
		CHECK(post(a, &wr), 0);
		wc = TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
		CHECK(wc.opcode, IBV_WC_RDMA_READ);
		CHECK(wc.byte_len, size);
		CHECK_FILLED(a->bytes + 3, size, seed);

		memset(b->bytes + 5, 0, size);
		CHECK(post_receive(b, 100 + i, 5, size), 0);
		wr = wr_of(IBV_WR_SEND, i, &sge, 1, NULL, 0);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
		wc = TAKE_THIS(b->recv_cq, 100 + i, IBV_WC_SUCCESS);
		CHECK(wc.opcode, IBV_WC_RECV);
		CHECK(wc.byte_len, size);
		CHECK(wc.wc_flags, 0);
		CHECK(wc.qp_num, b->qp->qp_num);
		CHECK_FILLED(b->bytes + 5, size, seed);
	}
	both_fini(&both);
}

static void
test_immediates(void)
{
	struct both both;
	both_init(&both, &(struct options){.size = 200000});
	struct side *a = &both.a, *b = &both.b;
	static const size_t lengths[] = {0, 1, 500, 65520, 150000};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		size_t size = lengths[i];
		struct ibv_sge sge = sge_of(a, 0, size);
		struct ibv_send_wr wr;
		struct ibv_wc wc;

		fill(a->bytes, size, (uint32_t)i);
		memset(b->bytes, 0, size);
		CHECK(post_receive(b, 1, 0, 0), 0);
		wr = wr_of(IBV_WR_RDMA_WRITE_WITH_IMM, 2, &sge, 1, b, 0);
		wr.imm_data = htonl(0x12345678);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 2, IBV_WC_SUCCESS);
		wc = TAKE_THIS(b->recv_cq, 1, IBV_WC_SUCCESS);
		CHECK(wc.opcode, IBV_WC_RECV_RDMA_WITH_IMM);
		CHECK(wc.wc_flags, IBV_WC_WITH_IMM);
		CHECK(ntohl(wc.imm_data), 0x12345678);
		CHECK(wc.byte_len, size);
		CHECK_FILLED(b->bytes, size, (uint32_t)i);

		memset(b->bytes, 0, size);
		CHECK(post_receive(b, 3, 0, 200000), 0);
		wr = wr_of(IBV_WR_SEND_WITH_IMM, 4, &sge, 1, NULL, 0);
		wr.imm_data = htonl(0xcafe);
		CHECK(post(a, &wr), 0);
		wc = TAKE_THIS(a->send_cq, 4, IBV_WC_SUCCESS);
		CHECK(wc.opcode, IBV_WC_SEND);
		wc = TAKE_THIS(b->recv_cq, 3, IBV_WC_SUCCESS);
		CHECK(wc.opcode, IBV_WC_RECV);
		CHECK(wc.wc_flags, IBV_WC_WITH_IMM);
		CHECK(ntohl(wc.imm_data), 0xcafe);
		CHECK(wc.byte_len, size);
		CHECK_FILLED(b->bytes, size, (uint32_t)i);
	}
	both_fini(&both);
}

static void
test_several_segments(void)
{
	struct both both;
	both_init(&both, &(struct options){.size = 1 << 20, .sge = 16});
	struct side *a = &both.a, *b = &both.b;
	uint32_t random = 12345;
	for (int round = 0; round < 60; round++) {
		struct ibv_sge from[16], to[16];
		size_t total = 0, offset = 0;
		int count = 1 + (int)(next_random(&random) % 16);
		for (int i = 0; i < count; i++) {
			size_t length = next_random(&random) % (round % 3 ? 300 : 20000);
			if (next_random(&random) % 5 == 0)
				length = 0;
			from[i] = sge_of(a, offset, length);
			offset += length + 16;
			total += length;
		}
		for (int i = 0; i < count; i++) {
			for (uint32_t j = 0; j < from[i].length; j++)
				((uint8_t *)(uintptr_t)from[i].addr)[j] = (uint8_t)(i + j * 3);
		}
		/* Cut in another way at the other end. */
		size_t left = total;
		offset = 0;
		int to_count = 1 + (int)(next_random(&random) % 16);
		for (int i = 0; i < to_count; i++) {
			size_t length = i == to_count - 1 ? left : left / 3;
			to[i] = sge_of(b, offset, length);
			offset += length + 8;
			left -= length;
		}
		struct ibv_recv_wr *bad, receive = {.wr_id = 9, .sg_list = to, .num_sge = to_count};
		CHECK(ibv_post_recv(b->qp, &receive, &bad), 0);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 8, from, count, NULL, 0);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 8, IBV_WC_SUCCESS);
		CHECK(TAKE_THIS(b->recv_cq, 9, IBV_WC_SUCCESS).byte_len, total);
		int k = 0;
		uint32_t at = 0;
		for (int i = 0; i < count; i++) {
			for (uint32_t j = 0; j < from[i].length; j++) {
				while (at == to[k].length) {
					k++;
					at = 0;
				}
				uint8_t got = ((uint8_t *)(uintptr_t)to[k].addr)[at++];
				if (got != (uint8_t)(i + j * 3)) {
					CHECK(got, (uint8_t)(i + j * 3));
					i = count - 1;
					break;
				}
			}
		}
		/* Gathered by a write, and scattered again by a read. */
		wr = wr_of(IBV_WR_RDMA_WRITE, 10, from, count, b, 500000);
		struct ibv_send_wr read = wr_of(IBV_WR_RDMA_READ, 11, from, count, b, 500000);
		wr.next = &read;
		read.send_flags |= IBV_SEND_FENCE;
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 10, IBV_WC_SUCCESS);
		CHECK(TAKE_THIS(a->send_cq, 11, IBV_WC_SUCCESS).byte_len, total);
		for (int i = 0; i < count; i++) {
			if (from[i].length)
				CHECK(((uint8_t *)(uintptr_t)from[i].addr)[from[i].length - 1],
				      (uint8_t)(i + (from[i].length - 1) * 3));
		}
	}
	both_fini(&both);
}

static void
test_inline_data(void)
{
	struct both both;
	both_init(&both, &(struct options){.inline_size = 1024});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;
	MUST(!ibv_query_qp(a->qp, &attr, IBV_QP_CAP, &init));
	CHECK(init.cap.max_inline_data, 1024);
	static const uint32_t lengths[] = {0, 1, 8, 159, 160, 161, 512, 1000, 1024};
	uint8_t ours[1025];
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		uint32_t size = lengths[i];
		/* Neither registered, nor looked at later. */
		struct ibv_sge sges[2] = {
			{.addr = (uintptr_t)ours, .length = size / 3},
			{.addr = (uintptr_t)ours + size / 3, .length = size - size / 3},
		};
		fill(ours, size, (uint32_t)i);
		memset(b->bytes, 0, size);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, sges, 2, b, 0);
		wr.send_flags |= IBV_SEND_INLINE;
		CHECK(post(a, &wr), 0);
		memset(ours, 0xff, size);
		TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
		CHECK_FILLED(b->bytes, size, (uint32_t)i);

		fill(ours, size, (uint32_t)i + 7);
		CHECK(post_receive(b, 2, 0, 1024), 0);
		wr = wr_of(IBV_WR_SEND, 3, sges, 2, NULL, 0);
		wr.send_flags |= IBV_SEND_INLINE;
		CHECK(post(a, &wr), 0);
		memset(ours, 0xff, size);
		TAKE_THIS(a->send_cq, 3, IBV_WC_SUCCESS);
		CHECK(TAKE_THIS(b->recv_cq, 2, IBV_WC_SUCCESS).byte_len, size);
		CHECK_FILLED(b->bytes, size, (uint32_t)i + 7);
	}
	struct ibv_sge sge = {.addr = (uintptr_t)ours, .length = 1025};
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 0);
	wr.send_flags |= IBV_SEND_INLINE;
	CHECK(post(a, &wr), EINVAL);
	wr.opcode = IBV_WR_RDMA_READ;
	sge.length = 8;
	CHECK(post(a, &wr), EINVAL);
	both_fini(&both);
}

static void
test_atomics(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	uint64_t *word = (uint64_t *)(b->bytes + 128), *result = (uint64_t *)(a->bytes + 8);
	*word = 100;
	struct ibv_sge sge = sge_of(a, 8, 8);
	struct ibv_send_wr wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, 1, &sge, 1, b, 128);
	wr.wr.atomic.compare_add = 23;
	CHECK(post(a, &wr), 0);
	CHECK(TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS).opcode, IBV_WC_FETCH_ADD);
	CHECK(*result, 100);
	CHECK(*word, 123);

	wr = wr_of(IBV_WR_ATOMIC_CMP_AND_SWP, 2, &sge, 1, b, 128);
	wr.wr.atomic.compare_add = 122;
	wr.wr.atomic.swap = 7;
	CHECK(post(a, &wr), 0);
	CHECK(TAKE_THIS(a->send_cq, 2, IBV_WC_SUCCESS).opcode, IBV_WC_COMP_SWAP);
	CHECK(*result, 123);
	CHECK(*word, 123);
	wr.wr.atomic.compare_add = 123;
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 2, IBV_WC_SUCCESS);
	CHECK(*result, 123);
	CHECK(*word, 7);

	/* Wrapping, with a result that is scattered. */
	struct ibv_sge halves[2] = {sge_of(a, 16, 3), sge_of(a, 32, 5)};
	wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, 3, halves, 2, b, 128);
	wr.wr.atomic.compare_add = UINT64_MAX;
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 3, IBV_WC_SUCCESS);
	CHECK(*word, 6);
	CHECK(a->bytes[16], 7);
	CHECK(a->bytes[32], 0);

	/* As many as the peer takes at once, and more; both ways at once. */
	*word = 0;
	*(uint64_t *)(a->bytes + 128) = 0;
	struct ibv_sge other_sge = sge_of(b, 8, 8);
	for (int i = 0; i < 60; i++) {
		wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, (uint64_t)i, &sge, 1, b, 128);
		wr.wr.atomic.compare_add = 3;
		CHECK(post(a, &wr), 0);
		wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, (uint64_t)i, &other_sge, 1, a, 128);
		wr.wr.atomic.compare_add = 5;
		CHECK(post(b, &wr), 0);
	}
	for (int i = 0; i < 60; i++) {
		TAKE_THIS(a->send_cq, (uint64_t)i, IBV_WC_SUCCESS);
		TAKE_THIS(b->send_cq, (uint64_t)i, IBV_WC_SUCCESS);
	}
	CHECK(*word, 180);
	CHECK(*(uint64_t *)(a->bytes + 128), 300);

	sge.length = 4;
	wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, 4, &sge, 1, b, 128);
	CHECK(post(a, &wr), EINVAL);
	both_fini(&both);
}

static void
test_send_with_invalidate(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	struct ibv_mr *mr = ibv_reg_mr(b->pd, b->bytes, 4096, ALL_ACCESS);
	struct ibv_sge sge = sge_of(a, 0, 64);
	CHECK(post_receive(b, 1, 0, 64), 0);
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND_WITH_INV, 2, &sge, 1, NULL, 0);
	wr.invalidate_rkey = mr->rkey;
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 2, IBV_WC_SUCCESS);
	struct ibv_wc wc = TAKE_THIS(b->recv_cq, 1, IBV_WC_SUCCESS);
	CHECK(wc.wc_flags, IBV_WC_WITH_INV);
	CHECK(wc.invalidated_rkey, mr->rkey);
	/* Its owner may use it still, but nobody else. */
	struct ibv_sge own = sge_of(b, 0, 64);
	own.lkey = mr->lkey;
	wr = wr_of(IBV_WR_RDMA_WRITE, 3, &own, 1, a, 0);
	CHECK(post(b, &wr), 0);
	TAKE_THIS(b->send_cq, 3, IBV_WC_SUCCESS);
	wr = wr_of(IBV_WR_RDMA_WRITE, 4, &sge, 1, b, 0);
	wr.wr.rdma.rkey = mr->rkey;
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 4, IBV_WC_REM_ACCESS_ERR);
	CHECK(ibv_dereg_mr(mr), 0);
	both_fini(&both);
}

/* ---- queues ---- */

static void
test_unsignalled_floods(void)
{
	struct both both;
	both_init(&both, &(struct options){.send_wr = 16});
	struct side *a = &both.a, *b = &both.b;
	uint64_t *source = (uint64_t *)a->bytes;
	struct ibv_sge sge = sge_of(a, 0, 8);
	int64_t until = now_ms() + PATIENCE_MS;
	for (int i = 1; i <= 20000; i++) {
		*source = (uint64_t)i;
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, (uint64_t)i, &sge, 1, b, 0);
		wr.send_flags = i % 10 ? IBV_SEND_INLINE : IBV_SEND_INLINE | IBV_SEND_SIGNALED;
		int ret;
		while ((ret = post(a, &wr)) == ENOMEM && now_ms() < until) {
			struct ibv_wc wc;
			if (ibv_poll_cq(a->send_cq, 1, &wc) == 1)
				CHECK(wc.status, IBV_WC_SUCCESS);
		}
		if (ret)
			give_up(__LINE__, "post");
	}
	for (;;) {
		struct ibv_wc wc = TAKE(a->send_cq);
		CHECK(wc.status, IBV_WC_SUCCESS);
		if (wc.wr_id == 20000)
			break;
	}
	CHECK(*(uint64_t *)b->bytes, 20000);
	/* Unsignalled to the end: they retire, so that the queue takes new ones. */
	for (int i = 0; i < 64; i++) {
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 0);
		wr.send_flags = 0;
		int ret;
		while ((ret = post(a, &wr)) == ENOMEM && now_ms() < until)
			sleep_ms(1);
		CHECK(ret, 0);
	}
	check_empty(__LINE__, a->send_cq, 5);
	both_fini(&both);
}

static void
test_a_full_queue_takes_no_more(void)
{
	struct both both;
	both_init(&both, &(struct options){.send_wr = 8, .recv_wr = 8});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge sge = sge_of(a, 0, 1);
	/* The sends wait for receives. */
	for (int i = 0; i < 8; i++) {
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, (uint64_t)i, &sge, 1, NULL, 0);
		CHECK(post(a, &wr), 0);
	}
	struct ibv_send_wr second = wr_of(IBV_WR_SEND, 8, &sge, 1, NULL, 0), wr = second, *bad;
	wr.next = &second;
	CHECK(ibv_post_send(a->qp, &wr, &bad), ENOMEM);
	CHECK(bad == &wr, 1);
	check_empty(__LINE__, a->send_cq, 20);
	for (int i = 0; i < 8; i++)
		CHECK(post_receive(b, (uint64_t)i, 0, 1), 0);
	for (int i = 0; i < 8; i++) {
		TAKE_THIS(a->send_cq, (uint64_t)i, IBV_WC_SUCCESS);
		TAKE_THIS(b->recv_cq, (uint64_t)i, IBV_WC_SUCCESS);
	}
	for (int i = 0; i < 8; i++)
		CHECK(post_receive(b, (uint64_t)i, 0, 1), 0);
	CHECK(post_receive(b, 8, 0, 1), ENOMEM);
	both_fini(&both);
}

static void
test_a_send_without_a_receive_holds_up_nothing_before_it(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge sge = sge_of(a, 0, 1);
	CHECK(post_receive(b, 0, 0, 1), 0);
	CHECK(post_receive(b, 1, 1, 1), 0);
	struct ibv_send_wr wrs[4];
	for (uint64_t i = 0; i < 4; i++) {
		wrs[i] = i == 2 ? wr_of(IBV_WR_RDMA_WRITE, i, &sge, 1, b, 0)
				: wr_of(IBV_WR_SEND, i, &sge, 1, NULL, 0);
		wrs[i].next = i < 3 ? &wrs[i + 1] : NULL;
	}
	CHECK(post(a, wrs), 0);
	for (uint64_t i = 0; i < 3; i++)
		TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
	check_empty(__LINE__, a->send_cq, 20);
	CHECK(post_receive(b, 2, 2, 1), 0);
	TAKE_THIS(a->send_cq, 3, IBV_WC_SUCCESS);
	both_fini(&both);
}

static void
test_fences(void)
{
	struct both both;
	both_init(&both, &(struct options){.size = 1 << 20});
	struct side *a = &both.a, *b = &both.b;
	for (int round = 0; round < 20; round++) {
		/* What is read goes back, one byte further on: only when it is there. */
		struct ibv_sge read_sge = sge_of(a, 0, 300000);
		struct ibv_sge write_sge = sge_of(a, 299999, 1);
		b->bytes[299999] = (uint8_t)(round + 1);
		struct ibv_send_wr read = wr_of(IBV_WR_RDMA_READ, 1, &read_sge, 1, b, 0);
		struct ibv_send_wr write = wr_of(IBV_WR_RDMA_WRITE, 2, &write_sge, 1, b, 300000);
		read.next = &write;
		write.send_flags |= IBV_SEND_FENCE;
		CHECK(post(a, &read), 0);
		TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
		TAKE_THIS(a->send_cq, 2, IBV_WC_SUCCESS);
		CHECK(b->bytes[300000], round + 1);
	}
	both_fini(&both);
}

static void
test_reads_beyond_what_the_peer_takes(void)
{
	struct both both;
	both_init(&both, &(struct options){.ird = 1, .ord = 1});
	struct side *a = &both.a, *b = &both.b;
	fill(b->bytes, 4096, 5);
	for (int i = 0; i < 50; i++) {
		struct ibv_sge sge = sge_of(a, (size_t)i * 64, 64);
		struct ibv_send_wr wr =
			wr_of(IBV_WR_RDMA_READ, (uint64_t)i, &sge, 1, b, (size_t)i * 64);
		CHECK(post(a, &wr), 0);
	}
	for (int i = 0; i < 50; i++)
		TAKE_THIS(a->send_cq, (uint64_t)i, IBV_WC_SUCCESS);
	CHECK_FILLED(a->bytes, 50 * 64, 5);
	both_fini(&both);
}

/* ---- receives that come late ---- */

static void
late_receives(bool with_srq, size_t size)
{
	struct both both;
	both_init(&both, &(struct options){.with_srq = with_srq, .size = 1 << 20});
	struct side *a = &both.a, *b = &both.b;
	for (int i = 0; i < 30; i++) {
		struct ibv_sge sge = sge_of(a, 0, size);
		struct ibv_send_wr wr = wr_of(i % 3 == 1   ? IBV_WR_RDMA_WRITE_WITH_IMM
					      : i % 3 == 2 ? IBV_WR_SEND_WITH_IMM
							   : IBV_WR_SEND,
					      (uint64_t)i, &sge, 1, i % 3 == 1 ? b : NULL, 0);
		wr.imm_data = htonl((uint32_t)i);
		if (i < 10)
			fill(a->bytes, size, 1);
		CHECK(post(a, &wr), 0);
	}
	check_empty(__LINE__, a->send_cq, 10);
	check_empty(__LINE__, b->recv_cq, 10);
	for (int i = 0; i < 30; i++) {
		CHECK(post_receive(b, 100 + (uint64_t)i, 500000, 300000), 0);
		struct ibv_wc wc = TAKE_THIS(b->recv_cq, 100 + (uint64_t)i, IBV_WC_SUCCESS);
		CHECK(wc.byte_len, size);
		CHECK(wc.wc_flags, i % 3 ? IBV_WC_WITH_IMM : 0);
		if (i % 3)
			CHECK(ntohl(wc.imm_data), i);
	}
	/* One acknowledgement may be for several, and comes when the last of them has arrived. */
	for (int i = 0; i < 30; i++)
		TAKE_THIS(a->send_cq, (uint64_t)i, IBV_WC_SUCCESS);
	both_fini(&both);
}

static void
test_receives_that_come_late(void)
{
	late_receives(false, 10);
	late_receives(false, 100000);
	late_receives(true, 10);
	late_receives(true, 100000);
}

/*
 * A program may post its receive only when its own requests are done: what completes them is behind
 * the message that waits.
 */
static void
own_requests_while_a_message_waits(bool with_srq, enum ibv_wr_opcode message)
{
	struct both both;
	both_init(&both, &(struct options){.size = 1 << 20, .with_srq = with_srq});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge message_sge = sge_of(b, 0, 70000);
	struct ibv_send_wr wr = wr_of(message, 1, &message_sge, 1, a, 600000);
	fill(b->bytes, 1 << 20, 3);
	CHECK(post(b, &wr), 0);
	sleep_ms(5); /* it is there, first */
	static const size_t lengths[] = {0, 8, 65520, 400000};
	for (size_t i = 0; i < 4; i++) {
		struct ibv_sge sge = sge_of(a, 0, lengths[i]);
		wr = wr_of(IBV_WR_RDMA_READ, 10 + i, &sge, 1, b, 0);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 10 + i, IBV_WC_SUCCESS);
		CHECK_FILLED(a->bytes, lengths[i], 3);
		wr = wr_of(IBV_WR_RDMA_WRITE, 20 + i, &sge, 1, b, 0);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 20 + i, IBV_WC_SUCCESS);
		struct ibv_sge word = sge_of(a, 500000, 8);
		wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, 30 + i, &word, 1, b, 800000);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 30 + i, IBV_WC_SUCCESS);
		/* And more behind it, which waits in line. */
		struct ibv_sge more = sge_of(b, 0, 1000);
		wr = wr_of(IBV_WR_SEND, 40 + i, &more, 1, NULL, 0);
		CHECK(post(b, &wr), 0);
	}
	check_empty(__LINE__, b->send_cq, 5);
	check_empty(__LINE__, a->recv_cq, 5);
	CHECK(post_receive(a, 2, 600000, 70000), 0);
	struct ibv_wc wc = TAKE_THIS(a->recv_cq, 2, IBV_WC_SUCCESS);
	CHECK(wc.byte_len, 70000);
	CHECK_FILLED(a->bytes + 600000, 70000, 3);
	TAKE_THIS(b->send_cq, 1, IBV_WC_SUCCESS);
	for (size_t i = 0; i < 4; i++) {
		CHECK(post_receive(a, 3, 600000, 70000), 0);
		CHECK(TAKE_THIS(a->recv_cq, 3, IBV_WC_SUCCESS).byte_len, 1000);
	}
	for (size_t i = 0; i < 4; i++)
		TAKE_THIS(b->send_cq, 40 + i, IBV_WC_SUCCESS);
	both_fini(&both);
}

static void
test_own_requests_complete_while_a_message_waits(void)
{
	own_requests_while_a_message_waits(false, IBV_WR_SEND);
	own_requests_while_a_message_waits(true, IBV_WR_SEND_WITH_IMM);
	own_requests_while_a_message_waits(false, IBV_WR_RDMA_WRITE_WITH_IMM);
}

/* Much more than is kept while one message waits: all of it comes, in order. */
static void
test_much_that_waits(void)
{
	struct both both;
	both_init(&both, &(struct options){.size = 8 << 20});
	struct side *a = &both.a, *b = &both.b;
	enum { COUNT = 40, EACH = 100000 };
	struct ibv_sge all = sge_of(a, 0, 8 << 20);
	for (int i = 0; i < COUNT; i++) {
		fill(a->bytes + i * EACH, EACH, (uint32_t)i);
		struct ibv_sge sge = sge_of(a, (size_t)i * EACH, EACH);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, (uint64_t)i, &sge, 1, NULL, 0);
		CHECK(post(a, &wr), 0);
	}
	/* In the other direction life goes on. */
	struct ibv_sge sge = sge_of(b, 6 << 20, 1 << 20);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 99, &sge, 1, a, 7 << 20);
	wr.send_flags = 0;
	CHECK(post(b, &wr), 0);
	sleep_ms(20);
	for (int i = 0; i < COUNT; i++) {
		size_t offset = (size_t)(i % 2) * EACH;
		CHECK(post_receive(b, (uint64_t)i, offset, EACH), 0);
		TAKE_THIS(b->recv_cq, (uint64_t)i, IBV_WC_SUCCESS);
		CHECK_FILLED(b->bytes + offset, EACH, (uint32_t)i);
	}
	for (int i = 0; i < COUNT; i++)
		TAKE_THIS(a->send_cq, (uint64_t)i, IBV_WC_SUCCESS);
	(void)all;
	both_fini(&both);
}

/* The peer goes while its messages wait. */
static void
test_a_peer_that_goes_while_its_message_waits(void)
{
	for (int size = 100; size <= 1000000; size *= 100) {
		struct both both;
		both_init(&both, &(struct options){.size = 1 << 20});
		struct side *a = &both.a, *b = &both.b;
		for (int i = 0; i < 3; i++) {
			struct ibv_sge sge = sge_of(a, 0, (size_t)size);
			struct ibv_send_wr wr = wr_of(IBV_WR_SEND, (uint64_t)i, &sge, 1, NULL, 0);
			CHECK(post(a, &wr), 0);
		}
		sleep_ms(5);
		CHECK(rdma_disconnect(a->id), 0);
		for (int i = 0; i < 3; i++)
			TAKE_THIS(a->send_cq, (uint64_t)i, IBV_WC_WR_FLUSH_ERR);
		EXPECT(b->id, RDMA_CM_EVENT_DISCONNECTED, 0);
		CHECK(post_receive(b, 5, 0, 1 << 20), 0);
		TAKE_THIS(b->recv_cq, 5, IBV_WC_WR_FLUSH_ERR);
		both_fini(&both);
	}
}

/* ---- extended interfaces ---- */

static void
test_extended_posting(void)
{
	struct both both;
	both_init(&both, &(struct options){.is_ex = true});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(a->qp);
	MUST(ex);
	uint64_t remote = (uintptr_t)b->bytes;
	fill(a->bytes, 4096, 9);
	CHECK(post_receive(b, 1, 20000, 4096), 0);
	CHECK(post_receive(b, 2, 24096, 4096), 0);
	CHECK(post_receive(b, 3, 28192, 4096), 0);
	CHECK(post_receive(b, 4, 0, 0), 0);
	struct ibv_mr *mr = ibv_reg_mr(b->pd, b->bytes, 64, ALL_ACCESS);
	for (int round = 0; round < 2; round++) {
		ibv_wr_start(ex);
		ex->wr_id = 10;
		ex->wr_flags = IBV_SEND_SIGNALED;
		ibv_wr_rdma_write(ex, b->mr->rkey, remote);
		ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes, 4096);
		if (round == 0) {
			ibv_wr_abort(ex);
			continue;
		}
		ex->wr_id = 11;
		ibv_wr_send(ex);
		ibv_wr_set_inline_data(ex, a->bytes, 100);
		ex->wr_id = 12;
		ibv_wr_send_imm(ex, htonl(77));
		struct ibv_sge sges[2] = {sge_of(a, 0, 50), sge_of(a, 50, 50)};
		ibv_wr_set_sge_list(ex, 2, sges);
		ex->wr_id = 13;
		ibv_wr_send_inv(ex, mr->rkey);
		struct ibv_data_buf buffers[2] = {{a->bytes, 30}, {a->bytes + 30, 30}};
		ibv_wr_set_inline_data_list(ex, 2, buffers);
		ex->wr_id = 14;
		ibv_wr_rdma_write_imm(ex, b->mr->rkey, remote + 8192, htonl(78));
		ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes, 64);
		ex->wr_id = 15;
		ibv_wr_rdma_read(ex, b->mr->rkey, remote);
		ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes + 8192, 4096);
		ex->wr_id = 16;
		ibv_wr_atomic_fetch_add(ex, b->mr->rkey, remote + 16384, 5);
		ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes + 16384, 8);
		ex->wr_id = 17;
		ex->wr_flags = IBV_SEND_SIGNALED | IBV_SEND_FENCE;
		ibv_wr_atomic_cmp_swp(ex, b->mr->rkey, remote + 16384, 5, 6);
		ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes + 16392, 8);
		CHECK(ibv_wr_complete(ex), 0);
	}
	for (uint64_t i = 10; i <= 17; i++)
		TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
	CHECK_FILLED(b->bytes, 4096, 9);
	CHECK_FILLED(a->bytes + 8192, 4096, 9);
	CHECK_FILLED(b->bytes + 20000, 100, 9);
	CHECK_FILLED(b->bytes + 24096, 100, 9);
	CHECK_FILLED(b->bytes + 28192, 60, 9);
	CHECK(*(uint64_t *)(b->bytes + 16384), 6);
	CHECK(*(uint64_t *)(a->bytes + 16392), 5);
	CHECK(TAKE_THIS(b->recv_cq, 1, IBV_WC_SUCCESS).wc_flags, 0);
	CHECK(ntohl(TAKE_THIS(b->recv_cq, 2, IBV_WC_SUCCESS).imm_data), 77);
	CHECK(TAKE_THIS(b->recv_cq, 3, IBV_WC_SUCCESS).invalidated_rkey, mr->rkey);
	CHECK(ntohl(TAKE_THIS(b->recv_cq, 4, IBV_WC_SUCCESS).imm_data), 78);
	/* Too much in one batch: none of it. */
	ibv_wr_start(ex);
	for (int i = 0; i < 65; i++) {
		ibv_wr_rdma_write(ex, b->mr->rkey, remote);
		ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes, 1);
	}
	CHECK(ibv_wr_complete(ex), ENOMEM);
	ibv_wr_start(ex);
	ibv_wr_rdma_write(ex, b->mr->rkey, remote);
	ibv_wr_set_inline_data(ex, a->bytes, 300);
	CHECK(ibv_wr_complete(ex), EINVAL);
	check_empty(__LINE__, a->send_cq, 1);
	/* Between start and complete the rest of the interface is there. */
	ibv_wr_start(ex);
	ex->wr_id = 20;
	ex->wr_flags = IBV_SEND_SIGNALED;
	ibv_wr_rdma_write(ex, b->mr->rkey, remote);
	ibv_wr_set_sge(ex, a->mr->lkey, (uintptr_t)a->bytes, 1);
	struct ibv_wc wc;
	struct ibv_sge sge = sge_of(b, 0, 10);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_READ, 30, &sge, 1, a, 0);
	CHECK(post(b, &wr), 0);
	CHECK(ibv_poll_cq(a->send_cq, 1, &wc), 0);
	CHECK(post_receive(a, 1, 0, 10), 0);
	TAKE_THIS(b->send_cq, 30, IBV_WC_SUCCESS);
	CHECK(ibv_wr_complete(ex), 0);
	TAKE_THIS(a->send_cq, 20, IBV_WC_SUCCESS);
	CHECK(ibv_dereg_mr(mr), 0);
	both_fini(&both);
}

static void
test_extended_completions(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	struct ibv_cq_init_attr_ex attr = {.cqe = 100,
					   .wc_flags = IBV_WC_STANDARD_FLAGS |
						       IBV_WC_EX_WITH_COMPLETION_TIMESTAMP};
	struct ibv_cq_ex *ex = ibv_create_cq_ex(a->id->verbs, &attr);
	MUST(ex);
	struct ibv_poll_cq_attr poll_attr = {0};
	CHECK(ibv_start_poll(ex, &poll_attr), ENOENT);
	/* A queue pair of its own on it. */
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	struct side c, d;
	connect_side(&c, ntohs(rdma_get_src_port(listener)), &(struct options){0});
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *id = event->id;
	rdma_ack_cm_event(event);
	side_init(&d, id, &(struct options){0});
	rdma_destroy_qp(id);
	struct ibv_qp_init_attr init = {
		.send_cq = ibv_cq_ex_to_cq(ex),
		.recv_cq = ibv_cq_ex_to_cq(ex),
		.cap = {.max_send_wr = 8, .max_recv_wr = 8, .max_send_sge = 1, .max_recv_sge = 1},
		.qp_type = IBV_QPT_RC};
	MUST(!rdma_create_qp(id, d.pd, &init));
	d.qp = id->qp;
	MUST(!rdma_accept(id, NULL));
	EXPECT(c.id, RDMA_CM_EVENT_ESTABLISHED, 0);
	rdma_ack_cm_event(GET(listener->channel, RDMA_CM_EVENT_ESTABLISHED));
	CHECK(post_receive(&d, 1, 0, 100), 0);
	CHECK(post_receive(&d, 2, 0, 100), 0);
	struct ibv_sge sge = sge_of(&c, 0, 60);
	struct ibv_send_wr second = wr_of(IBV_WR_SEND, 4, &sge, 1, NULL, 0);
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND_WITH_IMM, 3, &sge, 1, NULL, 0);
	wr.imm_data = htonl(55);
	wr.next = &second;
	CHECK(post(&c, &wr), 0);
	TAKE_THIS(c.send_cq, 3, IBV_WC_SUCCESS);
	TAKE_THIS(c.send_cq, 4, IBV_WC_SUCCESS);
	CHECK(ibv_start_poll(ex, &poll_attr), 0);
	CHECK(ex->wr_id, 1);
	CHECK(ex->status, IBV_WC_SUCCESS);
	CHECK(ibv_wc_read_opcode(ex), IBV_WC_RECV);
	CHECK(ibv_wc_read_byte_len(ex), 60);
	CHECK(ibv_wc_read_wc_flags(ex), IBV_WC_WITH_IMM);
	CHECK(ntohl(ibv_wc_read_imm_data(ex)), 55);
	CHECK(ibv_wc_read_qp_num(ex), d.qp->qp_num);
	CHECK(ibv_wc_read_completion_ts(ex) != 0, 1);
	CHECK(ibv_next_poll(ex), 0);
	CHECK(ex->wr_id, 2);
	CHECK(ibv_next_poll(ex), ENOENT);
	ibv_end_poll(ex);
	side_end(&c);
	rdma_destroy_qp(id);
	CHECK(ibv_destroy_cq(ibv_cq_ex_to_cq(ex)), 0);
	side_fini(&d);
	rdma_destroy_id(id);
	destroy_with_channel(listener);
	(void)b;
	both_fini(&both);
}

static void
test_queries(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_srq = true, .send_wr = 50, .ird = 7, .ord = 5});
	struct side *a = &both.a;
	struct ibv_context *context = a->id->verbs;
	struct ibv_device_attr device;
	struct ibv_port_attr port;
	union ibv_gid gid;
	CHECK(ibv_query_device(context, &device), 0);
	CHECK(device.phys_port_cnt, 1);
	CHECK(device.atomic_cap, IBV_ATOMIC_GLOB);
	struct ibv_device_attr_ex device_ex;
	CHECK(ibv_query_device_ex(context, NULL, &device_ex), 0);
	CHECK(device_ex.orig_attr.max_qp_wr, device.max_qp_wr);
	CHECK(device_ex.odp_caps.general_caps, 0);
	CHECK(ibv_query_port(context, 1, &port), 0);
	CHECK(port.state, IBV_PORT_ACTIVE);
	CHECK(ibv_query_port(context, 2, &port), EINVAL);
	CHECK(ibv_query_gid(context, 1, 0, &gid), 0);
	CHECK(ibv_query_gid(context, 1, 1, &gid), -1);
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;
	CHECK(ibv_query_qp(a->qp, &attr, 0, &init), 0);
	CHECK(attr.qp_state, IBV_QPS_RTS);
	CHECK(attr.cap.max_send_wr >= 50, 1);
	CHECK(attr.max_rd_atomic, 5);
	CHECK(attr.max_dest_rd_atomic, 5);
	CHECK(init.srq == a->srq, 1);
	CHECK(init.send_cq == a->send_cq, 1);
	struct ibv_srq_attr srq_attr;
	CHECK(ibv_query_srq(a->srq, &srq_attr), 0);
	CHECK(srq_attr.max_wr, 256);
	/* What does not exist. */
	CHECK(ibv_create_cq(context, 0, NULL, NULL, 0) == NULL, 1);
	CHECK(ibv_create_cq(context, 1, NULL, NULL, 7) == NULL, 1);
	CHECK(ibv_reg_mr(a->pd, a->bytes, 10, IBV_ACCESS_REMOTE_WRITE) == NULL, 1);
	CHECK(ibv_reg_mr(a->pd, a->bytes, SIZE_MAX, 0) == NULL, 1);
	CHECK(ibv_destroy_srq(a->srq), EBUSY);
	CHECK(ibv_destroy_cq(a->send_cq), EBUSY);
	CHECK(ibv_dealloc_pd(a->pd), EBUSY);
	both_fini(&both);
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_sizes);
	RUN(test_immediates);
	RUN(test_several_segments);
	RUN(test_inline_data);
	RUN(test_atomics);
	RUN(test_send_with_invalidate);
	RUN(test_unsignalled_floods);
	RUN(test_a_full_queue_takes_no_more);
	RUN(test_a_send_without_a_receive_holds_up_nothing_before_it);
	RUN(test_fences);
	RUN(test_reads_beyond_what_the_peer_takes);
	RUN(test_receives_that_come_late);
	RUN(test_much_that_waits);
	RUN(test_a_peer_that_goes_while_its_message_waits);
	RUN(test_extended_completions);
	RUN(test_queries);
	if (!getenv("DEVICE_TEST_KNOWN")) {
		RUN(test_own_requests_complete_while_a_message_waits);
		RUN(test_extended_posting);
	}
	return report();
}
