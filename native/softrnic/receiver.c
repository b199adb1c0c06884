/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * receiver.c -- from socket to memory: FPDUs are checked, placed and completed.
 *
 * Small FPDUs pass through a buffer, several at a time. The payload of a large one is received
 * straight into its place. Nothing that the peer says is believed: every length, key, range and
 * sequence number is checked before memory is touched, and again whenever reading goes on.
 */
#include "receiver.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* A payload with more than this left to come is received without the buffer. */
#define DIRECT_MIN 1024
/* Behind a large payload, room for its trailer and the next header. */
#define DIRECT_TAIL 64
/* A run ends after so many bytes, for the others' sake. */
#define RUN_BYTES (256 * 1024)
/* Acknowledgements wait for something to travel with during so many looks at the socket. */
#define OWED_ROUNDS 3

enum verdict
refuse(struct qp *qp, uint16_t error)
{
	struct terminate terminate = {.error = error, .has_head = true, .head = qp->rx.head};
	qp_break_receiving(qp, &terminate, false);
	return BROKEN;
}

enum verdict
refuse_bytes(struct qp *qp, uint16_t error)
{
	struct terminate terminate = {.error = error};
	qp_break_receiving(qp, &terminate, false);
	return BROKEN;
}

static void
report_access_error(struct qp *qp)
{
	async_report(qp->ibv.context, IBV_EVENT_QP_ACCESS_ERR, &qp->ibv, &qp->async_reported);
}

enum verdict
refuse_access(struct qp *qp, uint16_t error, const struct read_request *read)
{
	struct terminate terminate = {.error = error, .has_head = true, .head = qp->rx.head};
	if (read) {
		terminate.has_read = true;
		terminate.read = *read;
	}
	report_access_error(qp);
	qp_break_receiving(qp, &terminate, false);
	return BROKEN;
}

/* ---- receives ---- */

bool
take_receive(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	struct srq *srq = qp->init.srq ? container_of(qp->init.srq, struct srq, ibv) : NULL;
	rx->has_receive =
		srq ? srq_take(srq, &rx->receive) : receive_queue_take(&qp->rq, &rx->receive);
	rx->received = 0;
	return rx->has_receive;
}

void
complete_receive(struct qp *qp, enum ibv_wc_status status, struct ibv_wc *wc, bool solicited)
{
	wc->wr_id = qp->rx.receive.wr_id;
	wc->status = status;
	wc->qp_num = qp->ibv.qp_num;
	qp->rx.has_receive = false;
	cq_push(qp->ibv.recv_cq, wc, solicited);
}

static enum verdict
fail_receive(struct qp *qp, enum ibv_wc_status status, uint16_t error)
{
	struct ibv_wc wc = {.opcode = IBV_WC_RECV};
	complete_receive(qp, status, &wc, true);
	return refuse(qp, error);
}

/* ---- segments of data ---- */

static enum verdict
begin_write(struct qp *qp)
{
	const struct fpdu_head *head = &qp->rx.head;
	uint16_t error;
	if (!head->payload)
		return CONTINUE; /* neither key nor address count */
	if (!(qp->access & IBV_ACCESS_REMOTE_WRITE))
		return refuse_access(qp, ERROR_TAGGED_INVALID_STAG, NULL);
	struct mr *mr = mr_get(qp->ibv.pd, head->stag, head->to, head->payload,
			       IBV_ACCESS_REMOTE_WRITE, &error);
	if (!mr) {
		static const uint16_t tagged[] = {
			[ERROR_INVALID_STAG & 15] = ERROR_TAGGED_INVALID_STAG,
			[ERROR_BASE_BOUNDS & 15] = ERROR_TAGGED_BOUNDS,
			[ERROR_ACCESS & 15] = ERROR_TAGGED_INVALID_STAG,
			[ERROR_STAG_NOT_ASSOCIATED & 15] = ERROR_TAGGED_NOT_ASSOCIATED,
			[ERROR_TO_WRAP & 15] = ERROR_TAGGED_WRAP,
		};
		return refuse_access(qp, tagged[error & 15], NULL);
	}
	mr_put(mr);
	return CONTINUE;
}

