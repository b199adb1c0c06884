/* SPDX-License-Identifier: BSD-3-Clause */
/* device_errors_test.c -- what requests must not do, and what both sides are told of it. */
#include "device_test.h"

/* ---- violations ---- */

struct violation {
	const char *name;
	enum ibv_wr_opcode opcode;
	enum ibv_wc_status status;
	int access;      /* of the other side's region; 0: all */
	int64_t offset;  /* into it */
	uint32_t length; /* 0: 64 */
	bool bad_key, other_pd, qp_refuses;
	enum ibv_wc_status receive; /* what a posted receive ends with; 0: flushed */
	uint32_t receive_length;
};

static const struct violation violations[] = {
	{"write, wrong key", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR, .bad_key = true},
	{"write, other pd", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR, .other_pd = true},
	{"write before", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR, .offset = -1},
	{"write behind", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR, .offset = 4096 - 63},
	{"write wraps", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR, .offset = INT64_MIN},
	{"write, read only", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR,
	 .access = IBV_ACCESS_REMOTE_READ},
	{"long write behind", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR, .length = 200000},
	{"write, refused", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR, .qp_refuses = true},
	{"write with imm, wrong key", IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WC_REM_ACCESS_ERR,
	 .bad_key = true},
	{"read, wrong key", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR, .bad_key = true},
	{"read, other pd", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR, .other_pd = true},
	{"read behind", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR, .offset = 4096 - 63},
	{"read wraps", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR, .offset = INT64_MIN},
	{"read, write only", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR,
	 .access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE},
	{"read, refused", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR, .qp_refuses = true},
	{"atomic, wrong key", IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WC_REM_ACCESS_ERR, .bad_key = true},
	{"atomic, not aligned", IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WC_REM_ACCESS_ERR, .offset = 4},
	{"atomic behind", IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WC_REM_ACCESS_ERR, .offset = 4096},
	{"atomic, none allowed", IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WC_REM_ACCESS_ERR,
	 .access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE},
	{"atomic, refused", IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WC_REM_ACCESS_ERR, .qp_refuses = true},
	{"invalidate, wrong key", IBV_WR_SEND_WITH_INV, IBV_WC_REM_ACCESS_ERR, .bad_key = true},
	{"invalidate, other pd", IBV_WR_SEND_WITH_INV, IBV_WC_REM_ACCESS_ERR, .other_pd = true},
	{"send too long", IBV_WR_SEND, IBV_WC_REM_INV_REQ_ERR, .receive = IBV_WC_LOC_LEN_ERR,
	 .receive_length = 63},
	{"long send too long", IBV_WR_SEND_WITH_IMM, IBV_WC_REM_INV_REQ_ERR, .length = 200000,
	 .receive = IBV_WC_LOC_LEN_ERR, .receive_length = 199999},
	{"send to memory that is not", IBV_WR_SEND, IBV_WC_REM_OP_ERR,
	 .receive = IBV_WC_LOC_PROT_ERR, .bad_key = true},
};

static void
expect_async(struct ibv_context *context, enum ibv_event_type type, void *object)
{
	struct ibv_async_event event;
	MUST(is_readable(context->async_fd, PATIENCE_MS));
	MUST(!ibv_get_async_event(context, &event));
	CHECK(event.event_type, type);
	CHECK((void *)event.element.qp == object, 1);
	ibv_ack_async_event(&event);
}

