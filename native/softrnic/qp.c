/* SPDX-License-Identifier: BSD-3-Clause */
/* qp.c -- queue pairs: their states, from creation to the end of the stream. */
#include "softrnic.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long the peer may take to close its side once this one has. */
#define LINGER_NS 1000000000LL

#define TABLE_SIZE 1024

uint32_t positions_begin;

/* Queue pairs by number, of this process. */
static struct {
	pthread_mutex_t lock;
	struct qp *chains[TABLE_SIZE];
	uint32_t next_number;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER, .next_number = 2};

/* ---- look-up ---- */

static struct qp **
link_of(uint32_t number)
{
	struct qp **link = &table.chains[number % TABLE_SIZE];
	while (*link && (*link)->ibv.qp_num != number)
		link = &(*link)->next_in_table;
	return link;
}

static void
add_to_table(struct qp *qp)
{
	pthread_mutex_lock(&table.lock);
	struct qp **link;
	do {
		table.next_number = (table.next_number + 1) & 0xffffff;
		link = link_of(table.next_number);
	} while (table.next_number < 2 || *link);
	qp->ibv.qp_num = qp->ibv.handle = table.next_number;
	*link = qp;
	pthread_mutex_unlock(&table.lock);
}

static void
remove_from_table(struct qp *qp)
{
	pthread_mutex_lock(&table.lock);
	struct qp **link = link_of(qp->ibv.qp_num);
	*link = qp->next_in_table;
	pthread_mutex_unlock(&table.lock);
}

SOFTRNIC_EXPORT struct ibv_qp *
qp_find(uint32_t qp_num)
{
	pthread_mutex_lock(&table.lock);
	struct qp *qp = *link_of(qp_num);
	if (qp)
		qp_get(qp);
	pthread_mutex_unlock(&table.lock);
	return qp ? &qp->ibv : NULL;
}

SOFTRNIC_EXPORT void
qp_put(struct ibv_qp *qp)
{
	qp_release(to_qp(qp));
}

void
qp_get(struct qp *qp)
{
	source_get(&qp->source);
}

void
qp_release(struct qp *qp)
{
	source_put(&qp->source);
}

/* ---- events for the connection manager ---- */

void
qp_tell(struct qp *qp)
{
	if (!atomic_load_explicit(&qp->owes_established, memory_order_relaxed) &&
	    !atomic_load_explicit(&qp->owes_ended, memory_order_relaxed))
		return;
	pthread_mutex_lock(&qp->events_lock);
	if (atomic_exchange(&qp->owes_established, false) && qp->events.established)
		qp->events.established(qp->events.argument);
	if (atomic_exchange(&qp->owes_ended, false) && qp->events.ended)
		qp->events.ended(qp->events.argument);
	pthread_mutex_unlock(&qp->events_lock);
}

SOFTRNIC_EXPORT void
qp_forget_events(struct ibv_qp *ibv_qp, const void *argument)
{
	struct qp *qp = to_qp(ibv_qp);
	pthread_mutex_lock(&qp->events_lock);
	if (qp->events.argument == argument)
		qp->events = (struct stream_events){0};
	pthread_mutex_unlock(&qp->events_lock);
}

/* ---- the end of a stream ---- */

static void
close_stream(struct qp *qp)
{
	if (!qp->has_stream)
		return;
	pthread_mutex_lock(&qp->tx.lock); /* the sender is not at the socket, and won't be */
	qp->has_stream = false;
	pthread_mutex_unlock(&qp->tx.lock);
	parked_free(&qp->rx);
	int fd = qp->source.fd;
	engine_remove(&qp->source);
	engine_forget_fd(fd);
	/* Also for a copy of the descriptor that some child of this process may have. */
	shutdown(fd, SHUT_RDWR);
	uncancelled_close(fd);
	atomic_store(&qp->owes_ended, true);
}

/* What becomes of what was posted and has not been completed. */
enum posted { FLUSHED, FORGOTTEN };

