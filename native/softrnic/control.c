/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * control.c -- messages that come whole: requests for reads and atomics, answers to atomics,
 * immediate data, and the Terminate.
 */
#include "receiver.h"

#include <endian.h>
#include <string.h>

static enum verdict
add_inbound(struct qp *qp, struct inbound *inbound)
{
	inbound->msn = qp->rx.read_msn++;
	pthread_mutex_lock(&qp->tx.lock);
	bool fits = sender_add_inbound(qp, inbound);
	pthread_mutex_unlock(&qp->tx.lock);
	/* More than this side said that it takes. */
	return fits ? CONTINUE : refuse(qp, ERROR_UNTAGGED_NO_BUFFER);
}

static enum verdict
handle_read_request(struct qp *qp, const uint8_t *payload)
{
	struct receiver *rx = &qp->rx;
	struct inbound inbound = {0};
	if (rx->head.msn != rx->read_msn)
		return refuse(qp, ERROR_UNTAGGED_MSN_RANGE);
	read_request_decode(payload, &inbound.read);
	if (inbound.read.size) {
		uint16_t error;
		if (!(qp->access & IBV_ACCESS_REMOTE_READ))
			return refuse_access(qp, ERROR_ACCESS, &inbound.read);
		struct mr *mr = mr_get(qp->ibv.pd, inbound.read.source_stag, inbound.read.source_to,
				       inbound.read.size, IBV_ACCESS_REMOTE_READ, &error);
		if (!mr)
			return refuse_access(qp, error, &inbound.read);
		mr_put(mr);
	}
	return add_inbound(qp, &inbound);
}

static enum verdict
handle_atomic_request(struct qp *qp, const uint8_t *payload)
{
	struct receiver *rx = &qp->rx;
	struct atomic_request atomic;
	uint16_t error;
	if (rx->head.msn != rx->read_msn)
		return refuse(qp, ERROR_UNTAGGED_MSN_RANGE);
	if (!atomic_request_decode(payload, &atomic))
		return refuse(qp, ERROR_UNEXPECTED_OPCODE);
	if (!(qp->access & IBV_ACCESS_REMOTE_ATOMIC) || atomic.to % 8)
		return refuse_access(qp, ERROR_ACCESS, NULL);
	struct piece piece;
	if (!piece_get(qp->ibv.pd, atomic.stag, atomic.to, 8, IBV_ACCESS_REMOTE_ATOMIC, &piece,
		       &error))
		return refuse_access(qp, error, NULL);
	uint64_t *word = piece.bytes;
	if ((uintptr_t)word & 7) { /* its place there is not what it is here */
		pieces_put(&piece, 1);
		return refuse_access(qp, ERROR_ACCESS, NULL);
	}
	struct inbound inbound = {.is_atomic = true, .request_id = atomic.request_id};
	uint64_t original = __atomic_load_n(word, __ATOMIC_SEQ_CST), wanted;
	do {
		if (atomic.operation == ATOMIC_FETCH_ADD)
			wanted = original + atomic.add_swap;
		else if ((original & atomic.compare_mask) == (atomic.compare & atomic.compare_mask))
			wanted = (original & ~atomic.add_swap_mask) |
				 (atomic.add_swap & atomic.add_swap_mask);
		else
			wanted = original;
	} while (!__atomic_compare_exchange_n(word, &original, wanted, false, __ATOMIC_SEQ_CST,
					      __ATOMIC_SEQ_CST));
	pieces_put(&piece, 1);
	inbound.original = original;
	return add_inbound(qp, &inbound);
}

static enum verdict
handle_atomic_response(struct qp *qp, const uint8_t *payload)
{
	struct receiver *rx = &qp->rx;
	struct sender *tx = &qp->tx;
	uint32_t request_id;
	uint64_t original;
	if (rx->head.msn != rx->atomic_response_msn)
		return refuse(qp, ERROR_UNTAGGED_MSN_RANGE);
	atomic_response_decode(payload, &request_id, &original);
	pthread_mutex_lock(&tx->lock);
	const struct outbound *outbound = outbound_at(tx, tx->outbound_head);
	bool is_expected = tx->outbound_head != tx->outbound_tail &&
			   outbound->kind == OUTBOUND_ATOMIC && request_id == outbound->request - 1;
	if (is_expected) {
		const struct request *request = request_at(tx, outbound->request - 1);
		struct piece pieces[PIECES];
		uint32_t covered;
		int count = sge_pieces(qp->ibv.pd, request->sges, request->sge_count, 0, 8,
				       IBV_ACCESS_LOCAL_WRITE, pieces, PIECES, &covered);
		uint32_t done = 0;
		for (int i = 0; i < count; i++) {
			place(pieces[i].bytes, (const uint8_t *)&original + done, pieces[i].length);
			done += pieces[i].length;
		}
		if (count > 0)
			pieces_put(pieces, (unsigned)count);
		rx->atomic_response_msn++;
		sender_answered(qp);
	}
	pthread_mutex_unlock(&tx->lock);
	return is_expected ? CONTINUE : refuse(qp, ERROR_UNEXPECTED_OPCODE);
}