/* The read that the next response must belong to; NULL: none is expected. Without tx.lock. */
static const struct request *
expected_read(struct qp *qp, bool *is_ack)
{
	struct sender *tx = &qp->tx;
	const struct request *request = NULL;
	*is_ack = false;
	pthread_mutex_lock(&tx->lock);
	if (tx->outbound_head != tx->outbound_tail) {
		const struct outbound *outbound = outbound_at(tx, tx->outbound_head);
		*is_ack = outbound->kind == OUTBOUND_ACK;
		if (outbound->kind == OUTBOUND_READ)
			request = request_at(tx, outbound->request - 1);
	}
	pthread_mutex_unlock(&tx->lock);
	return request;
}

static enum verdict
begin_response(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	const struct fpdu_head *head = &rx->head;
	bool is_ack;
	const struct request *request = expected_read(qp, &is_ack);
	if (is_ack && !head->payload && head->last)
		return CONTINUE;
	if (!request)
		return refuse(qp, is_ack ? ERROR_TAGGED_BOUNDS : ERROR_UNEXPECTED_OPCODE);
	uint64_t sink = request->sge_count ? request->sges[0].addr : 0;
	uint32_t key = request->sge_count ? request->sges[0].lkey : 0;
	if (head->payload > request->length - rx->read_placed ||
	    head->last != (head->payload == request->length - rx->read_placed))
		return refuse(qp, ERROR_TAGGED_BOUNDS);
	if (head->payload && head->stag != key)
		return refuse(qp, ERROR_TAGGED_INVALID_STAG);
	if (head->payload && head->to != sink + rx->read_placed)
		return refuse(qp, ERROR_TAGGED_BOUNDS);
	return CONTINUE;
}

static enum verdict
begin_send(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	const struct fpdu_head *head = &rx->head;
	if (head->msn != rx->send_msn)
		return refuse(qp, ERROR_UNTAGGED_MSN_RANGE);
	if (head->mo != (rx->has_receive ? rx->received : 0))
		return refuse(qp, ERROR_UNTAGGED_MO);
	if (!rx->has_receive) {
		if (!take_receive(qp))
			return STALL;
		if (!sges_ok(qp->ibv.pd, rx->receive.sges, rx->receive.sge_count,
			     IBV_ACCESS_LOCAL_WRITE))
			return fail_receive(qp, IBV_WC_LOC_PROT_ERR, ERROR_LOCAL_CATASTROPHIC);
	}
	if ((uint64_t)head->mo + head->payload > rx->receive.size)
		return fail_receive(qp, IBV_WC_LOC_LEN_ERR, ERROR_UNTAGGED_TOO_LONG);
	return CONTINUE;
}

/* Where the rest of the payload goes: pieces of regions, which are held; -1: taken back. */
static int
destination(struct qp *qp, uint32_t size, struct piece *pieces, uint32_t *covered)
{
	struct receiver *rx = &qp->rx;
	const struct fpdu_head *head = &rx->head;
	bool is_ack;
	uint16_t error;
	const struct request *request;
	switch (head->opcode) {
	case RDMAP_WRITE:
		if (!piece_get(qp->ibv.pd, head->stag, head->to + rx->placed, size,
			       IBV_ACCESS_REMOTE_WRITE, &pieces[0], &error))
			return -1;
		*covered = size;
		return 1;
	case RDMAP_READ_RESPONSE:
		request = expected_read(qp, &is_ack);
		return request ? sge_pieces(qp->ibv.pd, request->sges, request->sge_count,
					    rx->read_placed + rx->placed, size,
					    IBV_ACCESS_LOCAL_WRITE, pieces, PIECES, covered)
			       : -1;
	default:
		return sge_pieces(qp->ibv.pd, rx->receive.sges, rx->receive.sge_count,
				  head->mo + rx->placed, size, IBV_ACCESS_LOCAL_WRITE, pieces,
				  PIECES, covered);
	}
}