static void
end_receives(struct qp *qp, enum posted posted)
{
	struct receiver *rx = &qp->rx;
	struct srq *srq = qp->init.srq ? container_of(qp->init.srq, struct srq, ibv) : NULL;
	if (rx->has_receive && posted == FLUSHED)
		receive_flush(qp, rx->receive.wr_id);
	rx->has_receive = false;
	if (srq)
		srq_unstall(srq, qp);
	else if (posted == FLUSHED)
		receive_queue_flush(qp);
	else
		receive_queue_forget(&qp->rq);
	if (srq && posted == FLUSHED)
		async_report(qp->ibv.context, IBV_EVENT_QP_LAST_WQE_REACHED, &qp->ibv,
			     &qp->async_reported);
}

/* The end that a program wants. It tells what has been taken, if the peer is one of us. */
static const struct terminate goodbye = {.error = ERROR_MPA_CLOSED};

/* With rx.lock. */
static void
end_stream(struct qp *qp, const struct terminate *terminate, bool is_over, enum posted posted)
{
	bool is_first;
	pthread_mutex_lock(&qp->tx.lock);
	is_first = atomic_exchange(&qp->state, IBV_QPS_ERR) != IBV_QPS_ERR;
	qp->ibv.state = IBV_QPS_ERR;
	if (posted == FORGOTTEN)
		qp->tx.forgets = true;
	if (is_first) {
		/* What has come in is answered, as the peer may count on it. */
		sender_recover(&qp->tx);
		if (qp->has_stream && !is_over)
			sender_run(qp);
		sender_flush(qp);
		if (qp->has_stream && !is_over) {
			/* No other device expects to be told that nothing is wrong. */
			bool is_told = terminate != &goodbye ||
				       (qp->tx.acknowledged && !qp->tx.waits_first);
			sender_terminate(qp, is_told ? terminate : NULL);
			qp->tx.waits_first = false;
			sender_run(qp);
		}
	}
	pthread_mutex_unlock(&qp->tx.lock);
	if (is_first) {
		qp->rx.state = IN_OVER;
		qp->rx.start = qp->rx.end = 0;
		qp->rx.is_stalled = qp->rx.is_full = false;
		end_receives(qp, posted);
	}
	if (is_over)
		close_stream(qp);
	else if (is_first && qp->has_stream) {
		(void)engine_change(&qp->source, EPOLLIN, 0); /* it may have been stalled */
		engine_set_deadline(&qp->source, engine_now() + LINGER_NS);
	}
}

void
qp_break_receiving(struct qp *qp, const struct terminate *terminate, bool is_over)
{
	end_stream(qp, terminate, is_over, FLUSHED);
}

void
qp_break_failed(struct qp *qp)
{
	pthread_mutex_lock(&qp->tx.lock);
	struct terminate terminate = qp->tx.failure;
	pthread_mutex_unlock(&qp->tx.lock);
	/* What the peer has said before it went away explains more than that it did. */
	receiver_catch_up(qp);
	/* What this side has done wrong is not its peer's affair. */
	qp_break_receiving(qp, terminate.has_head ? &terminate : &goodbye, false);
}

void
post_done(struct qp *qp)
{
	if (!atomic_load_explicit(&qp->tx.has_failed, memory_order_relaxed) ||
	    atomic_load(&qp->state) == IBV_QPS_ERR)
		return;
	pthread_mutex_lock(&qp->rx.lock);
	qp_break_failed(qp);
	pthread_mutex_unlock(&qp->rx.lock);
	qp_tell(qp);
}

/* What is there by then is received first, and told of. */
static void
say_goodbye(struct qp *qp)
{
	pthread_mutex_lock(&qp->rx.lock);
	receiver_catch_up(qp);
	end_stream(qp, &goodbye, false, FLUSHED);
	pthread_mutex_unlock(&qp->rx.lock);
	qp_tell(qp);
}

SOFTRNIC_EXPORT void
qp_disconnect(struct ibv_qp *ibv_qp)
{
	struct qp *qp = to_qp(ibv_qp);
	if (engine_usable())
		return;
	say_goodbye(qp);
}

/* ---- the stream's socket ---- */