static enum verdict
handle_immediate(struct qp *qp, const uint8_t *payload)
{
	struct receiver *rx = &qp->rx;
	uint32_t imm, of;
	memcpy(&imm, payload, 4);
	memcpy(&of, payload + 4, 4);
	if (rx->head.msn != rx->send_msn)
		return refuse(qp, ERROR_UNTAGGED_MSN_RANGE);
	if (rx->has_receive || rx->has_imm)
		return refuse(qp, ERROR_UNEXPECTED_OPCODE);
	if (be32toh(of) == IMM_OF_SEND) {
		rx->has_imm = true;
		rx->imm = imm;
		rx->send_msn++;
		return CONTINUE;
	}
	if (!take_receive(qp))
		return STALL;
	struct ibv_wc wc = {.opcode = IBV_WC_RECV_RDMA_WITH_IMM,
			    .byte_len = be32toh(of),
			    .wc_flags = IBV_WC_WITH_IMM,
			    .imm_data = imm};
	rx->send_msn++;
	complete_receive(qp, IBV_WC_SUCCESS, &wc, rx->head.opcode == RDMAP_IMMEDIATE_SE);
	return CONTINUE;
}

static enum verdict
handle_terminate(struct qp *qp, const uint8_t *payload)
{
	struct terminate terminate;
	(void)terminate_decode(payload, qp->rx.head.payload, &terminate);
	pthread_mutex_lock(&qp->tx.lock);
	sender_terminated(qp, &terminate);
	pthread_mutex_unlock(&qp->tx.lock);
	qp_break_receiving(qp, NULL, false);
	return BROKEN;
}

bool
control_is(uint8_t opcode)
{
	return opcode == RDMAP_READ_REQUEST || opcode >= RDMAP_TERMINATE;
}

enum verdict
control_handle(struct qp *qp, uint32_t head_size)
{
	struct receiver *rx = &qp->rx;
	const struct fpdu_head *head = &rx->head;
	const uint8_t *payload = rx->buffer + rx->start + head_size;
	uint32_t size = head_size + head->payload;
	size += (uint32_t)fpdu_padding(size - 2);
	if (rx->end - rx->start < size + 4)
		return NEED_MORE;
	if (qp->crc &&
	    !crc32c_matches(rx->buffer + rx->start + size, crc32c(0, rx->buffer + rx->start, size)))
		return refuse_bytes(qp, ERROR_MPA_CRC);
	if (head->mo || !head->last)
		return refuse(qp, ERROR_UNTAGGED_MO);
	enum verdict verdict;
	switch (head->opcode) {
	case RDMAP_READ_REQUEST:
		verdict = handle_read_request(qp, payload);
		break;
	case RDMAP_ATOMIC_REQUEST:
		verdict = handle_atomic_request(qp, payload);
		break;
	case RDMAP_ATOMIC_RESPONSE:
		verdict = handle_atomic_response(qp, payload);
		break;
	case RDMAP_TERMINATE:
		verdict = handle_terminate(qp, payload);
		break;
	default:
		verdict = handle_immediate(qp, payload);
		break;
	}
	if (verdict == CONTINUE) {
		rx->start += size + 4;
		rx->taken += !parked_lets_pass(head->opcode);
	}
	return verdict;
}

bool
control_size_ok(const struct fpdu_head *head)
{
	switch (head->opcode) {
	case RDMAP_READ_REQUEST:
		return head->payload == READ_REQUEST_SIZE;
	case RDMAP_ATOMIC_REQUEST:
		return head->payload == ATOMIC_REQUEST_SIZE;
	case RDMAP_ATOMIC_RESPONSE:
		return head->payload == ATOMIC_RESPONSE_SIZE;
	case RDMAP_TERMINATE:
		return head->payload <= TERMINATE_MAX;
	default:
		return head->payload == IMMEDIATE_SIZE;
	}
}