static enum verdict
lost_destination(struct qp *qp)
{
	switch (qp->rx.head.opcode) {
	case RDMAP_WRITE:
		return refuse_access(qp, ERROR_TAGGED_INVALID_STAG, NULL);
	case RDMAP_READ_RESPONSE:
		return refuse(qp, ERROR_LOCAL_CATASTROPHIC);
	default:
		return fail_receive(qp, IBV_WC_LOC_PROT_ERR, ERROR_LOCAL_CATASTROPHIC);
	}
}

void
place(void *to, const uint8_t *from, uint32_t size)
{
	if (size == 8 && !((uintptr_t)to & 7)) {
		uint64_t word;
		memcpy(&word, from, 8);
		__atomic_store_n((uint64_t *)to, word, __ATOMIC_RELEASE);
	} else {
		memcpy(to, from, size);
	}
}

/* As much of the payload as the buffer has. */
static enum verdict
place_buffered(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	while (rx->placed < rx->head.payload && rx->start < rx->end) {
		struct piece pieces[PIECES];
		uint32_t size = rx->head.payload - rx->placed, covered;
		if (size > rx->end - rx->start)
			size = rx->end - rx->start;
		int count = destination(qp, size, pieces, &covered);
		if (count <= 0)
			return lost_destination(qp);
		if (qp->crc)
			rx->crc = crc32c(rx->crc, rx->buffer + rx->start, covered);
		for (int i = 0; i < count; i++) {
			place(pieces[i].bytes, rx->buffer + rx->start, pieces[i].length);
			rx->start += pieces[i].length;
		}
		rx->placed += covered;
		pieces_put(pieces, (unsigned)count);
	}
	return rx->placed == rx->head.payload ? CONTINUE : NEED_MORE;
}

/* ---- the end of a segment ---- */

static void
end_response(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	rx->read_placed += rx->head.payload;
	if (!rx->head.last)
		return;
	rx->read_placed = 0;
	pthread_mutex_lock(&qp->tx.lock);
	sender_answered(qp);
	pthread_mutex_unlock(&qp->tx.lock);
}

static enum verdict
end_send(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	const struct fpdu_head *head = &rx->head;
	rx->received += head->payload;
	if (!head->last)
		return CONTINUE;
	struct ibv_wc wc = {.opcode = IBV_WC_RECV, .byte_len = rx->received};
	if (head->opcode == RDMAP_SEND_INVALIDATE || head->opcode == RDMAP_SEND_SE_INVALIDATE) {
		uint16_t error = mr_invalidate(qp->ibv.pd, head->stag);
		if (error)
			return refuse_access(qp, error, NULL);
		wc.wc_flags |= IBV_WC_WITH_INV;
		wc.invalidated_rkey = head->stag;
	}
	if (rx->has_imm) {
		wc.wc_flags |= IBV_WC_WITH_IMM;
		wc.imm_data = rx->imm;
		rx->has_imm = false;
	}
	rx->send_msn++;
	complete_receive(qp, IBV_WC_SUCCESS, &wc,
			 head->opcode == RDMAP_SEND_SE || head->opcode == RDMAP_SEND_SE_INVALIDATE);
	return CONTINUE;
}

static enum verdict
end_segment(struct qp *qp)
{
	switch (qp->rx.head.opcode) {
	case RDMAP_READ_RESPONSE:
		end_response(qp);
		return CONTINUE;
	case RDMAP_WRITE:
		return CONTINUE;
	default:
		return end_send(qp);
	}
}

/* ---- the machine ---- */