static void
ready(struct source *source, uint32_t events)
{
	struct qp *qp = container_of(source, struct qp, source);
	if (events & EPOLLOUT)
		sender_retry(qp);
	if (qp->rx.is_full && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		receiver_skip(qp); /* what waits for a receive will not get one */
	if (events & ~(uint32_t)EPOLLOUT)
		receiver_run(qp, BY_PROGRESS);
	post_done(qp);
}

/* The peer has not closed in time. */
static void
expired(struct source *source)
{
	struct qp *qp = container_of(source, struct qp, source);
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	int left;
	pthread_mutex_lock(&qp->rx.lock);
	if (atomic_load(&qp->state) == IBV_QPS_ERR) { /* else it has been reset, just now */
		/* A peer that does not read would not get to know of the end behind the rest. */
		if (qp->has_stream && ioctl(source->fd, SIOCOUTQ, &left) == 0 && left)
			(void)uncancelled_connect(source->fd, &nobody, sizeof(nobody));
		qp_break_receiving(qp, NULL, true);
	}
	pthread_mutex_unlock(&qp->rx.lock);
	qp_tell(qp);
}

static void
free_stream_buffers(struct qp *qp)
{
	free(qp->tx.outs);
	free(qp->tx.copies);
	free(qp->tx.inbounds);
	free(qp->tx.outbounds);
	free(qp->rx.buffer);
	qp->tx.outs = NULL;
	qp->tx.copies = NULL;
	qp->tx.inbounds = NULL;
	qp->tx.outbounds = NULL;
	qp->rx.buffer = NULL;
}

static void
release(struct source *source)
{
	struct qp *qp = container_of(source, struct qp, source);
	free_stream_buffers(qp);
	free(qp->tx.requests);
	free(qp->tx.sges);
	free(qp->tx.inline_data);
	if (!qp->init.srq)
		receive_queue_fini(&qp->rq);
	pthread_mutex_destroy(&qp->tx.lock);
	pthread_mutex_destroy(&qp->rx.lock);
	pthread_mutex_destroy(&qp->events_lock);
	pthread_mutex_destroy(&qp->batch_lock);
	free(qp);
}

/* With room for so many, and at least one. */
static void *
new_ring(uint32_t count, size_t size, uint32_t *mask)
{
	uint32_t places = 1;
	while (places < count)
		places *= 2;
	*mask = places - 1;
	return calloc(places, size);
}

static int
allocate_stream_buffers(struct qp *qp, const struct stream_setup *setup)
{
	free_stream_buffers(qp);
	qp->tx.outs = calloc(OUT_RING, sizeof(*qp->tx.outs));
	qp->tx.copies = setup->crc ? malloc(OUT_COPIES) : NULL;
	qp->tx.copied = 0;
	qp->tx.inbounds = new_ring(setup->ird, sizeof(*qp->tx.inbounds), &qp->tx.inbound_mask);
	qp->tx.outbounds = new_ring(setup->ord, sizeof(*qp->tx.outbounds), &qp->tx.outbound_mask);
	qp->rx.buffer = malloc(IN_BUFFER);
	if (qp->tx.outs && qp->tx.inbounds && qp->tx.outbounds && qp->rx.buffer &&
	    (qp->tx.copies || !setup->crc))
		return 0;
	free_stream_buffers(qp);
	return ENOMEM;
}

/* The first FPDU of an initiator, which lets the responder send. */
static void
send_ready_to_receive(struct qp *qp, enum ready_to_receive rtr)
{
	struct fpdu_head head = {.last = true};
	switch (rtr) {
	case RTR_NONE:
		return;
	case RTR_WRITE:
		head.tagged = true;
		head.opcode = RDMAP_WRITE;
		break;
	case RTR_SEND:
		head.opcode = RDMAP_SEND;
		head.qn = QN_SEND;
		head.msn = qp->tx.send_msn++;
		break;
	case RTR_READ:
		sender_ask(qp);
		return;
	}
	sender_bare(qp, &head);
}

SOFTRNIC_EXPORT int
qp_connect(struct ibv_qp *ibv_qp, const struct stream_setup *setup)
{
	struct qp *qp = to_qp(ibv_qp);
	int ret = engine_usable();
	if (ret)
		return ret;
	if (!setup->ird || !setup->ord || setup->ird > MPA_RD_MAX || setup->ord > MPA_RD_MAX ||
	    setup->received_size > IN_BUFFER)
		return EINVAL;
	pthread_mutex_lock(&qp->rx.lock);
	pthread_mutex_lock(&qp->tx.lock);
	int state = atomic_load(&qp->state);
	if (qp->has_stream ||
	    (state != IBV_QPS_INIT && state != IBV_QPS_RTR && state != IBV_QPS_RTS))
		ret = EINVAL;
	if (!ret)
		ret = allocate_stream_buffers(qp, setup);
	if (!ret) {
		struct sender *tx = &qp->tx;
		struct receiver *rx = &qp->rx;
		qp->crc = setup->crc;
		tx->acknowledged = setup->acknowledges;
		tx->sent_upto = tx->head;
		qp->ird = setup->ird;
		qp->ord = setup->ord;
		qp->first_awaited = tx->waits_first = setup->awaits_first;
		uint32_t first = positions_begin + 1;
		tx->send_msn = tx->read_msn = tx->atomic_response_msn = tx->terminate_msn = first;
		rx->send_msn = rx->read_msn = rx->atomic_response_msn = first;
		tx->requested = rx->taken = positions_begin;
		rx->start = 0;
		rx->end = (uint32_t)setup->received_size;
		if (rx->end)
			memcpy(rx->buffer, setup->received, rx->end);
		rx->state = IN_HEAD;
		qp->source.fd = setup->fd;
		(void)fcntl(setup->fd, F_SETFL, fcntl(setup->fd, F_GETFL) | O_NONBLOCK);
		qp->has_stream = true;
		pthread_mutex_lock(&qp->events_lock);
		qp->events = setup->events;
		qp->owes_established = qp->owes_ended = false;
		pthread_mutex_unlock(&qp->events_lock);
		qp->ibv.state = IBV_QPS_RTS;
		atomic_store(&qp->state, IBV_QPS_RTS);
		engine_close_in_child(setup->fd);
		ret = engine_add(&qp->source, EPOLLIN | EPOLLRDHUP);
		if (ret) {
			qp->has_stream = false;
			engine_forget_fd(setup->fd);
			atomic_store(&qp->state, IBV_QPS_INIT);
			qp->ibv.state = IBV_QPS_INIT;
		} else {
			send_ready_to_receive(qp, setup->rtr);
			sender_run(qp);
		}
	}
	pthread_mutex_unlock(&qp->tx.lock);
	pthread_mutex_unlock(&qp->rx.lock);
	if (!ret && setup->received_size)
		receiver_run(qp, BY_PROGRESS);
	if (!ret)
		post_done(qp);
	return ret;
}

/* ---- creation ---- */

static void
begin_positions(struct sender *tx)
{
	tx->head = tx->next = tx->tail = tx->sent_upto = positions_begin;
	tx->acked_upto = tx->signalled_upto = positions_begin;
	tx->out_head = tx->out_tail = positions_begin;
	tx->inbound_head = tx->inbound_tail = positions_begin;
	tx->outbound_head = tx->outbound_tail = positions_begin;
}

static int
check_init(const struct ibv_qp_init_attr_ex *attr)
{
	const struct ibv_qp_cap *cap = &attr->cap;
	if (attr->qp_type != IBV_QPT_RC)
		return EOPNOTSUPP;
	if (!(attr->comp_mask & IBV_QP_INIT_ATTR_PD) || !attr->pd || !attr->send_cq ||
	    !attr->recv_cq)
		return EINVAL;
	if (attr->comp_mask & ~(uint32_t)(IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS |
					  IBV_QP_INIT_ATTR_CREATE_FLAGS))
		return EOPNOTSUPP;
	if (attr->comp_mask & IBV_QP_INIT_ATTR_CREATE_FLAGS && attr->create_flags)
		return EOPNOTSUPP;
	if (cap->max_send_wr > MAX_QUEUE || cap->max_recv_wr > MAX_QUEUE ||
	    cap->max_send_sge > MAX_SGE || cap->max_recv_sge > MAX_SGE ||
	    cap->max_inline_data > MAX_INLINE)
		return EINVAL;
	return 0;
}

static int
allocate_queues(struct qp *qp)
{
	struct ibv_qp_cap *cap = &qp->init.cap;
	if (!cap->max_send_sge)
		cap->max_send_sge = 1;
	qp->tx.requests = new_ring(cap->max_send_wr, sizeof(*qp->tx.requests), &qp->tx.mask);
	uint32_t size = qp->tx.mask + 1;
	qp->tx.limit = cap->max_send_wr = size; /* at least what was asked for */
	qp->tx.sges = calloc((size_t)size * cap->max_send_sge, sizeof(*qp->tx.sges));
	qp->tx.inline_data =
		cap->max_inline_data ? malloc((size_t)size * cap->max_inline_data) : NULL;
	if (!qp->tx.requests || !qp->tx.sges || (cap->max_inline_data && !qp->tx.inline_data))
		return ENOMEM;
	if (qp->init.srq)
		return 0;
	if (!cap->max_recv_wr)
		cap->max_recv_wr = 1;
	if (!cap->max_recv_sge)
		cap->max_recv_sge = 1;
	return receive_queue_init(&qp->rq, cap->max_recv_wr, cap->max_recv_sge);
}

struct ibv_qp *
create_qp_ex(struct ibv_context *context, struct ibv_qp_init_attr_ex *attr)
{
	int ret = engine_usable();
	if (!ret)
		ret = check_init(attr);
	struct qp *qp = ret ? NULL : calloc(1, sizeof(*qp));
	if (!ret && !qp)
		ret = ENOMEM;
	if (!ret) {
		source_init(&qp->source, -1, ready, expired, release);
		pthread_mutex_init(&qp->tx.lock, NULL);
		pthread_mutex_init(&qp->rx.lock, NULL);
		pthread_mutex_init(&qp->events_lock, NULL);
		pthread_mutex_init(&qp->batch_lock, NULL);
		qp->init = (struct ibv_qp_init_attr){.qp_context = attr->qp_context,
						     .send_cq = attr->send_cq,
						     .recv_cq = attr->recv_cq,
						     .srq = attr->srq,
						     .cap = attr->cap,
						     .qp_type = attr->qp_type,
						     .sq_sig_all = attr->sq_sig_all};
		begin_positions(&qp->tx);
		ret = allocate_queues(qp);
		if (!ret && attr->comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS)
			ret = post_ex_init(qp, attr->send_ops_flags);
		if (ret)
			qp_release(qp);
	}
	if (ret) {
		errno = ret;
		return NULL;
	}
	qp->ibv.context = context;
	qp->ibv.qp_context = attr->qp_context;
	qp->ibv.pd = attr->pd;
	qp->ibv.send_cq = attr->send_cq;
	qp->ibv.recv_cq = attr->recv_cq;
	qp->ibv.srq = attr->srq;
	qp->ibv.state = IBV_QPS_RESET; /* libibverbs's own idea, until it is modified */
	qp->ibv.qp_type = attr->qp_type;
	pthread_mutex_init(&qp->ibv.mutex, NULL);
	pthread_cond_init(&qp->ibv.cond, NULL);
	/* As iWARP's devices have it: what they call idle is INIT, and takes receives. */
	atomic_store(&qp->state, IBV_QPS_INIT);
	qp->rx.state = IN_OVER;
	qp->access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
	attr->cap = qp->init.cap;
	atomic_fetch_add(&container_of(attr->pd, struct pd, ibv)->users, 1);
	if (attr->srq)
		atomic_fetch_add(&container_of(attr->srq, struct srq, ibv)->users, 1);
	cq_attach(attr->send_cq, qp);
	if (attr->recv_cq != attr->send_cq)
		cq_attach(attr->recv_cq, qp);
	add_to_table(qp);
	object_count(OBJECT_QP, 1);
	engine_on_idle(owed_pay_all);
	return &qp->ibv;
}

struct ibv_qp *
ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	struct ibv_qp_init_attr_ex extended = {.qp_context = attr->qp_context,
					       .send_cq = attr->send_cq,
					       .recv_cq = attr->recv_cq,
					       .srq = attr->srq,
					       .cap = attr->cap,
					       .qp_type = attr->qp_type,
					       .sq_sig_all = attr->sq_sig_all,
					       .comp_mask = IBV_QP_INIT_ATTR_PD,
					       .pd = pd};
	struct ibv_qp *qp = create_qp_ex(pd->context, &extended);
	if (qp)
		attr->cap = extended.cap;
	return qp;
}

