/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sender.c -- from send queue to FPDUs: requests, responses, and what acknowledges them.
 *
 * iWARP does not acknowledge Writes and Sends. Programs expect of a completion that the other side
 * has taken the data, and of a failure that it is told as the failing request's. So behind the last
 * request that wants a completion goes a zero-length RDMA Read, which every iWARP peer answers in
 * order: its answer completes what was sent before it.
 */
#include "softrnic.h"

#include <string.h>

/* As much payload as an FPDU takes, whole words of it. */
#define SEGMENT_MAX (UNTAGGED_PAYLOAD_MAX & ~15u)
/* While one acknowledgement is under way, the next is asked for after so many bytes. */
#define ASK_BYTES (128 * 1024)
#define ASK_MAX 8

/* ---- completions ---- */

static enum ibv_wc_opcode
wc_opcode(enum ibv_wr_opcode opcode)
{
	switch (opcode) {
	case IBV_WR_RDMA_READ:
		return IBV_WC_RDMA_READ;
	case IBV_WR_RDMA_WRITE:
	case IBV_WR_RDMA_WRITE_WITH_IMM:
		return IBV_WC_RDMA_WRITE;
	case IBV_WR_ATOMIC_CMP_AND_SWP:
		return IBV_WC_COMP_SWAP;
	case IBV_WR_ATOMIC_FETCH_AND_ADD:
		return IBV_WC_FETCH_ADD;
	default:
		return IBV_WC_SEND;
	}
}

void
request_complete(struct qp *qp, const struct request *request, enum ibv_wc_status status)
{
	if (qp->tx.forgets)
		return;
	struct ibv_wc wc = {.wr_id = request->wr_id,
			    .status = status,
			    .opcode = wc_opcode(request->opcode),
			    .byte_len = request->length,
			    .qp_num = qp->ibv.qp_num};
	cq_push(qp->ibv.send_cq, &wc, false);
}

void
sender_complete(struct qp *qp, uint32_t position)
{
	struct sender *tx = &qp->tx;
	while ((int32_t)(position - tx->head) > 0) {
		const struct request *request = request_at(tx, tx->head);
		if (request->flags & IBV_SEND_SIGNALED || qp->init.sq_sig_all)
			request_complete(qp, request, IBV_WC_SUCCESS);
		tx->head++;
	}
}

void
sender_flush(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	while (tx->head != tx->tail) {
		const struct request *request = request_at(tx, tx->head);
		request_complete(qp, request,
				 request->failed ? request->failed : IBV_WC_WR_FLUSH_ERR);
		tx->head++;
	}
	tx->next = tx->tail;
	tx->offset = 0;
	tx->imm_sent = false;
}

/* An answer to the oldest outbound request has come: complete all up to it. */
static void
answered(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	const struct outbound *outbound = outbound_at(tx, tx->outbound_head++);
	if (outbound->kind == OUTBOUND_ACK)
		tx->acks--;
	sender_complete(qp, outbound->request);
}

/* Up to here requests may complete, but for what a read or an atomic before it would bring. */
static uint32_t
without_outbound(const struct sender *tx, uint32_t position)
{
	for (uint32_t i = tx->outbound_head; i != tx->outbound_tail; i++) {
		const struct outbound *outbound = outbound_at(tx, i);
		if (outbound->kind == OUTBOUND_ACK)
			continue;
		if ((int32_t)(outbound->request - 1 - position) < 0)
			return outbound->request - 1;
		break;
	}
	return position;
}

void
sender_sent(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	uint32_t position = without_outbound(tx, tx->sent_upto);
	if (!tx->acknowledged && (int32_t)(position - tx->head) > 0)
		sender_complete(qp, position);
}