static void
violate(const struct violation *violation, bool is_busy)
{
	struct both both;
	both_init(&both, &(struct options){.size = 2 << 20});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_pd *other = ibv_alloc_pd(b->id->verbs);
	int access = violation->access ? violation->access : ALL_ACCESS;
	uint32_t length = violation->length ? violation->length : 64;
	bool is_send = violation->opcode == IBV_WR_SEND ||
		       violation->opcode == IBV_WR_SEND_WITH_IMM ||
		       violation->opcode == IBV_WR_SEND_WITH_INV;
	int before = failures;
	MUST(other);
	struct ibv_mr *mr =
		ibv_reg_mr(violation->other_pd ? other : b->pd, b->bytes + 65536, 4096, access);
	MUST(mr);
	memset(b->bytes + 65536 - 4096, 0x77, 3 * 4096);
	if (violation->qp_refuses) {
		struct ibv_qp_attr attr = {.qp_access_flags = IBV_ACCESS_LOCAL_WRITE};
		MUST(!ibv_modify_qp(b->qp, &attr, IBV_QP_ACCESS_FLAGS));
	}
	/* Receives of both sides, to be flushed, in order. */
	for (uint64_t i = 0; i < 3; i++) {
		struct ibv_sge sge = sge_of(
			b, 0, violation->receive_length ? violation->receive_length : 1 << 18);
		if (violation->receive == IBV_WC_LOC_PROT_ERR)
			sge.lkey ^= 0x5555;
		struct ibv_recv_wr *bad, wr = {.wr_id = i, .sg_list = &sge, .num_sge = 1};
		CHECK(ibv_post_recv(b->qp, &wr, &bad), 0);
		CHECK(post_receive(a, i, 0, 64), 0);
	}
	/* The peer is in the middle of something, too. */
	struct ibv_sge large = sge_of(b, 1 << 20, 1 << 20);
	struct ibv_send_wr its = wr_of(IBV_WR_RDMA_WRITE, 50, &large, 1, a, 1 << 20);
	if (is_busy)
		CHECK(post(b, &its), 0);
	/* What goes before is done; it is the culprit's fault, what follows is flushed. */
	struct ibv_sge sge = sge_of(a, 4096, length), fine = sge_of(a, 0, 64);
	struct ibv_send_wr wrs[5];
	for (uint64_t i = 0; i < 5; i++) {
		wrs[i] = i == 1 ? wr_of(IBV_WR_RDMA_READ, 10 + i, &fine, 1, b, 0)
				: wr_of(IBV_WR_RDMA_WRITE, 10 + i, &fine, 1, b, 0);
		if (violation->qp_refuses && i < 2)
			wrs[i].num_sge = 0;
		wrs[i].next = i < 4 ? &wrs[i + 1] : NULL;
	}
	bool is_atomic = violation->opcode == IBV_WR_ATOMIC_CMP_AND_SWP ||
			 violation->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
	if (is_atomic)
		sge.length = 8;
	wrs[2] = wr_of(violation->opcode, 12, &sge, 1, b, 65536);
	uint64_t address = (uintptr_t)b->bytes + 65536 + (uint64_t)violation->offset;
	if (violation->offset == INT64_MIN)
		address = UINT64_MAX - 10;
	uint32_t key = mr->rkey ^ (violation->bad_key ? 0x10203040 : 0);
	if (is_atomic) {
		wrs[2].wr.atomic.remote_addr = address;
		wrs[2].wr.atomic.rkey = key;
	} else if (!is_send) {
		wrs[2].wr.rdma.remote_addr = address;
		wrs[2].wr.rdma.rkey = key;
	} else if (violation->opcode == IBV_WR_SEND_WITH_INV) {
		wrs[2].invalidate_rkey = key;
	}
	wrs[2].next = &wrs[3];
	CHECK(post(a, &wrs[0]), 0);
	TAKE_THIS(a->send_cq, 10, IBV_WC_SUCCESS);
	/* In a tumult the answer may be lost, and is flushed then. */
	struct ibv_wc wc = TAKE(a->send_cq);
	CHECK(wc.wr_id, 11);
	if (!is_busy || wc.status != IBV_WC_WR_FLUSH_ERR)
		CHECK(wc.status, IBV_WC_SUCCESS);
	TAKE_THIS(a->send_cq, 12, violation->status);
	TAKE_THIS(a->send_cq, 13, IBV_WC_WR_FLUSH_ERR);
	TAKE_THIS(a->send_cq, 14, IBV_WC_WR_FLUSH_ERR);
	for (uint64_t i = 0; i < 3; i++) {
		TAKE_THIS(a->recv_cq, i, IBV_WC_WR_FLUSH_ERR);
		TAKE_THIS(b->recv_cq, i,
			  i || !violation->receive ? IBV_WC_WR_FLUSH_ERR : violation->receive);
	}
	if (is_busy) {
		wc = TAKE(b->send_cq);
		if (wc.status != IBV_WC_SUCCESS)
			CHECK(wc.status, IBV_WC_WR_FLUSH_ERR);
	}
	EXPECT(a->id, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(b->id, RDMA_CM_EVENT_DISCONNECTED, 0);
	CHECK(state_of(a->id), IBV_QPS_ERR);
	CHECK(state_of(b->id), IBV_QPS_ERR);
	/* What is posted now is taken, to be flushed. */
	wrs[4].wr_id = 20;
	CHECK(post(a, &wrs[4]), 0);
	TAKE_THIS(a->send_cq, 20, IBV_WC_WR_FLUSH_ERR);
	CHECK(post_receive(b, 21, 0, 1), 0);
	TAKE_THIS(b->recv_cq, 21, IBV_WC_WR_FLUSH_ERR);
	check_empty(__LINE__, a->send_cq, 0);
	check_empty(__LINE__, b->recv_cq, 0);
	/* Nothing of it has happened. */
	for (size_t i = 65536 - 4096; !is_send && i < 65536 + 8192; i++) {
		if (i < 65536 || i >= 65536 + 4096)
			MUST(b->bytes[i] == 0x77);
	}
	if (!is_send)
		expect_async(b->id->verbs, IBV_EVENT_QP_ACCESS_ERR, b->qp);
	CHECK(ibv_dereg_mr(mr), 0);
	both_fini(&both);
	CHECK(ibv_dealloc_pd(other), 0);
	if (failures != before)
		printf("in: %s%s\n", violation->name, is_busy ? ", busy" : "");
}

static void
test_violations(void)
{
	for (size_t i = 0; i < sizeof(violations) / sizeof(*violations); i++) {
		violate(&violations[i], false);
		violate(&violations[i], true);
	}
}

/* This side's own mistakes; its peer sees a connection that ends. */
static void
test_local_violations(void)
{
	for (int kind = 0; kind < 6; kind++) {
		struct both both;
		both_init(&both, NULL);
		struct side *a = &both.a, *b = &both.b;
		struct ibv_mr *read_only = ibv_reg_mr(a->pd, a->bytes, 4096, 0);
		struct ibv_sge sges[2] = {sge_of(a, 0, 8), sge_of(a, 64, 64)};
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 2, sges, 2, b, 0);
		switch (kind) {
		case 0:
			sges[1].lkey ^= 0x11111;
			break;
		case 1:
			sges[1].addr += 65536;
			break;
		case 2:
			sges[1].lkey = b->mr->lkey;
			break;
		case 3:
			sges[0].lkey = read_only->lkey;
			wr.opcode = IBV_WR_RDMA_READ;
			break;
		case 4:
			sges[0].lkey = read_only->lkey;
			wr = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, 2, sges, 1, b, 0);
			break;
		default:
			sges[1].addr = UINT64_MAX - 5;
			wr.opcode = IBV_WR_SEND;
			break;
		}
		struct ibv_sge fine = sge_of(a, 128, 8);
		struct ibv_send_wr first = wr_of(IBV_WR_RDMA_READ, 1, &fine, 1, b, 0);
		struct ibv_send_wr last = wr_of(IBV_WR_RDMA_WRITE, 3, &fine, 1, b, 0);
		first.next = &wr;
		wr.next = &last;
		CHECK(post_receive(b, 9, 0, 8), 0);
		CHECK(post(a, &first), 0);
		TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
		TAKE_THIS(a->send_cq, 2, IBV_WC_LOC_PROT_ERR);
		TAKE_THIS(a->send_cq, 3, IBV_WC_WR_FLUSH_ERR);
		TAKE_THIS(b->recv_cq, 9, IBV_WC_WR_FLUSH_ERR);
		CHECK(ibv_dereg_mr(read_only), 0);
		both_fini(&both);
	}
}

