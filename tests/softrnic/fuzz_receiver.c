/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_receiver.c -- a stream of arbitrary FPDUs, cut anywhere, for a queue pair in use.
 *
 * Compiled with all sources of both libraries and -fsanitize=fuzzer,address,undefined, and linked
 * with -Wl,--wrap=... for the functions below: the socket is fake, keys are counted and no thread
 * runs, so that the same input does the same again. The input is a program: each step is a byte
 * that chooses what to do, and its operands. Completions are checked: each request has one, in
 * order.
 */
#include "softrnic.h"
#include "fuzz_peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REGION = 100000, IOVA = 0x10000, STREAM = 1 << 20, QUEUE = 8, MEMORY = 70000 };

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags);

/* ---- the fake socket ---- */

static struct {
	uint8_t bytes[STREAM];
	size_t start, end;
	bool is_over;
	bool is_asked; /* somebody has looked for bytes */
	size_t cut;    /* the most that one call gets; 0: all */
	size_t budget; /* bytes that may still be sent */
} stream;

ssize_t
__wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	size_t left = stream.end - stream.start;
	(void)fd, (void)flags;
	stream.is_asked = true;
	if (!left) {
		errno = EAGAIN;
		return stream.is_over ? 0 : -1;
	}
	if (stream.cut && left > stream.cut)
		left = stream.cut;
	size_t got = receive_into(message, stream.bytes + stream.start, left);
	stream.start += got;
	return (ssize_t)got;
}

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	static volatile uint8_t looked_at;
	size_t sent = 0;
	(void)fd, (void)flags;
	for (size_t i = 0; i < message->msg_iovlen && stream.budget; i++) {
		const uint8_t *bytes = message->msg_iov[i].iov_base;
		size_t size = message->msg_iov[i].iov_len;
		if (size > stream.budget)
			size = stream.budget;
		for (size_t j = 0; j < size; j += 512)
			looked_at = bytes[j];
		if (size)
			looked_at = bytes[size - 1];
		stream.budget -= size;
		sent += size;
	}
	(void)looked_at;
	if (!sent) {
		errno = EAGAIN;
		return -1;
	}
	return (ssize_t)sent;
}

static uint32_t next_key;

ssize_t
__wrap_getrandom(void *bytes, size_t size, unsigned flags)
{
	(void)flags;
	REQUIRE(size == 4);
	next_key++;
	memcpy(bytes, &next_key, 4);
	return 4;
}

/* ---- the input ---- */

static void
push(const void *bytes, size_t size)
{
	if (size > STREAM - stream.end)
		return;
	memcpy(stream.bytes + stream.end, bytes, size);
	stream.end += size;
}

/* ---- the queue pair, and what it has ---- */

static struct ibv_context *context;
static struct ibv_pd *pd, *other_pd;
static struct ibv_cq *send_cq, *recv_cq;
static struct ibv_srq *srq;
static struct qp *qp;
static struct ibv_mr *mrs[4]; /* all rights, reading only, of another domain, local */
static uint8_t *memory[4];
static uint32_t msns[4]; /* the peer's next ones */
static uint64_t posted, completed, received, receives;

static struct ibv_mr *
any_mr(uint32_t choice)
{
	return mrs[choice % 4];
}

static void
push_fpdu(struct fpdu_head *head, const uint8_t *payload, uint32_t mistakes)
{
	static uint8_t bytes[FPDU_HEAD_MAX + ULPDU_MAX + FPDU_TRAILER_MAX];
	size_t size = fpdu_encode(bytes, head);
	if (payload)
		memcpy(bytes + size, payload, head->payload);
	else
		memset(bytes + size, 0x42, head->payload);
	size += head->payload;
	size_t padding = fpdu_padding(size - 2);
	memset(bytes + size, 0, padding);
	size += padding;
	crc32c_put(bytes + size, qp->crc ? crc32c(0, bytes, size) ^ (mistakes & 1) : 0);
	push(bytes, size + 4);
}

/* ---- steps ---- */

static void
step_raw(void)
{
	size_t size = take(1);
	if (size > input.size)
		size = input.size;
	push(input.bytes, size);
	input.bytes += size;
	input.size -= size;
}