static void
first_has_come(struct qp *qp)
{
	if (!qp->first_awaited)
		return;
	qp->first_awaited = false;
	pthread_mutex_lock(&qp->tx.lock);
	qp->tx.waits_first = false;
	sender_run(qp);
	pthread_mutex_unlock(&qp->tx.lock);
	atomic_store(&qp->owes_established, true);
}

static enum verdict
handle_head(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	int size = fpdu_decode(rx->buffer + rx->start, rx->end - rx->start, &rx->head);
	if (!size)
		return NEED_MORE;
	if (size < 0)
		return refuse_bytes(qp, (uint16_t)-size);
	/* What waits for a receive must not be overtaken. */
	if (rx->is_stalled && !parked_lets_pass(rx->head.opcode))
		return STALL;
	if (control_is(rx->head.opcode)) {
		if (!control_size_ok(&rx->head))
			return refuse(qp, ERROR_DDP_CATASTROPHIC);
		enum verdict verdict = control_handle(qp, (uint32_t)size);
		if (verdict == CONTINUE)
			first_has_come(qp);
		return verdict;
	}
	enum verdict verdict = rx->head.opcode == RDMAP_WRITE           ? begin_write(qp)
			       : rx->head.opcode == RDMAP_READ_RESPONSE ? begin_response(qp)
									: begin_send(qp);
	if (verdict != CONTINUE)
		return verdict;
	rx->crc = qp->crc ? crc32c(0, rx->buffer + rx->start, (size_t)size) : 0;
	rx->trailer = (uint32_t)fpdu_padding((size_t)size - 2 + rx->head.payload) + 4;
	rx->start += (uint32_t)size;
	rx->placed = 0;
	rx->state = IN_PAYLOAD;
	return CONTINUE;
}

static enum verdict
handle_trailer(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	if (rx->end - rx->start < rx->trailer)
		return NEED_MORE;
	const uint8_t *padding = rx->buffer + rx->start;
	uint32_t size = rx->trailer - 4;
	if (qp->crc && !crc32c_matches(padding + size, crc32c(rx->crc, padding, size)))
		return refuse_bytes(qp, ERROR_MPA_CRC);
	rx->start += rx->trailer;
	rx->state = IN_HEAD;
	enum verdict verdict = end_segment(qp);
	if (verdict == CONTINUE) {
		rx->taken += !parked_lets_pass(rx->head.opcode);
		first_has_come(qp);
	}
	return verdict;
}

static enum verdict
digest(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	enum verdict verdict = CONTINUE;
	while (verdict == CONTINUE) {
		switch (rx->state) {
		case IN_HEAD:
			verdict = handle_head(qp);
			break;
		case IN_PAYLOAD:
			verdict = place_buffered(qp);
			if (verdict == CONTINUE)
				rx->state = IN_TRAILER;
			break;
		case IN_TRAILER:
			verdict = handle_trailer(qp);
			break;
		case IN_PARKING:
			parked_take(rx);
			verdict = rx->parked.left ? NEED_MORE : CONTINUE;
			break;
		case IN_OVER:
			return BROKEN;
		}
	}
	return verdict;
}

/*
 * Whether the message that lacks a receive waits for one: from now on who posts one kicks. One may
 * have been posted since.
 */
static bool
stalls(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	struct srq *srq = qp->init.srq ? container_of(qp->init.srq, struct srq, ibv) : NULL;
	if (rx->is_stalled)
		return true;
	atomic_store(&rx->is_stalled, true);
	if (srq)
		srq_stall(srq, qp);
	if (!receive_queue_length(srq ? &srq->rq : &qp->rq))
		return true;
	if (srq)
		srq_unstall(srq, qp);
	atomic_store(&rx->is_stalled, false);
	return false;
}