/* ---- regions that go away while they are used ---- */

static void *
take_back(void *argument)
{
	struct ibv_mr *mr = argument;
	sleep_ms(3);
	CHECK(ibv_dereg_mr(mr), 0);
	return NULL;
}

static void
test_regions_taken_back_during_transfers(void)
{
	for (int round = 0; round < 12; round++) {
		struct both both;
		both_init(&both, &(struct options){.size = 8 << 20});
		struct side *a = &both.a, *b = &both.b;
		pthread_t thread;
		uint8_t *region = aligned_alloc(4096, 4 << 20);
		memset(region, 1, 4 << 20);
		struct ibv_mr *mr = ibv_reg_mr(b->pd, region, 4 << 20, ALL_ACCESS);
		MUST(mr);
		uint32_t key = mr->rkey;
		MUST(!pthread_create(&thread, NULL, take_back, mr));
		struct ibv_wc wc = {0};
		int64_t until = now_ms() + PATIENCE_MS;
		uint64_t posted = 0, taken = 0;
		while (wc.status == IBV_WC_SUCCESS && now_ms() < until) {
			while (posted - taken < 4) {
				struct ibv_sge sge = sge_of(a, 0, 4 << 20);
				struct ibv_send_wr wr =
					wr_of(round % 2 ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
					      posted++, &sge, 1, b, 0);
				wr.wr.rdma.rkey = key;
				wr.wr.rdma.remote_addr = (uintptr_t)region;
				CHECK(post(a, &wr), 0);
			}
			wc = TAKE(a->send_cq);
			CHECK(wc.wr_id, taken);
			taken++;
		}
		pthread_join(thread, NULL);
		free(region);
		/*
		 * A response that has begun can't go on, nor can anything follow it; and a later
		 * read may be refused before that.
		 */
		while (round % 2 && wc.status == IBV_WC_WR_FLUSH_ERR && taken < posted) {
			wc = TAKE(a->send_cq);
			CHECK(wc.wr_id, taken);
			taken++;
		}
		if (round % 2 == 0 || wc.status != IBV_WC_WR_FLUSH_ERR)
			CHECK(wc.status, IBV_WC_REM_ACCESS_ERR);
		while (taken < posted)
			TAKE_THIS(a->send_cq, taken++, IBV_WC_WR_FLUSH_ERR);
		both_fini(&both);
	}
}