/* Data, or a request that is well made but for what the input changes. */
static void
step_fpdu(void)
{
	uint8_t payload[64] = {0};
	uint32_t choice = take(1), mistakes = take(1), where = take(2);
	struct fpdu_head head = {.last = !(mistakes & 2), .opcode = choice & 15};
	struct ibv_mr *mr = any_mr(choice >> 4);
	head.stag = mistakes & 4 ? take(4) : mr->rkey;
	head.to = (mistakes & 8 ? (uint64_t)take(4) << 32 | take(4) : IOVA) + where;
	head.tagged = head.opcode == RDMAP_WRITE || head.opcode == RDMAP_READ_RESPONSE;
	head.payload = (uint16_t)(mistakes & 16 ? take(2) : take(1));
	head.mo = mistakes & 32 ? take(2) : 0;
	switch (head.opcode) {
	case RDMAP_READ_REQUEST:
	case RDMAP_ATOMIC_REQUEST:
		head.qn = QN_READ_REQUEST;
		break;
	case RDMAP_TERMINATE:
		head.qn = QN_TERMINATE;
		break;
	case RDMAP_ATOMIC_RESPONSE:
		head.qn = QN_ATOMIC_RESPONSE;
		break;
	}
	head.msn = msns[head.qn];
	if (mistakes & 64)
		head.msn += take(1);
	else if (!head.tagged && head.last)
		msns[head.qn]++;
	if (head.opcode == RDMAP_READ_REQUEST) {
		struct read_request request = {.sink_stag = take(1),
					       .size = take(2),
					       .source_stag = head.stag,
					       .source_to = head.to};
		head.payload = READ_REQUEST_SIZE;
		read_request_encode(payload, &request);
	} else if (head.opcode == RDMAP_ATOMIC_REQUEST) {
		struct atomic_request request = {.operation = choice & 16 ? ATOMIC_FETCH_ADD
									  : ATOMIC_COMPARE_SWAP,
						 .request_id = take(1),
						 .stag = head.stag,
						 .to = head.to,
						 .add_swap = 1};
		head.payload = ATOMIC_REQUEST_SIZE;
		atomic_request_encode(payload, &request);
	} else if (head.opcode == RDMAP_ATOMIC_RESPONSE) {
		head.payload = ATOMIC_RESPONSE_SIZE;
		atomic_response_encode(payload, take(1), 7);
	} else if (head.opcode == RDMAP_IMMEDIATE || head.opcode == RDMAP_IMMEDIATE_SE) {
		head.payload = IMMEDIATE_SIZE;
		memset(payload, choice & 16 ? 0xff : 0, sizeof(payload));
	} else if (head.opcode == RDMAP_TERMINATE) {
		struct terminate terminate = {.error = (uint16_t)take(2),
					      .has_head = mistakes & 128,
					      .head = {.opcode = (uint8_t)take(1) & 15,
						       .last = true,
						       .qn = take(1) & 3,
						       .msn = take(1),
						       .stag = mr->rkey,
						       .to = IOVA},
					      .has_taken = choice & 16,
					      .taken = choice & 16 ? take(1) : 0};
		terminate.head.tagged = terminate.head.opcode == RDMAP_WRITE;
		head.payload = (uint16_t)terminate_encode(payload, &terminate);
	}
	if (!head.tagged && head.payload > UNTAGGED_PAYLOAD_MAX)
		head.payload = UNTAGGED_PAYLOAD_MAX;
	if (head.payload > TAGGED_PAYLOAD_MAX)
		head.payload = TAGGED_PAYLOAD_MAX;
	push_fpdu(&head, head.payload <= sizeof(payload) ? payload : NULL, mistakes);
}

/* What this side's oldest request waits for, perhaps in several segments. */
static void
step_answer(void)
{
	struct sender *tx = &qp->tx;
	uint32_t mistakes = take(1);
	uint32_t behind = mistakes >> 6; /* the requests whose answers are in the stream already */
	if (!qp->has_stream || tx->outbound_tail - tx->outbound_head <= behind)
		return;
	const struct outbound *outbound = outbound_at(tx, tx->outbound_head + behind);
	const struct request *request = request_at(tx, outbound->request - 1);
	struct fpdu_head head = {.tagged = true, .last = true, .opcode = RDMAP_READ_RESPONSE};
	if (outbound->kind == OUTBOUND_ATOMIC) {
		uint8_t payload[ATOMIC_RESPONSE_SIZE];
		atomic_response_encode(payload, outbound->request - 1 + (mistakes & 1), 99);
		head = (struct fpdu_head){.last = true,
					  .opcode = RDMAP_ATOMIC_RESPONSE,
					  .payload = ATOMIC_RESPONSE_SIZE,
					  .qn = QN_ATOMIC_RESPONSE,
					  .msn = msns[QN_ATOMIC_RESPONSE]++};
		push_fpdu(&head, payload, 0);
		return;
	}
	uint32_t size = outbound->kind == OUTBOUND_READ ? request->length : 0, offset = 0;
	uint32_t segment = mistakes & 2 ? take(1) + 1 : 60000;
	head.stag = size ? request->sges[0].lkey : 0;
	do {
		head.to = (size ? request->sges[0].addr : 0) + offset;
		head.payload = (uint16_t)(size - offset < segment ? size - offset : segment);
		head.last = offset + head.payload == size;
		push_fpdu(&head, NULL, 0);
		offset += head.payload;
	} while (offset < size && stream.end < STREAM / 2);
}