struct ibv_qp_ex *
ibv_qp_to_qp_ex(struct ibv_qp *qp)
{
	return to_qp(qp)->is_ex ? &to_qp(qp)->ex : NULL;
}

/* ---- states ---- */

/* As new. Nothing of what was posted completes. */
static void
reset(struct qp *qp)
{
	pthread_mutex_lock(&qp->rx.lock);
	end_stream(qp, &goodbye, false, FORGOTTEN);
	close_stream(qp);
	pthread_mutex_lock(&qp->tx.lock);
	struct sender *tx = &qp->tx;
	begin_positions(tx);
	qp->dest_qp_num = 0;
	tx->offset = tx->out_sent = tx->response_offset = tx->acks = tx->bytes_unasked = 0;
	tx->closes = tx->is_shut = tx->imm_sent = tx->turn = tx->waits_first = false;
	tx->blocked = tx->has_failed = tx->owes = tx->gathers = false;
	tx->failure = (struct terminate){0};
	tx->forgets = tx->is_lost = false;
	qp->rx.has_imm = qp->rx.has_receive = false;
	qp->rx.read_placed = qp->rx.received = 0;
	qp->rx.state = IN_OVER;
	if (!qp->init.srq)
		receive_queue_forget(&qp->rq);
	atomic_store(&qp->state, IBV_QPS_RESET);
	qp->ibv.state = IBV_QPS_RESET;
	pthread_mutex_unlock(&qp->tx.lock);
	pthread_mutex_unlock(&qp->rx.lock);
	qp_tell(qp);
	cq_clean(qp->ibv.send_cq, qp->ibv.qp_num);
	cq_clean(qp->ibv.recv_cq, qp->ibv.qp_num);
}