static bool
is_about(const struct request *request, const struct terminate *terminate)
{
	const struct fpdu_head *head = &terminate->head;
	switch (request->opcode) {
	case IBV_WR_RDMA_WRITE:
	case IBV_WR_RDMA_WRITE_WITH_IMM:
		if (head->tagged)
			return head->stag == request->rkey && head->to >= request->remote_address &&
			       head->to - request->remote_address < request->length;
		return request->opcode == IBV_WR_RDMA_WRITE_WITH_IMM && head->qn == QN_SEND &&
		       head->msn == request->msn;
	case IBV_WR_RDMA_READ:
	case IBV_WR_ATOMIC_CMP_AND_SWP:
	case IBV_WR_ATOMIC_FETCH_AND_ADD:
		return !head->tagged && head->qn == QN_READ_REQUEST && head->msn == request->msn;
	default:
		return !head->tagged && head->qn == QN_SEND && head->msn == request->msn;
	}
}

static enum ibv_wc_status
status_of(uint16_t error)
{
	switch (error) {
	case ERROR_INVALID_STAG:
	case ERROR_BASE_BOUNDS:
	case ERROR_ACCESS:
	case ERROR_STAG_NOT_ASSOCIATED:
	case ERROR_TO_WRAP:
	case ERROR_STAG_NOT_INVALIDATED:
	case ERROR_REMOTE_PROTECTION:
	case ERROR_TAGGED_INVALID_STAG:
	case ERROR_TAGGED_BOUNDS:
	case ERROR_TAGGED_NOT_ASSOCIATED:
	case ERROR_TAGGED_WRAP:
		return IBV_WC_REM_ACCESS_ERR;
	case ERROR_UNTAGGED_TOO_LONG:
	case ERROR_UNTAGGED_NO_BUFFER:
	case ERROR_UNTAGGED_MSN_RANGE:
	case ERROR_MPA_INSUFFICIENT_IRD:
		return IBV_WC_REM_INV_REQ_ERR;
	default:
		return IBV_WC_REM_OP_ERR;
	}
}

/* The first request that the peer has not taken as a whole, as far as it says. */
static uint32_t
not_taken(const struct sender *tx, const struct terminate *terminate)
{
	uint32_t position = tx->head;
	if (!tx->acknowledged || !terminate->has_taken)
		return position;
	while (position != tx->next &&
	       (int32_t)(terminate->taken - request_at(tx, position)->requested) >= 0)
		position++;
	return position;
}

void
sender_terminated(struct qp *qp, const struct terminate *terminate)
{
	struct sender *tx = &qp->tx;
	uint32_t first = not_taken(tx, terminate), position = first, end = tx->next;
	if (end != tx->tail && (tx->offset || tx->imm_sent))
		end++; /* partly on its way */
	if (terminate->has_head) {
		/* A read may fail that the peer has taken, when it is to be answered. */
		if (!terminate->head.tagged && terminate->head.qn == QN_READ_REQUEST)
			position = tx->head;
		while (position != end && !is_about(request_at(tx, position), terminate))
			position++;
		if (position == end)
			position = first;
	}
	/* Those before it are done, but for what a read or an atomic would have brought. */
	sender_complete(qp, without_outbound(tx, position));
	bool is_goodbye = terminate->has_taken && terminate->error == ERROR_MPA_CLOSED;
	if (position != end && !is_goodbye)
		request_at(tx, position)->failed = status_of(terminate->error);
}

/* ---- FPDUs ---- */

static struct out *
out_new(struct sender *tx, const struct fpdu_head *head)
{
	struct out *out = &tx->outs[tx->out_tail % OUT_RING];
	out->head = (uint16_t)fpdu_encode(out->bytes, head);
	out->segment_count = 0;
	out->is_response = out->ends_request = false;
	tx->requested += !parked_lets_pass(head->opcode);
	return out;
}

/* Padding and CRC; then it counts. */
static void
out_finish(struct qp *qp, struct out *out, uint32_t segments_size)
{
	uint8_t *tail = out->bytes + out->head;
	uint32_t ulpdu = out->head - 2u + segments_size;
	size_t padding = fpdu_padding(ulpdu);
	memset(tail, 0, padding);
	uint32_t crc = 0;
	if (qp->crc) {
		crc = crc32c(0, out->bytes, out->head);
		for (unsigned i = 0; i < out->segment_count; i++)
			crc = crc32c(crc, out->segments[i].iov_base, out->segments[i].iov_len);
		crc = crc32c(crc, tail, padding);
	}
	crc32c_put(tail + padding, crc);
	out->tail = (uint16_t)(padding + 4);
	out->size = out->head + segments_size + out->tail;
	qp->tx.out_tail++;
}