/* What no device knows is told from what this one has not. */
static void
test_access_that_cannot_be(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *b = &both.b;
	errno = 0;
	CHECK(!ibv_reg_mr(b->pd, b->bytes, 4096, 1 << 10), 1);
	CHECK(errno, EINVAL);
	CHECK(!ibv_reg_mr(b->pd, b->bytes, 4096, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND), 1);
	CHECK(errno, EOPNOTSUPP);
	both_fini(&both);
}

static void
test_registering_anew(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	struct ibv_mr *mr = ibv_reg_mr(b->pd, b->bytes, 4096, IBV_ACCESS_REMOTE_READ);
	uint32_t old = mr->rkey;
	CHECK(ibv_rereg_mr(mr, 0, NULL, NULL, 0, 0), IBV_REREG_MR_ERR_INPUT);
	CHECK(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_PD, NULL, NULL, 0, 0), IBV_REREG_MR_ERR_INPUT);
	CHECK(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, IBV_ACCESS_REMOTE_WRITE),
	      IBV_REREG_MR_ERR_INPUT);
	CHECK(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS | IBV_REREG_MR_CHANGE_TRANSLATION, NULL,
			   b->bytes + 4096, 8192, ALL_ACCESS),
	      0);
	CHECK(mr->rkey != old, 1);
	fill(a->bytes, 8192, 3);
	struct ibv_sge sge = sge_of(a, 0, 8192);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 4096);
	wr.wr.rdma.rkey = mr->rkey;
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
	CHECK_FILLED(b->bytes + 4096, 8192, 3);
	struct ibv_pd *other = ibv_alloc_pd(b->id->verbs);
	CHECK(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_PD, other, NULL, 0, 0), 0);
	CHECK(ibv_dealloc_pd(other), EBUSY);
	wr.wr.rdma.rkey = mr->rkey;
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 1, IBV_WC_REM_ACCESS_ERR);
	CHECK(ibv_dereg_mr(mr), 0);
	CHECK(ibv_dealloc_pd(other), 0);
	both_fini(&both);
}