static void
step_receive(void)
{
	uint32_t choice = take(1), size = take(1) * (choice & 8 ? 300 : 1);
	struct ibv_sge sges[2] = {{.addr = IOVA, .length = size, .lkey = any_mr(choice)->lkey},
				  {.addr = IOVA + 80000, .length = 50, .lkey = mrs[3]->lkey}};
	struct ibv_recv_wr *bad, wr = {.wr_id = receives,
				       .sg_list = sges,
				       .num_sge = choice & 16 ? 2 : (size ? 1 : 0)};
	int ret = srq ? ibv_post_srq_recv(srq, &wr, &bad) : ibv_post_recv(&qp->ibv, &wr, &bad);
	REQUIRE(ret == 0 || ret == ENOMEM);
	receives += ret == 0;
}

static void
step_request(void)
{
	static const enum ibv_wr_opcode opcodes[] = {IBV_WR_RDMA_READ,
						     IBV_WR_RDMA_WRITE,
						     IBV_WR_SEND,
						     IBV_WR_RDMA_WRITE_WITH_IMM,
						     IBV_WR_SEND_WITH_IMM,
						     IBV_WR_SEND_WITH_INV,
						     IBV_WR_ATOMIC_FETCH_AND_ADD,
						     IBV_WR_ATOMIC_CMP_AND_SWP};
	uint32_t choice = take(1), flags = take(1), size = take(1) * (flags & 128 ? 300 : 1);
	struct ibv_sge sges[2] = {{.addr = IOVA, .length = size, .lkey = any_mr(choice >> 3)->lkey},
				  {.addr = IOVA + 90000, .length = 20, .lkey = mrs[3]->lkey}};
	struct ibv_send_wr *bad, wr = {.wr_id = posted,
				       .sg_list = sges,
				       .num_sge = flags & 64 ? 2 : 1,
				       .opcode = opcodes[choice & 7],
				       .send_flags = flags & (IBV_SEND_FENCE | IBV_SEND_SOLICITED)};
	if (wr.opcode >= IBV_WR_ATOMIC_CMP_AND_SWP && wr.opcode <= IBV_WR_ATOMIC_FETCH_AND_ADD) {
		sges[0].length = 8;
		wr.num_sge = 1;
	} else if (wr.opcode != IBV_WR_RDMA_READ) {
		sges[0].lkey = mrs[2 + (choice & 64 ? 0 : 1)]->lkey;
	}
	wr.send_flags |= IBV_SEND_SIGNALED;
	int ret = ibv_post_send(&qp->ibv, &wr, &bad);
	REQUIRE(ret == 0 || ret == ENOMEM);
	posted += ret == 0;
}

static void
poll_all(void)
{
	struct ibv_wc wc;
	while (ibv_poll_cq(send_cq, 1, &wc) == 1)
		REQUIRE(wc.wr_id == completed++);
	while (ibv_poll_cq(recv_cq, 1, &wc) == 1) {
		REQUIRE(wc.wr_id == received++);
		REQUIRE(wc.status != IBV_WC_SUCCESS || wc.opcode == IBV_WC_RECV_RDMA_WITH_IMM ||
			wc.byte_len <= MEMORY + 300 * 255);
	}
	REQUIRE(completed <= posted && received <= receives);
}

/* A region is taken back and registered anew, elsewhere. */
static void
step_register(void)
{
	uint32_t choice = take(1) % 4;
	static const int access[4] = {IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
					      IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC,
				      IBV_ACCESS_REMOTE_READ,
				      IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
					      IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC,
				      IBV_ACCESS_LOCAL_WRITE};
	if (mrs[choice])
		REQUIRE(ibv_dereg_mr(mrs[choice]) == 0);
	/* A program may take back what others use, but not what its own requests send. */
	if (mrs[choice] && choice < 2) {
		free(memory[choice]);
		memory[choice] = NULL;
	}
	if (!memory[choice])
		memory[choice] = aligned_alloc(8, REGION);
	REQUIRE(memory[choice]);
	mrs[choice] = ibv_reg_mr_iova(choice == 2 ? other_pd : pd, memory[choice], REGION, IOVA,
				      access[choice]);
	REQUIRE(mrs[choice]);
}

static void
run_stream(bool by_poller)
{
	for (int i = 0; i < 2000 && qp->has_stream; i++) {
		size_t before = stream.start;
		if (!by_poller)
			qp->source.ready(&qp->source, EPOLLIN | (stream.is_over ? EPOLLRDHUP : 0));
		else
			poll_all();
		if (stream.start == before)
			break;
	}
	if (stream.start == stream.end)
		stream.start = stream.end = 0;
}