/*
 * Where `by_hand`, the program has told what the peer's queue pair is, as InfiniBand's connections
 * are made. Here that would wait for ever: only rdma_cm brings a stream along.
 */
static int
to_state(struct qp *qp, enum ibv_qp_state wanted, bool by_hand)
{
	static const enum ibv_qp_state before[] = {
		[IBV_QPS_INIT] = IBV_QPS_RESET,
		[IBV_QPS_RTR] = IBV_QPS_INIT,
		[IBV_QPS_RTS] = IBV_QPS_RTR,
	};
	int current, ret = 0;
	switch (wanted) {
	case IBV_QPS_RESET:
		reset(qp);
		return 0;
	case IBV_QPS_ERR:
		say_goodbye(qp);
		return 0;
	case IBV_QPS_INIT:
	case IBV_QPS_RTR:
	case IBV_QPS_RTS:
		pthread_mutex_lock(&qp->tx.lock);
		current = atomic_load(&qp->state);
		if (by_hand && !qp->has_stream && wanted != IBV_QPS_INIT) {
			ret = EOPNOTSUPP;
		} else if (current == (int)before[wanted] || current == (int)wanted) {
			atomic_store(&qp->state, wanted);
			qp->ibv.state = wanted;
		} else if (!qp->has_stream || current != IBV_QPS_RTS) {
			/* With a stream it is further: the connection manager has seen to it. */
			ret = EINVAL;
		}
		pthread_mutex_unlock(&qp->tx.lock);
		return ret;
	default:
		return EINVAL;
	}
}