static void
out_append(struct out *out, const void *bytes, uint32_t size)
{
	memcpy(out->bytes + out->head, bytes, size);
	out->head = (uint16_t)(out->head + size);
}

/* The payload from pieces of regions: copied when it is small. */
static void
out_payload(struct qp *qp, struct out *out, const struct piece *pieces, unsigned count,
	    uint32_t size)
{
	if (size <= OUT_COPIED) {
		for (unsigned i = 0; i < count; i++)
			out_append(out, pieces[i].bytes, pieces[i].length);
		out_finish(qp, out, 0);
		return;
	}
	uint8_t *copy = qp->tx.copies;
	for (unsigned i = 0; i < count; i++) {
		out->segments[i] = (struct iovec){pieces[i].bytes, pieces[i].length};
		if (copy) {
			out->segments[i].iov_base = copy + qp->tx.copied;
			memcpy(copy + qp->tx.copied, pieces[i].bytes, pieces[i].length);
			qp->tx.copied += pieces[i].length;
		}
	}
	out->segment_count = (uint8_t)count;
	out_finish(qp, out, size);
}

static void
out_control(struct qp *qp, uint8_t opcode, uint32_t qn, uint32_t msn, const void *payload,
	    uint32_t size)
{
	struct fpdu_head head = {
		.last = true, .opcode = opcode, .payload = (uint16_t)size, .qn = qn, .msn = msn};
	struct out *out = out_new(&qp->tx, &head);
	out_append(out, payload, size);
	out_finish(qp, out, 0);
}

static void
out_read_request(struct qp *qp, const struct read_request *request)
{
	uint8_t bytes[READ_REQUEST_SIZE];
	read_request_encode(bytes, request);
	out_control(qp, RDMAP_READ_REQUEST, QN_READ_REQUEST, qp->tx.read_msn++, bytes,
		    sizeof(bytes));
}

void
sender_terminate(struct qp *qp, const struct terminate *terminate)
{
	struct sender *tx = &qp->tx;
	bool is_midway = tx->out_sent > 0;
	if (is_midway && tx->outs[tx->out_head % OUT_RING].segment_count && !tx->copies) {
		/* The program may take back the memory: the rest of that FPDU can't follow. */
		tx->out_tail = tx->out_head;
		tx->out_sent = 0;
		terminate = NULL;
	} else {
		tx->out_tail = tx->out_head + is_midway;
	}
	tx->inbound_head = tx->inbound_tail;
	tx->response_offset = 0;
	if (terminate) {
		uint8_t bytes[TERMINATE_MAX];
		struct terminate told = *terminate;
		told.has_taken = tx->acknowledged;
		told.taken = qp->rx.taken;
		size_t size = terminate_encode(bytes, &told);
		out_control(qp, RDMAP_TERMINATE, QN_TERMINATE, tx->terminate_msn++, bytes,
			    (uint32_t)size);
	}
	tx->closes = true;
	sender_recover(tx);
}

/* ---- responses ---- */

bool
sender_add_inbound(struct qp *qp, const struct inbound *inbound)
{
	struct sender *tx = &qp->tx;
	if (tx->inbound_tail - tx->inbound_head == qp->ird)
		return false;
	*inbound_at(tx, tx->inbound_tail++) = *inbound;
	return true;
}

void
sender_fail(struct sender *tx)
{
	atomic_store_explicit(&tx->has_failed, true, memory_order_relaxed);
}

void
sender_recover(struct sender *tx)
{
	atomic_store_explicit(&tx->has_failed, tx->is_lost, memory_order_relaxed);
}

void
sender_fail_response(struct sender *tx, uint16_t error, uint32_t msn)
{
	struct fpdu_head head = {.last = true,
				 .opcode = RDMAP_READ_REQUEST,
				 .payload = READ_REQUEST_SIZE,
				 .qn = QN_READ_REQUEST,
				 .msn = msn};
	tx->failure = (struct terminate){.error = error, .has_head = true, .head = head};
	sender_fail(tx);
}

