/* SPDX-License-Identifier: BSD-3-Clause */
/* device_test.h -- what the tests of the device share: two connected sides, each with all it needs.
 */
#ifndef SOFTRNIC_DEVICE_TEST_H
#define SOFTRNIC_DEVICE_TEST_H

#include "cm_test.h"

#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdatomic.h>

#define ALL_ACCESS                                                                                 \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |               \
	 IBV_ACCESS_REMOTE_ATOMIC)

#ifdef __SANITIZE_THREAD__
/*
 * ThreadSanitizer takes what sendmsg() reads for read when the call returns, after what it takes
 * for its release of the socket: so it sees no order between the peer's answer to a request and
 * the requester's next write of that memory, which is behind the completion.
 */
const char *__tsan_default_options(void);

const char *
__tsan_default_options(void)
{
	return "intercept_send=0";
}
#endif

/* The soft RNIC's own: what its counters begin with; also from DEVICE_TEST_POSITIONS. */
extern uint32_t positions_begin;

__attribute__((constructor)) static void
begin_positions_at(void)
{
	const char *value = getenv("DEVICE_TEST_POSITIONS");
	if (value)
		positions_begin = (uint32_t)strtol(value, NULL, 10);
}

struct options {
	unsigned send_wr, recv_wr, sge, inline_size; /* 0: 64, 64, 4, 256 */
	int cqe;                                     /* 0: 256 */
	size_t size;                                 /* of the memory, 0: 64 KiB */
	unsigned ird, ord;                           /* 0: 16 */
	bool with_srq, with_channel, is_ex, all_signalled;
};

struct side {
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	struct ibv_comp_channel *channel;
	struct ibv_cq *send_cq, *recv_cq;
	struct ibv_srq *srq;
	struct ibv_pd *pd;
	uint8_t *bytes;
	size_t size;
	struct ibv_mr *mr;
};

static inline int64_t
now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static inline uint32_t
next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* ---- sides ---- */

static inline void
side_init(struct side *side, struct rdma_cm_id *id, const struct options *options)
{
	int cqe = options->cqe ? options->cqe : 256;
	*side = (struct side){.id = id};
	side->pd = ibv_alloc_pd(id->verbs);
	MUST(side->pd);
	if (options->with_channel) {
		side->channel = ibv_create_comp_channel(id->verbs);
		MUST(side->channel);
	}
	side->send_cq = ibv_create_cq(id->verbs, cqe, side, side->channel, 0);
	side->recv_cq = ibv_create_cq(id->verbs, cqe, side, side->channel, 0);
	MUST(side->send_cq && side->recv_cq);
	if (options->with_srq) {
		struct ibv_srq_init_attr attr = {.attr = {.max_wr = 256, .max_sge = 4}};
		side->srq = ibv_create_srq(side->pd, &attr);
		MUST(side->srq);
	}
	struct ibv_qp_init_attr_ex attr = {
		.send_cq = side->send_cq,
		.recv_cq = side->recv_cq,
		.srq = side->srq,
		.cap = {.max_send_wr = options->send_wr ? options->send_wr : 64,
			.max_recv_wr = options->recv_wr ? options->recv_wr : 64,
			.max_send_sge = options->sge ? options->sge : 4,
			.max_recv_sge = options->sge ? options->sge : 4,
			.max_inline_data = options->inline_size ? options->inline_size : 256},
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = options->all_signalled,
		.comp_mask = IBV_QP_INIT_ATTR_PD,
		.pd = side->pd,
	};
	if (options->is_ex) {
		attr.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
		attr.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_READ |
				      IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM | IBV_QP_EX_WITH_SEND |
				      IBV_QP_EX_WITH_SEND_WITH_IMM | IBV_QP_EX_WITH_SEND_WITH_INV |
				      IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP |
				      IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;
	}
	MUST(!rdma_create_qp_ex(id, &attr));
	side->qp = id->qp;
	side->size = options->size ? options->size : 65536;
	side->bytes = aligned_alloc(4096, (side->size + 4095) / 4096 * 4096);
	MUST(side->bytes);
	memset(side->bytes, 0, side->size);
	side->mr = ibv_reg_mr(side->pd, side->bytes, side->size, ALL_ACCESS);
	MUST(side->mr);
}

/* All but the id. */
static inline void
side_fini(struct side *side)
{
	if (side->id->qp)
		rdma_destroy_qp(side->id);
	CHECK(ibv_dereg_mr(side->mr), 0);
	if (side->srq)
		CHECK(ibv_destroy_srq(side->srq), 0);
	CHECK(ibv_destroy_cq(side->send_cq), 0);
	CHECK(ibv_destroy_cq(side->recv_cq), 0);
	if (side->channel)
		CHECK(ibv_destroy_comp_channel(side->channel), 0);
	CHECK(ibv_dealloc_pd(side->pd), 0);
	free(side->bytes);
}

static inline struct rdma_conn_param
param_with(const struct options *options)
{
	return (struct rdma_conn_param){
		.responder_resources = (uint8_t)(options->ird ? options->ird : 16),
		.initiator_depth = (uint8_t)(options->ord ? options->ord : 16),
	};
}