struct registrar {
	struct ibv_pd *pd;
	_Atomic bool *stops;
	unsigned count;
};

static void *
register_on_and_on(void *argument)
{
	struct registrar *registrar = argument;
	uint8_t bytes[64];
	struct ibv_mr *mrs[600];
	while (!atomic_load(registrar->stops)) {
		for (int i = 0; i < 600; i++)
			mrs[i] = ibv_reg_mr(registrar->pd, bytes, sizeof(bytes), ALL_ACCESS);
		for (int i = 0; i < 600; i++) {
			MUST(mrs[i]);
			if (i % 3 == 0)
				CHECK(ibv_rereg_mr(mrs[i], IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL,
						   0, 0),
				      0);
			CHECK(ibv_dereg_mr(mrs[i]), 0);
			registrar->count++;
		}
	}
	return NULL;
}

static void
test_many_regions_while_traffic_runs(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	_Atomic bool stops = false;
	struct registrar registrars[2] = {{b->pd, &stops, 0}, {a->pd, &stops, 0}};
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		MUST(!pthread_create(&threads[i], NULL, register_on_and_on, &registrars[i]));
	int64_t until = now_ms() + 300;
	for (uint64_t i = 0; now_ms() < until; i++) {
		struct ibv_sge sge = sge_of(a, 0, i % 5000);
		struct ibv_send_wr wr =
			wr_of(i % 2 ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ, i, &sge, 1, b, 0);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
	}
	atomic_store(&stops, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	both_fini(&both);
}

/* ---- states ---- */

static void
test_what_states_allow(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a;
	struct ibv_cq *cq = ibv_create_cq(a->id->verbs, 16, NULL, NULL, 0);
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1},
		.qp_type = IBV_QPT_RC};
	struct ibv_qp *qp = ibv_create_qp(a->pd, &init);
	MUST(qp);
	struct ibv_sge sge = sge_of(a, 0, 8);
	struct ibv_send_wr *bad, wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, &both.b, 0);
	struct ibv_recv_wr *bad_recv, recv = {.wr_id = 2, .sg_list = &sge, .num_sge = 1};
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	CHECK(ibv_post_send(qp, &wr, &bad), EINVAL);
	CHECK(ibv_post_recv(qp, &recv, &bad_recv), EINVAL);
	attr.qp_state = IBV_QPS_RTR;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), EINVAL);
	attr.qp_state = IBV_QPS_INIT;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	CHECK(ibv_post_recv(qp, &recv, &bad_recv), 0);
	CHECK(ibv_post_send(qp, &wr, &bad), EINVAL);
	attr.qp_state = IBV_QPS_ERR;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	TAKE_THIS(cq, 2, IBV_WC_WR_FLUSH_ERR);
	CHECK(ibv_post_send(qp, &wr, &bad), 0);
	TAKE_THIS(cq, 1, IBV_WC_WR_FLUSH_ERR);
	attr.qp_state = IBV_QPS_INIT;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), EINVAL);
	/* As new, with nothing left. */
	CHECK(ibv_post_recv(qp, &recv, &bad_recv), 0);
	attr.qp_state = IBV_QPS_RESET;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	check_empty(__LINE__, cq, 0);
	attr.qp_state = IBV_QPS_INIT;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	CHECK(ibv_post_recv(qp, &recv, &bad_recv), 0);
	check_empty(__LINE__, cq, 0);
	CHECK(ibv_destroy_qp(qp), 0);
	CHECK(ibv_destroy_cq(cq), 0);
	init.qp_type = IBV_QPT_UD;
	CHECK(ibv_create_qp(a->pd, &init) == NULL, 1);
	both_fini(&both);
}