/* The next FPDU of the oldest response. False: there is none before what is under way has gone. */
static bool
respond(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	const struct inbound *inbound = inbound_at(tx, tx->inbound_head);
	if (inbound->is_atomic) {
		uint8_t bytes[ATOMIC_RESPONSE_SIZE];
		atomic_response_encode(bytes, inbound->request_id, inbound->original);
		out_control(qp, RDMAP_ATOMIC_RESPONSE, QN_ATOMIC_RESPONSE,
			    tx->atomic_response_msn++, bytes, sizeof(bytes));
		tx->inbound_head++;
		return true;
	}
	const struct read_request *read = &inbound->read;
	uint32_t size = read->size - tx->response_offset;
	if (size > SEGMENT_MAX)
		size = SEGMENT_MAX;
	struct piece piece;
	uint16_t error;
	if (size && !piece_get(qp->ibv.pd, read->source_stag, read->source_to + tx->response_offset,
			       size, IBV_ACCESS_REMOTE_READ, &piece, &error)) {
		if (tx->out_head == tx->out_tail)
			sender_fail_response(tx, error, inbound->msn);
		return false;
	}
	struct fpdu_head head = {.tagged = true,
				 .last = tx->response_offset + size == read->size,
				 .opcode = RDMAP_READ_RESPONSE,
				 .payload = (uint16_t)size,
				 .stag = read->sink_stag,
				 .to = read->sink_to + tx->response_offset};
	struct out *out = out_new(tx, &head);
	out->is_response = true;
	out->rkey = read->source_stag;
	out->source = read->source_to + tx->response_offset;
	out->msn = inbound->msn;
	out_payload(qp, out, &piece, size ? 1 : 0, size);
	pieces_put(&piece, size ? 1 : 0);
	tx->response_offset += size;
	if (head.last) {
		tx->response_offset = 0;
		tx->inbound_head++;
	}
	return true;
}

/* ---- requests ---- */

static bool
has_outbound_room(const struct qp *qp)
{
	return qp->tx.outbound_tail - qp->tx.outbound_head < qp->ord;
}

static void
add_outbound(struct sender *tx, int kind, uint32_t position)
{
	struct outbound *outbound = outbound_at(tx, tx->outbound_tail++);
	outbound->kind = kind;
	outbound->request = position;
	/* Requests answer for all that was sent before them. */
	tx->acked_upto = tx->signalled_upto = position;
	tx->bytes_unasked = 0;
}

static bool
is_outbound(const struct request *request)
{
	return request->opcode == IBV_WR_RDMA_READ ||
	       request->opcode == IBV_WR_ATOMIC_CMP_AND_SWP ||
	       request->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
}

/* Whether the next request may start now. */
static bool
may_start(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	if (tx->next == tx->tail || atomic_load(&qp->state) != IBV_QPS_RTS)
		return false;
	struct request *request = request_at(tx, tx->next);
	if (!request->failed) {
		unsigned access = is_outbound(request) ? IBV_ACCESS_LOCAL_WRITE : 0;
		if (!sges_ok(qp->ibv.pd, request->sges, request->sge_count, access))
			request->failed = IBV_WC_LOC_PROT_ERR;
	}
	if (request->failed) {
		/* Those before it have nothing to do with that: they complete first. */
		if (tx->head == tx->next)
			sender_fail(tx);
		else
			tx->signalled_upto = tx->next;
		return false;
	}
	if (request->flags & IBV_SEND_FENCE && tx->outbound_tail - tx->outbound_head > tx->acks)
		return false;
	return !is_outbound(request) || has_outbound_room(qp);
}

static void
request_sent(struct qp *qp, struct request *request)
{
	struct sender *tx = &qp->tx;
	tx->next++;
	tx->offset = 0;
	tx->imm_sent = false;
	struct out *out = &tx->outs[(tx->out_tail - 1) % OUT_RING];
	out->ends_request = true;
	out->request = tx->next;
	request->requested = tx->requested;
	tx->bytes_unasked += request->length + FPDU_HEAD_MAX;
	if (request->flags & IBV_SEND_SIGNALED || qp->init.sq_sig_all)
		tx->signalled_upto = tx->next;
}