static void
step(void)
{
	switch (take(1) % 13) {
	case 0:
		step_raw();
		break;
	case 1:
	case 2:
	case 3:
		step_fpdu();
		break;
	case 4:
		step_answer();
		break;
	case 5:
		step_receive();
		break;
	case 6:
		step_request();
		break;
	case 7:
		stream.cut = take(1);
		break;
	case 8:
		stream.budget = take(2);
		if (stream.budget & 1)
			stream.budget = SIZE_MAX;
		qp->source.ready(&qp->source, EPOLLOUT);
		break;
	case 9:
		step_register();
		break;
	case 10:
		run_stream(true);
		break;
	case 11:
		run_stream(false);
		break;
	default:
		stream.is_over = take(1) == 0;
		break;
	}
}

/* ---- an input's life ---- */

static void
begin(uint32_t choice)
{
	static int pair[2] = {-1, -1};
	next_key = 0;
	stream.start = stream.end = stream.cut = 0;
	stream.is_over = false;
	stream.budget = SIZE_MAX;
	posted = completed = received = receives = 0;
	for (int i = 0; i < 4; i++)
		msns[i] = 1;
	if (!context) {
		struct ibv_device **list = ibv_get_device_list(NULL);
		context = ibv_open_device(list[0]);
		ibv_free_device_list(list);
		REQUIRE(context && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	}
	pd = ibv_alloc_pd(context);
	other_pd = ibv_alloc_pd(context);
	send_cq = ibv_create_cq(context, 100, NULL, NULL, 0);
	recv_cq = ibv_create_cq(context, 100, NULL, NULL, 0);
	REQUIRE(pd && other_pd && send_cq && recv_cq);
	struct ibv_srq_init_attr srq_attr = {.attr = {.max_wr = QUEUE, .max_sge = 2}};
	srq = choice & 1 ? ibv_create_srq(pd, &srq_attr) : NULL;
	struct ibv_qp_init_attr attr = {.send_cq = send_cq,
					.recv_cq = recv_cq,
					.srq = srq,
					.cap = {.max_send_wr = QUEUE,
						.max_recv_wr = QUEUE,
						.max_send_sge = 2,
						.max_recv_sge = 2},
					.qp_type = IBV_QPT_RC};
	struct ibv_qp *ibv_qp = ibv_create_qp(pd, &attr);
	REQUIRE(ibv_qp);
	qp = to_qp(ibv_qp);
	for (int i = 0; i < 4; i++) {
		mrs[i] = NULL;
		memory[i] = NULL;
	}
	for (uint32_t i = 0; i < 4; i++) {
		static const uint8_t which[] = {0, 1, 2, 3};
		input.bytes = &which[i];
		input.size = 1;
		step_register();
	}
	struct stream_setup setup = {.fd = dup(pair[0]),
				     .crc = choice & 2,
				     .ird = 4,
				     .ord = choice & 4 ? 1 : 4,
				     .acknowledges = !(choice & 64),
				     .awaits_first = choice & 8,
				     .rtr = (choice >> 4) & 3};
	REQUIRE(setup.fd >= 0);
	REQUIRE(qp_connect(ibv_qp, &setup) == 0);
	/* It is this peer that it listens to. */
	stream.is_asked = false;
	qp->source.ready(&qp->source, EPOLLIN);
	REQUIRE(stream.is_asked);
}

static void
end(void)
{
	/* Of what was posted nothing is left, but receives that others may use. */
	struct ibv_qp_attr error = {.qp_state = IBV_QPS_ERR};
	REQUIRE(ibv_modify_qp(&qp->ibv, &error, IBV_QP_STATE) == 0);
	REQUIRE(!qp->rx.is_stalled && !qp->is_stalled);
	poll_all();
	REQUIRE(completed == posted);
	REQUIRE(received == receives || srq);
	/* Its peer closes, in the end. */
	source_get(&qp->source);
	struct source *source = &qp->source;
	REQUIRE(ibv_destroy_qp(&qp->ibv) == 0);
	if (source->slot)
		source->expired(source);
	REQUIRE(atomic_load(&source->references) == 1);
	source_put(source);
	if (srq)
		REQUIRE(ibv_destroy_srq(srq) == 0);
	for (int i = 0; i < 4; i++) {
		REQUIRE(ibv_dereg_mr(mrs[i]) == 0);
		free(memory[i]);
	}
	REQUIRE(ibv_destroy_cq(send_cq) == 0 && ibv_destroy_cq(recv_cq) == 0);
	REQUIRE(ibv_dealloc_pd(pd) == 0 && ibv_dealloc_pd(other_pd) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	begin(data[0]);
	input.bytes = data + 1;
	input.size = size - 1;
	while (input.size)
		step();
	run_stream(false);
	end();
	return 0;
}