/* The last receive is reported to who has a queue pair fail, not to who takes it back. */
static void
test_events_of_a_shared_receive_queue(void)
{
	struct both both;
	both_init(&both, &(struct options){.with_srq = true});
	struct side *a = &both.a;
	struct ibv_async_event event;
	struct ibv_qp_init_attr init = {.send_cq = a->send_cq,
					.recv_cq = a->recv_cq,
					.srq = a->srq,
					.cap = {.max_send_wr = 4, .max_send_sge = 1},
					.qp_type = IBV_QPT_RC};
	struct ibv_qp *qp = ibv_create_qp(a->pd, &init);
	MUST(qp);
	int fd = a->id->verbs->async_fd;
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT};
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	attr.qp_state = IBV_QPS_RESET;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	CHECK(is_readable(fd, 0), 0);
	attr.qp_state = IBV_QPS_ERR;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	MUST(is_readable(fd, PATIENCE_MS));
	MUST(!ibv_get_async_event(a->id->verbs, &event));
	CHECK(event.event_type, IBV_EVENT_QP_LAST_WQE_REACHED);
	CHECK(event.element.qp == qp, 1);
	ibv_ack_async_event(&event);
	/* One that is connected: it is its peer that fails. */
	attr.qp_state = IBV_QPS_RESET;
	CHECK(ibv_modify_qp(a->qp, &attr, IBV_QP_STATE), 0);
	MUST(is_readable(fd, PATIENCE_MS));
	MUST(!ibv_get_async_event(a->id->verbs, &event));
	CHECK(event.event_type, IBV_EVENT_QP_LAST_WQE_REACHED);
	CHECK(event.element.qp == both.b.qp, 1);
	ibv_ack_async_event(&event);
	CHECK(is_readable(fd, 10), 0);
	CHECK(ibv_destroy_qp(qp), 0);
	both_fini(&both);
}

/* A connected queue pair is taken back, and used for another connection. */
static void
test_a_queue_pair_used_again(void)
{
	struct both both;
	both_init(&both, NULL);
	for (int round = 0; round < 5; round++) {
		struct side *a = &both.a, *b = &both.b;
		struct ibv_sge sge = sge_of(a, 0, 64);
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, 1, &sge, 1, b, 0);
		CHECK(post_receive(a, 5, 0, 64), 0);
		CHECK(post(a, &wr), 0);
		TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
		wr.opcode = IBV_WR_SEND; /* waits */
		CHECK(post(a, &wr), 0);
		struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
		CHECK(ibv_modify_qp(a->qp, &attr, IBV_QP_STATE), 0);
		CHECK(state_of(a->id), IBV_QPS_RESET);
		EXPECT(b->id, RDMA_CM_EVENT_DISCONNECTED, 0);
		EXPECT(a->id, RDMA_CM_EVENT_DISCONNECTED, 0);
		check_empty(__LINE__, a->send_cq, 0);
		check_empty(__LINE__, a->recv_cq, 0);
		attr.qp_state = IBV_QPS_INIT;
		CHECK(ibv_modify_qp(a->qp, &attr, IBV_QP_STATE), 0);
		/* A new id with the old queue pair. */
		struct ibv_qp *qp = a->qp;
		struct rdma_event_channel *channel = a->id->channel;
		a->id->qp = NULL;
		CHECK(rdma_destroy_id(a->id), 0);
		struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
		union address target = address_of("127.0.0.1", ntohs(rdma_get_src_port(listener)));
		a->id = new_id(channel);
		MUST(!rdma_resolve_addr(a->id, NULL, &target.any, 1000));
		EXPECT(a->id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
		MUST(!rdma_resolve_route(a->id, 1000));
		EXPECT(a->id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
		a->id->qp = qp;
		struct rdma_conn_param param = {.responder_resources = 4, .initiator_depth = 4};
		MUST(!rdma_connect(a->id, &param));
		side_end(b);
		accept_side(b, listener, &(struct options){0});
		EXPECT(a->id, RDMA_CM_EVENT_ESTABLISHED, 0);
		EXPECT(b->id, RDMA_CM_EVENT_ESTABLISHED, 0);
		destroy_with_channel(listener);
	}
	both_fini(&both);
}

/* ---- completion queues ---- */

static void
test_overrun(void)
{
	struct both both;
	both_init(&both, &(struct options){.cqe = 1, .send_wr = 128});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge sge = sge_of(a, 0, 8);
	int room = a->send_cq->cqe;
	for (int i = 0; i < room + 10; i++) {
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, (uint64_t)i, &sge, 1, b, 0);
		CHECK(post(a, &wr), 0);
	}
	expect_async(a->id->verbs, IBV_EVENT_CQ_ERR, a->send_cq);
	for (int i = 0; i < room; i++)
		TAKE_THIS(a->send_cq, (uint64_t)i, IBV_WC_SUCCESS);
	struct ibv_wc wc;
	CHECK(ibv_poll_cq(a->send_cq, 1, &wc) < 0, 1);
	both_fini(&both);
}