static void
send_imm(struct qp *qp, struct request *request, uint32_t of)
{
	uint8_t bytes[IMMEDIATE_SIZE];
	memcpy(bytes, &request->imm, 4);
	__be32 word = htobe32(of);
	memcpy(bytes + 4, &word, 4);
	bool is_last = of != IMM_OF_SEND;
	request->msn = qp->tx.send_msn;
	out_control(qp,
		    is_last && request->flags & IBV_SEND_SOLICITED ? RDMAP_IMMEDIATE_SE
								   : RDMAP_IMMEDIATE,
		    QN_SEND, qp->tx.send_msn++, bytes, sizeof(bytes));
	qp->tx.imm_sent = true;
}

static uint8_t
send_opcode(const struct request *request)
{
	bool solicited = request->flags & IBV_SEND_SOLICITED;
	if (request->opcode == IBV_WR_SEND_WITH_INV)
		return solicited ? RDMAP_SEND_SE_INVALIDATE : RDMAP_SEND_INVALIDATE;
	return solicited ? RDMAP_SEND_SE : RDMAP_SEND;
}

static void
request_outbound(struct qp *qp, struct request *request)
{
	struct sender *tx = &qp->tx;
	request->msn = tx->read_msn;
	if (request->opcode == IBV_WR_RDMA_READ) {
		struct read_request read = {
			.sink_stag = request->sge_count ? request->sges[0].lkey : 0,
			.sink_to = request->sge_count ? request->sges[0].addr : 0,
			.size = request->length,
			.source_stag = request->rkey,
			.source_to = request->remote_address};
		out_read_request(qp, &read);
		add_outbound(tx, OUTBOUND_READ, tx->next + 1);
	} else {
		bool adds = request->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
		struct atomic_request atomic = {
			.operation = adds ? ATOMIC_FETCH_ADD : ATOMIC_COMPARE_SWAP,
			.request_id = tx->next,
			.stag = request->rkey,
			.to = request->remote_address,
			.add_swap = adds ? request->compare_add : request->swap,
			.add_swap_mask = adds ? 0 : UINT64_MAX,
			.compare = adds ? 0 : request->compare_add,
			.compare_mask = adds ? 0 : UINT64_MAX};
		uint8_t bytes[ATOMIC_REQUEST_SIZE];
		atomic_request_encode(bytes, &atomic);
		out_control(qp, RDMAP_ATOMIC_REQUEST, QN_READ_REQUEST, tx->read_msn++, bytes,
			    sizeof(bytes));
		add_outbound(tx, OUTBOUND_ATOMIC, tx->next + 1);
	}
	request_sent(qp, request);
	tx->bytes_unasked = 0;
}

/* The next FPDU of a Write or a Send. */
static void
request_segment(struct qp *qp, struct request *request)
{
	struct sender *tx = &qp->tx;
	bool is_write = request->opcode == IBV_WR_RDMA_WRITE ||
			request->opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
	if (request->opcode == IBV_WR_SEND_WITH_IMM && !tx->imm_sent) {
		send_imm(qp, request, IMM_OF_SEND);
		return;
	}
	if (is_write && tx->imm_sent) {
		/* The data has gone: what is left is what tells of it. */
		tx->imm_sent = false;
		send_imm(qp, request, request->length);
		request_sent(qp, request);
		return;
	}
	uint32_t size = request->length - tx->offset;
	if (size > SEGMENT_MAX)
		size = SEGMENT_MAX;
	struct piece pieces[OUT_SEGMENTS];
	int count = 0;
	if (request->inline_data) {
		if (size > OUT_COPIED) {
			pieces[0] = (struct piece){.bytes = request->inline_data + tx->offset,
						   .length = size};
			count = 1;
		}
	} else if (size) {
		count = sge_pieces(qp->ibv.pd, request->sges, request->sge_count, tx->offset, size,
				   0, pieces, OUT_SEGMENTS, &size);
		if (count < 0) {
			request->failed = IBV_WC_LOC_PROT_ERR;
			sender_fail(tx);
			return;
		}
	}
	struct fpdu_head head = {.tagged = is_write,
				 .last = tx->offset + size == request->length,
				 .payload = (uint16_t)size};
	if (is_write) {
		head.opcode = RDMAP_WRITE;
		head.stag = request->rkey;
		head.to = request->remote_address + tx->offset;
	} else {
		head.opcode = send_opcode(request);
		head.stag = request->invalidate;
		head.qn = QN_SEND;
		head.msn = request->msn = tx->send_msn;
		head.mo = tx->offset;
	}
	struct out *out = out_new(tx, &head);
	if (request->inline_data && !count) {
		out_append(out, request->inline_data + tx->offset, size);
		out_finish(qp, out, 0);
	} else {
		out_payload(qp, out, pieces, (unsigned)count, size);
	}
	if (!request->inline_data)
		pieces_put(pieces, (unsigned)count);
	tx->offset += size;
	if (!head.last)
		return;
	if (!is_write)
		tx->send_msn++;
	if (request->opcode == IBV_WR_RDMA_WRITE_WITH_IMM)
		tx->imm_sent = true;
	else
		request_sent(qp, request);
}