/* What the buffer has; what waits for a receive, and what follows it, is parked. */
static enum verdict
advance(struct qp *qp)
{
	for (;;) {
		enum verdict verdict = digest(qp);
		if (verdict != STALL)
			return verdict;
		if (!stalls(qp))
			continue;
		first_has_come(qp);
		if (!parked_begin(&qp->rx))
			return STALL;
	}
}

/* A receive has been posted: what is parked goes on. */
static void
resume(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	struct position stream;
	enum verdict verdict;
	if (rx->parked.skips)
		return;
	atomic_store(&rx->is_stalled, false);
	if (rx->parked.start == rx->parked.end)
		return;
	parked_enter(rx, &stream);
	do
		verdict = digest(qp);
	while (verdict == STALL && !stalls(qp));
	parked_leave(rx, &stream, verdict == STALL);
}

/* Payload into its place, and what follows it into the buffer, which is empty. */
static ssize_t
receive_directly(struct qp *qp, size_t *asked)
{
	struct receiver *rx = &qp->rx;
	struct piece pieces[PIECES];
	struct iovec iovecs[PIECES + 1];
	uint32_t size = rx->head.payload - rx->placed, covered = 0;
	int count = destination(qp, size, pieces, &covered);
	if (count <= 0) {
		(void)lost_destination(qp);
		errno = ECANCELED;
		return -1;
	}
	for (int i = 0; i < count; i++)
		iovecs[i] = (struct iovec){pieces[i].bytes, pieces[i].length};
	*asked = covered;
	unsigned used = (unsigned)count;
	if (covered == size) {
		iovecs[used++] = (struct iovec){rx->buffer, DIRECT_TAIL};
		*asked += DIRECT_TAIL;
	}
	struct msghdr message = {.msg_iov = iovecs, .msg_iovlen = used};
	ssize_t got = uncancelled_recvmsg(qp->source.fd, &message);
	if (got < 0 && errno == EFAULT && memory_mend(&message))
		got = uncancelled_recvmsg(qp->source.fd, &message);
	if (got > 0) {
		uint32_t placed = (size_t)got < covered ? (uint32_t)got : covered;
		for (int i = 0; qp->crc && i < count && placed; i++) {
			uint32_t part = placed < pieces[i].length ? placed : pieces[i].length;
			rx->crc = crc32c(rx->crc, pieces[i].bytes, part);
			placed -= part;
		}
		placed = (size_t)got < covered ? (uint32_t)got : covered;
		rx->placed += placed;
		rx->start = 0;
		rx->end = (uint32_t)got - placed;
	}
	pieces_put(pieces, (unsigned)count);
	return got;
}

static ssize_t
receive_buffered(struct qp *qp, size_t *asked)
{
	struct receiver *rx = &qp->rx;
	if (rx->start) {
		memmove(rx->buffer, rx->buffer + rx->start, rx->end - rx->start);
		rx->end -= rx->start;
		rx->start = 0;
	}
	*asked = IN_BUFFER - rx->end;
	ssize_t got = uncancelled_recv(qp->source.fd, rx->buffer + rx->end, *asked);
	if (got > 0)
		rx->end += (uint32_t)got;
	return got;
}

/* After the end: whatever still comes is for nobody, up to the peer's own end. */
static void
drain(struct qp *qp)
{
	ssize_t got;
	size_t total = 0;
	do {
		got = uncancelled_recv(qp->source.fd, qp->rx.buffer, IN_BUFFER);
		total += got > 0 ? (size_t)got : 0;
	} while ((got > 0 && total < RUN_BYTES) || (got < 0 && errno == EINTR));
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK))
		qp_break_receiving(qp, NULL, true);
}