static void
test_resizing(void)
{
	struct both both;
	both_init(&both, &(struct options){.cqe = 16});
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge sge = sge_of(a, 0, 8);
	CHECK(ibv_resize_cq(a->send_cq, 0), EINVAL);
	CHECK(ibv_resize_cq(a->send_cq, 1000), 0);
	CHECK(a->send_cq->cqe >= 1000, 1);
	for (int round = 0; round < 5; round++) {
		for (uint64_t i = 0; i < 40; i++) {
			struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, i, &sge, 1, b, 0);
			CHECK(post(a, &wr), 0);
			if (i == 20)
				CHECK(ibv_resize_cq(a->send_cq, 200 + round), 0);
		}
		for (uint64_t i = 0; i < 40; i++) {
			TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
			if (i % 10 == 0)
				CHECK(ibv_resize_cq(a->send_cq, 300 - (int)i), 0);
		}
	}
	for (uint64_t i = 0; i < 40; i++) {
		struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_WRITE, i, &sge, 1, b, 0);
		CHECK(post(a, &wr), 0);
	}
	TAKE_THIS(a->send_cq, 0, IBV_WC_SUCCESS);
	sleep_ms(20);
	/* No smaller than what is in it. */
	CHECK(ibv_resize_cq(a->send_cq, 3), EINVAL);
	for (uint64_t i = 1; i < 40; i++)
		TAKE_THIS(a->send_cq, i, IBV_WC_SUCCESS);
	both_fini(&both);
}

/* ---- shared receive queues ---- */