void
sender_bare(struct qp *qp, const struct fpdu_head *head)
{
	out_finish(qp, out_new(&qp->tx, head), 0);
}

void
sender_ask(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	out_read_request(qp, &(struct read_request){0});
	add_outbound(tx, OUTBOUND_ACK, tx->next);
	tx->acks++;
}

static bool
wants_ack(const struct sender *tx)
{
	return tx->acknowledged && ((int32_t)(tx->signalled_upto - tx->acked_upto) > 0 ||
				    /* Those that want no completion must retire as well. */
				    2 * (tx->next - tx->acked_upto) > tx->limit);
}

static bool
may_ask(const struct qp *qp)
{
	const struct sender *tx = &qp->tx;
	return !tx->offset && !tx->imm_sent && has_outbound_room(qp) && tx->acks < ASK_MAX;
}

static void
ask_for_ack(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	if (wants_ack(tx) && may_ask(qp) && (!tx->acks || tx->bytes_unasked >= ASK_BYTES))
		sender_ask(qp);
}

static bool
takes_receive(const struct request *request)
{
	return !is_outbound(request) && request->opcode != IBV_WR_RDMA_WRITE;
}

/*
 * A Send may find no receive, and wait: what is before it must be able to complete without it.
 * Returns whether something was asked.
 */
static bool
ask_before_send(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	if (!tx->acknowledged || (int32_t)(tx->signalled_upto - tx->acked_upto) <= 0 ||
	    !may_ask(qp))
		return false;
	sender_ask(qp);
	return true;
}

void
sender_fill(struct qp *qp)
{
	struct sender *tx = &qp->tx;
	while (tx->out_tail - tx->out_head < OUT_RING && tx->copied <= OUT_COPIES - SEGMENT_MAX &&
	       !tx->has_failed) {
		bool responds = tx->inbound_head != tx->inbound_tail;
		if (tx->response_offset) {
			if (!respond(qp))
				break;
		} else if (tx->offset || tx->imm_sent) {
			request_segment(qp, request_at(tx, tx->next));
		} else if (responds && !tx->turn) {
			tx->turn = true;
			if (!respond(qp))
				break;
		} else if (may_start(qp)) {
			struct request *request = request_at(tx, tx->next);
			tx->turn = false;
			if (takes_receive(request) && ask_before_send(qp))
				continue;
			if (is_outbound(request))
				request_outbound(qp, request);
			else
				request_segment(qp, request);
			if (tx->bytes_unasked >= ASK_BYTES &&
			    tx->out_tail - tx->out_head < OUT_RING)
				ask_for_ack(qp);
		} else if (responds) {
			if (!respond(qp))
				break;
		} else {
			ask_for_ack(qp);
			break;
		}
	}
}

void
sender_answered(struct qp *qp)
{
	answered(qp);
	sender_sent(qp);
	if (qp->tx.next != qp->tx.tail || wants_ack(&qp->tx))
		sender_run(qp);
}