/* With rx.lock. */
static void
run(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	size_t total = 0;
	/* What was left in the buffer when there was no room for it comes first. */
	enum verdict verdict = rx->start != rx->end ? advance(qp) : NEED_MORE;
	while (verdict == NEED_MORE && total < RUN_BYTES) {
		size_t asked = 0;
		bool is_direct = rx->state == IN_PAYLOAD && rx->start == rx->end &&
				 rx->head.payload - rx->placed >= DIRECT_MIN;
		ssize_t got =
			is_direct ? receive_directly(qp, &asked) : receive_buffered(qp, &asked);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (rx->state == IN_OVER)
			return;
		if (got <= 0) {
			qp_break_receiving(qp, NULL, true);
			return;
		}
		total += (size_t)got;
		verdict = advance(qp);
		if ((size_t)got < asked)
			break; /* the socket is empty: no need to ask */
	}
	if (verdict == STALL) {
		rx->is_full = true;
		(void)engine_change(&qp->source, 0, EPOLLIN);
	}
}

/* Answers to what has come; mere acknowledgements may travel with what the program sends next. */
static void
answer(struct qp *qp, enum served_by by)
{
	struct sender *tx = &qp->tx;
	pthread_mutex_lock(&tx->lock);
	if (tx->inbound_head != tx->inbound_tail && !tx->blocked) {
		const struct inbound *first = inbound_at(tx, tx->inbound_head);
		/* Only where the program sends, too: then it is likely to do so again. */
		bool owed = tx->inbound_tail - tx->inbound_head == 1 && !first->is_atomic &&
			    !first->read.size && tx->tail != tx->tail_answered &&
			    (by == BY_POLLER || engine_is_attended());
		tx->tail_answered = tx->tail;
		if (owed && !atomic_load_explicit(&tx->owes, memory_order_relaxed)) {
			tx->owed_rounds = 0;
			owed = owed_add(qp);
		} else if (++tx->owed_rounds >= OWED_ROUNDS) {
			owed = false;
		}
		if (!owed)
			sender_run(qp);
	}
	pthread_mutex_unlock(&tx->lock);
}

void
receiver_catch_up(struct qp *qp)
{
	if (qp->has_stream && qp->rx.state != IN_OVER && !qp->rx.is_full)
		run(qp);
}

static void
finish(struct qp *qp, enum served_by by)
{
	if (qp->rx.state != IN_OVER)
		answer(qp, by);
	if (atomic_load_explicit(&qp->tx.has_failed, memory_order_relaxed))
		qp_break_failed(qp);
}

void
receiver_run(struct qp *qp, enum served_by by)
{
	struct receiver *rx = &qp->rx;
	if (pthread_mutex_trylock(&rx->lock)) {
		/* To ask again and again would keep the processor from who has it. */
		engine_step_back();
		return;
	}
	if (qp->has_stream) {
		if (rx->state == IN_OVER) {
			drain(qp);
		} else {
			if (!rx->is_full)
				run(qp);
			finish(qp, by);
			/* Behind the peer's last message its end is there as a rule. */
			if (rx->state == IN_OVER && qp->has_stream)
				drain(qp);
		}
	}
	pthread_mutex_unlock(&rx->lock);
	qp_tell(qp);
}

void
receiver_skip(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	pthread_mutex_lock(&rx->lock);
	if (qp->has_stream && atomic_exchange(&rx->is_full, false)) {
		rx->parked.skips = true;
		(void)engine_change(&qp->source, EPOLLIN, 0);
	}
	pthread_mutex_unlock(&rx->lock);
}

void
receiver_kick(struct qp *qp)
{
	struct receiver *rx = &qp->rx;
	/* Who finds no receive looks again after it has said so. */
	if (!atomic_load(&rx->is_stalled))
		return;
	pthread_mutex_lock(&rx->lock);
	if (qp->has_stream && rx->is_stalled) {
		bool was_full = atomic_exchange(&rx->is_full, false);
		resume(qp);
		if (rx->state != IN_OVER)
			run(qp);
		if (was_full && !rx->is_full)
			(void)engine_change(&qp->source, EPOLLIN, 0);
		finish(qp, BY_PROGRESS);
	}
	pthread_mutex_unlock(&rx->lock);
	qp_tell(qp);
}