static void
test_shared_receive_queues(void)
{
	enum { COUNT = 6, EACH = 50 };
	struct side first, sides[COUNT];
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	int port = ntohs(rdma_get_src_port(listener));
	struct rdma_cm_id *ids[COUNT];
	struct ibv_qp *qps[COUNT];
	for (int i = 0; i < COUNT; i++) {
		connect_side(&sides[i], port, &(struct options){0});
		struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
		ids[i] = event->id;
		rdma_ack_cm_event(event);
		if (i == 0) {
			side_init(&first, ids[0], &(struct options){.with_srq = true, .cqe = 1000});
		} else {
			struct ibv_qp_init_attr attr = {
				.send_cq = first.send_cq,
				.recv_cq = first.recv_cq,
				.srq = first.srq,
				.cap = {.max_send_wr = 4, .max_send_sge = 1},
				.qp_type = IBV_QPT_RC};
			MUST(!rdma_create_qp(ids[i], first.pd, &attr));
		}
		qps[i] = ids[i]->qp;
		MUST(!rdma_accept(ids[i], NULL));
		EXPECT(sides[i].id, RDMA_CM_EVENT_ESTABLISHED, 0);
		rdma_ack_cm_event(GET(listener->channel, RDMA_CM_EVENT_ESTABLISHED));
	}
	struct ibv_srq_attr limit = {.srq_limit = 5};
	CHECK(ibv_modify_srq(first.srq, &limit, IBV_SRQ_LIMIT), 0);
	/* All of them send, more than there are receives; those come one by one, and in bulk. */
	for (int i = 0; i < COUNT; i++) {
		for (uint64_t j = 0; j < EACH; j++) {
			struct ibv_sge sge = sge_of(&sides[i], 0, 8);
			struct ibv_send_wr wr = wr_of(IBV_WR_SEND_WITH_IMM, j, &sge, 1, NULL, 0);
			wr.imm_data = htonl((uint32_t)(i * EACH + (int)j));
			CHECK(post(&sides[i], &wr), 0);
		}
	}
	int got = 0, posted = 0;
	int next[COUNT] = {0};
	int64_t until = now_ms() + PATIENCE_MS;
	while (got < COUNT * EACH && now_ms() < until) {
		struct ibv_wc wc;
		for (int i = 0; posted - got < 7 && i < (got % 3 ? 1 : 5); i++)
			CHECK(post_receive(&first, (uint64_t)posted++, 0, 64), 0);
		if (got % 10 == 9)
			sleep_ms(1);
		while (ibv_poll_cq(first.recv_cq, 1, &wc) == 1) {
			CHECK(wc.status, IBV_WC_SUCCESS);
			int from = (int)ntohl(wc.imm_data) / EACH;
			CHECK((int)ntohl(wc.imm_data) % EACH, next[from]++);
			CHECK(wc.qp_num, qps[from]->qp_num);
			got++;
		}
	}
	CHECK(got, COUNT * EACH);
	for (int i = 0; i < COUNT; i++) {
		for (uint64_t j = 0; j < EACH; j++)
			TAKE_THIS(sides[i].send_cq, j, IBV_WC_SUCCESS);
	}
	expect_async(first.id->verbs, IBV_EVENT_SRQ_LIMIT_REACHED, first.srq);
	CHECK(ibv_query_srq(first.srq, &limit), 0);
	CHECK(limit.srq_limit, 0);
	/* One goes while its messages wait: the others do not notice. */
	struct ibv_wc wc;
	while (posted > got) {
		struct ibv_sge sge = sge_of(&sides[1], 0, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 0, &sge, 1, NULL, 0);
		CHECK(post(&sides[1], &wr), 0);
		TAKE(first.recv_cq);
		TAKE(sides[1].send_cq);
		got++;
	}
	for (int i = 0; i < COUNT; i++) {
		struct ibv_sge sge = sge_of(&sides[i], 0, 8);
		struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, &sge, 1, NULL, 0);
		CHECK(post(&sides[i], &wr), 0);
	}
	sleep_ms(10);
	rdma_destroy_qp(ids[2]);
	CHECK(rdma_disconnect(sides[3].id), 0);
	expect_async(first.id->verbs, IBV_EVENT_QP_LAST_WQE_REACHED, qps[3]);
	for (int i = 0; i < COUNT - 2; i++) {
		CHECK(post_receive(&first, 77, 0, 64), 0);
		TAKE_THIS(first.recv_cq, 77, IBV_WC_SUCCESS);
	}
	CHECK(post_receive(&first, 78, 0, 64), 0);
	sleep_ms(5);
	CHECK(ibv_poll_cq(first.recv_cq, 1, &wc), 0);
	for (int i = 0; i < COUNT; i++) {
		side_end(&sides[i]);
		if (i && ids[i]->qp)
			rdma_destroy_qp(ids[i]);
	}
	side_fini(&first);
	for (int i = 0; i < COUNT; i++)
		rdma_destroy_id(ids[i]);
	destroy_with_channel(listener);
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_violations);
	RUN(test_local_violations);
	RUN(test_regions_taken_back_during_transfers);
	RUN(test_access_that_cannot_be);
	RUN(test_registering_anew);
	RUN(test_many_regions_while_traffic_runs);
	RUN(test_what_states_allow);
	RUN(test_events_of_a_shared_receive_queue);
	RUN(test_a_queue_pair_used_again);
	RUN(test_overrun);
	RUN(test_resizing);
	RUN(test_shared_receive_queues);
	return report();
}