int
ibv_modify_qp(struct ibv_qp *ibv_qp, struct ibv_qp_attr *attr, int mask)
{
	struct qp *qp = to_qp(ibv_qp);
	int ret = engine_usable();
	if (ret)
		return ret;
	if (mask & IBV_QP_CUR_STATE && (int)attr->cur_qp_state != atomic_load(&qp->state))
		return EINVAL;
	if (mask & IBV_QP_PORT && attr->port_num != 1)
		return EINVAL;
	if (mask & IBV_QP_STATE)
		ret = to_state(qp, attr->qp_state, mask & (IBV_QP_DEST_QPN | IBV_QP_AV));
	if (ret == EOPNOTSUPP)
		SAY_ONCE("ibv_modify_qp: queue pairs of this iWARP device are connected by rdma_cm "
			 "(rdma_connect and rdma_accept; perftest: -R), not by telling them "
			 "the number or the address of the peer's");
	if (ret)
		return ret;
	if (mask & IBV_QP_ACCESS_FLAGS)
		qp->access = attr->qp_access_flags;
	/* Nothing here depends on these: they are kept for who asks. */
	if (mask & IBV_QP_TIMEOUT)
		qp->timeout = attr->timeout;
	if (mask & IBV_QP_DEST_QPN)
		qp->dest_qp_num = attr->dest_qp_num;
	return 0;
}