static inline void
connect_side(struct side *side, int port, const struct options *options)
{
	struct rdma_cm_id *id = new_id(new_channel());
	union address target = address_of("127.0.0.1", port);
	struct rdma_conn_param param = param_with(options);
	MUST(!rdma_resolve_addr(id, NULL, &target.any, 1000));
	EXPECT(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
	MUST(!rdma_resolve_route(id, 1000));
	EXPECT(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
	side_init(side, id, options);
	MUST(!rdma_connect(id, &param));
}

static inline void
accept_side(struct side *side, struct rdma_cm_id *listener, const struct options *options)
{
	struct rdma_cm_event *event = GET(listener->channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	struct rdma_cm_id *id = event->id;
	struct rdma_conn_param param = param_with(options);
	rdma_ack_cm_event(event);
	MUST(!rdma_migrate_id(id, new_channel()));
	side_init(side, id, options);
	MUST(!rdma_accept(id, &param));
}

struct both {
	struct side a, b;
};

/* Two sides in this process; a is the active one. */
static inline void
both_init(struct both *both, const struct options *options)
{
	static const struct options usual;
	if (!options)
		options = &usual;
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	connect_side(&both->a, ntohs(rdma_get_src_port(listener)), options);
	accept_side(&both->b, listener, options);
	EXPECT(both->a.id, RDMA_CM_EVENT_ESTABLISHED, 0);
	EXPECT(both->b.id, RDMA_CM_EVENT_ESTABLISHED, 0);
	destroy_with_channel(listener);
}

static inline void
side_end(struct side *side)
{
	side_fini(side);
	struct rdma_event_channel *channel = side->id->channel;
	CHECK(rdma_destroy_id(side->id), 0);
	rdma_destroy_event_channel(channel);
}

static inline void
both_fini(struct both *both)
{
	side_end(&both->a);
	side_end(&both->b);
}

/* ---- requests ---- */

static inline struct ibv_sge
sge_of(const struct side *side, size_t offset, size_t length)
{
	return (struct ibv_sge){.addr = (uintptr_t)side->bytes + offset,
				.length = (uint32_t)length,
				.lkey = side->mr->lkey};
}

/* To or from the other side's memory at an offset. */
static inline struct ibv_send_wr
wr_of(enum ibv_wr_opcode opcode, uint64_t wr_id, struct ibv_sge *sges, int count,
      const struct side *other, size_t offset)
{
	struct ibv_send_wr wr = {.wr_id = wr_id,
				 .sg_list = sges,
				 .num_sge = count,
				 .opcode = opcode,
				 .send_flags = IBV_SEND_SIGNALED};
	if (opcode == IBV_WR_ATOMIC_CMP_AND_SWP || opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
		wr.wr.atomic.remote_addr = (uintptr_t)other->bytes + offset;
		wr.wr.atomic.rkey = other->mr->rkey;
	} else if (other) {
		wr.wr.rdma.remote_addr = (uintptr_t)other->bytes + offset;
		wr.wr.rdma.rkey = other->mr->rkey;
	}
	return wr;
}

static inline int
post(struct side *side, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;
	return ibv_post_send(side->qp, wr, &bad);
}

static inline int
post_receive(struct side *side, uint64_t wr_id, size_t offset, size_t length)
{
	struct ibv_sge sge = sge_of(side, offset, length);
	struct ibv_recv_wr *bad, wr = {.wr_id = wr_id, .sg_list = &sge, .num_sge = length ? 1 : 0};
	return side->srq ? ibv_post_srq_recv(side->srq, &wr, &bad)
			 : ibv_post_recv(side->qp, &wr, &bad);
}

/* ---- completions ---- */

#define TAKE(cq) take_completion(__LINE__, cq)

static inline struct ibv_wc
take_completion(int line, struct ibv_cq *cq)
{
	struct ibv_wc wc;
	int64_t until = now_ms() + PATIENCE_MS;
	for (;;) {
		int ret = ibv_poll_cq(cq, 1, &wc);
		if (ret == 1)
			return wc;
		errno = -ret;
		if (ret < 0)
			give_up(line, "ibv_poll_cq");
		errno = ETIMEDOUT;
		if (now_ms() > until)
			give_up(line, "a completion");
	}
}

/* The next completion is this one. */
#define TAKE_THIS(cq, wr_id, status) take_this(__LINE__, cq, wr_id, status)

static inline struct ibv_wc
take_this(int line, struct ibv_cq *cq, uint64_t wr_id, enum ibv_wc_status status)
{
	struct ibv_wc wc = take_completion(line, cq);
	check(line, "wr_id", (long long)wc.wr_id, (long long)wr_id);
	check(line, ibv_wc_status_str(wc.status), wc.status, status);
	return wc;
}

static inline void
check_empty(int line, struct ibv_cq *cq, int ms)
{
	struct ibv_wc wc;
	int64_t until = now_ms() + ms;
	do
		check(line, "completions", ibv_poll_cq(cq, 1, &wc), 0);
	while (now_ms() < until);
}

/* ---- contents ---- */

static inline uint8_t
pattern(size_t position, uint32_t seed)
{
	return (uint8_t)(position * 7 + position / 251 + seed);
}

static inline void
fill(uint8_t *bytes, size_t size, uint32_t seed)
{
	for (size_t i = 0; i < size; i++)
		bytes[i] = pattern(i, seed);
}

#define CHECK_FILLED(bytes, size, seed) check_filled(__LINE__, bytes, size, seed)

static inline void
check_filled(int line, const uint8_t *bytes, size_t size, uint32_t seed)
{
	for (size_t i = 0; i < size; i++) {
		if (bytes[i] != pattern(i, seed)) {
			char what[64];
			snprintf(what, sizeof(what), "byte %zu of %zu", i, size);
			check(line, what, bytes[i], pattern(i, seed));
			return;
		}
	}
}

#endif