int
ibv_query_qp(struct ibv_qp *ibv_qp, struct ibv_qp_attr *attr, int mask,
	     struct ibv_qp_init_attr *init)
{
	struct qp *qp = to_qp(ibv_qp);
	(void)mask;
	memset(attr, 0, sizeof(*attr));
	attr->qp_state = attr->cur_qp_state = (enum ibv_qp_state)atomic_load(&qp->state);
	attr->path_mtu = IBV_MTU_4096;
	attr->qp_access_flags = qp->access;
	attr->cap = qp->init.cap;
	attr->port_num = 1;
	attr->dest_qp_num = qp->dest_qp_num;
	attr->max_rd_atomic = (uint8_t)(qp->ord > 255 ? 255 : qp->ord);
	attr->max_dest_rd_atomic = (uint8_t)(qp->ird > 255 ? 255 : qp->ird);
	attr->timeout = qp->timeout;
	*init = qp->init;
	return 0;
}

int
ibv_destroy_qp(struct ibv_qp *ibv_qp)
{
	struct qp *qp = to_qp(ibv_qp);
	if (engine_usable())
		return EPERM;
	remove_from_table(qp);
	object_count(OBJECT_QP, -1);
	/* What was sent still arrives: the stream lingers on its own. */
	pthread_mutex_lock(&qp->rx.lock);
	end_stream(qp, &goodbye, false, FORGOTTEN);
	if (qp->has_stream)
		atomic_store(&qp->owes_ended, true);
	pthread_mutex_unlock(&qp->rx.lock);
	owed_forget(qp);
	qp_tell(qp);
	qp_forget_events(ibv_qp, qp->events.argument);
	/* It completes nothing any more: its completion queues may go. */
	cq_clean(ibv_qp->send_cq, ibv_qp->qp_num);
	cq_clean(ibv_qp->recv_cq, ibv_qp->qp_num);
	cq_detach(ibv_qp->send_cq, qp);
	if (ibv_qp->recv_cq != ibv_qp->send_cq)
		cq_detach(ibv_qp->recv_cq, qp);
	unsigned fetched = async_forget(ibv_qp->context, ibv_qp, &qp->async_reported);
	pthread_mutex_lock(&ibv_qp->mutex);
	while (ibv_qp->events_completed != fetched)
		uncancelled_cond_wait(&ibv_qp->cond, &ibv_qp->mutex);
	pthread_mutex_unlock(&ibv_qp->mutex);
	pthread_mutex_destroy(&ibv_qp->mutex);
	pthread_cond_destroy(&ibv_qp->cond);
	if (ibv_qp->srq)
		atomic_fetch_sub(&container_of(ibv_qp->srq, struct srq, ibv)->users, 1);
	atomic_fetch_sub(&container_of(ibv_qp->pd, struct pd, ibv)->users, 1);
	qp_release(qp);
	return 0;
}
