/* SPDX-License-Identifier: BSD-3-Clause */
/* connection.c -- rpma_ep_*, rpma_conn_req_*, rpma_conn_*: from listening to the end. */
#include "binding.h"

#include <errno.h>
#include <string.h>

DELETER(ep_delete, struct rpma_ep, rpma_ep_shutdown)
DELETER(conn_req_delete, struct rpma_conn_req, rpma_conn_req_delete)
DELETER(conn_delete, struct rpma_conn, rpma_conn_delete)

/* ---- endpoints ---- */

int
rpmapy_ep_listen(struct rpmapy_peer *peer, const char *address, const char *port,
		 struct rpmapy_ep **out)
{
	int ret = handle_enter(&peer->handle);
	if (ret)
		return ret;
	struct rpmapy_ep *ep = handle_new(sizeof(*ep), ep_delete, &peer->handle, NULL);
	struct rpma_ep *object = NULL;
	if (ep) {
		call_begin();
		ret = rpma_ep_listen(peer->handle.object, address, port, &object);
	} else {
		ret = RPMA_E_NOMEM;
	}
	handle_leave(&peer->handle);
	if (!ret) {
		ep->handle.object = object;
		ep->peer = peer;
		ret = rpma_ep_get_fd(object, &ep->fd);
	}
	if (!ret)
		ret = set_nonblocking(ep->fd);
	if (ret) {
		if (ep)
			handle_discard(&ep->handle);
		return ret;
	}
	*out = ep;
	return 0;
}

int
rpmapy_ep_fd(struct rpmapy_ep *ep, int *fd)
{
	int ret = handle_enter(&ep->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_ep_get_fd(ep->handle.object, fd);
	handle_leave(&ep->handle);
	return ret;
}

/* ---- connection requests ---- */

static void
leave_cfg(struct rpmapy_conn_cfg *cfg, struct rpmapy_srq *srq)
{
	handle_done(HANDLE(cfg));
	handle_leave(HANDLE(srq));
	handle_leave(HANDLE(cfg));
}

/* The configuration's shared receive queue, entered; *srq is NULL where there is none. */
static int
enter_cfg(struct rpmapy_peer *peer, struct rpmapy_conn_cfg *cfg, struct rpmapy_srq **srq)
{
	*srq = NULL;
	int ret = handle_enter(HANDLE(cfg));
	if (ret)
		return ret;
	handle_read(HANDLE(cfg));
	if (!cfg || !cfg->srq)
		return 0;
	ret = handle_enter(&cfg->srq->handle);
	if (ret) {
		leave_cfg(cfg, NULL);
		return ret == RPMAPY_E_CLOSED ? RPMAPY_E_SRQ_CLOSED : ret;
	}
	*srq = cfg->srq;
	if ((*srq)->peer != &peer->handle) { /* not every device minds, and none says why */
		leave_cfg(cfg, *srq);
		return RPMAPY_E_ARGUMENT;
	}
	return 0;
}

static struct rpmapy_conn_req *
conn_req_handle(struct rpmapy_peer *peer, struct rpmapy_conn_cfg *cfg, struct rpmapy_srq *srq)
{
	struct rpmapy_conn_req *req =
		handle_new(sizeof(*req), conn_req_delete, &peer->handle, HANDLE(srq));
	if (!req)
		return NULL;
	req->common.peer = &peer->handle;
	/* librpma keeps its defaults to itself: ask a fresh configuration for them. */
	struct rpma_conn_cfg *defaults = NULL;
	struct rpma_conn_cfg *from = cfg ? cfg->handle.object : NULL;
	if (!from && !rpma_conn_cfg_new(&defaults))
		from = defaults;
	if (from) {
		(void)rpma_conn_cfg_get_sq_size(from, &req->common.sq_size);
		(void)rpma_conn_cfg_get_cq_size(from, &req->common.cq_size);
	}
	(void)rpma_conn_cfg_delete(&defaults);
	return req;
}

int
rpmapy_conn_req_new(struct rpmapy_peer *peer, const char *address, const char *port,
		    struct rpmapy_conn_cfg *cfg, bool is_second_attempt,
		    struct rpmapy_conn_req **out)
{
	struct rpmapy_srq *srq;
	int ret = handle_enter(&peer->handle);
	if (ret)
		return ret;
	ret = enter_cfg(peer, cfg, &srq);
	if (ret) {
		handle_leave(&peer->handle);
		return ret;
	}
	struct rpmapy_conn_req *req = conn_req_handle(peer, cfg, srq);
	struct rpma_conn_req *object = NULL;
	if (req) {
		struct attempt attempt;
		attempt_begin(&attempt, is_second_attempt);
		ret = rpma_conn_req_new(peer->handle.object, address, port,
					cfg ? cfg->handle.object : NULL, &object);
		ret = attempt_end(&attempt, ret);
	} else {
		ret = RPMA_E_NOMEM;
	}
	leave_cfg(cfg, srq);
	handle_leave(&peer->handle);
	if (ret) {
		if (req)
			handle_discard(&req->handle);
		return ret;
	}
	req->handle.object = object;
	*out = req;
	return 0;
}

int
rpmapy_ep_next_conn_req(struct rpmapy_ep *ep, struct rpmapy_conn_cfg *cfg, int64_t deadline,
			struct rpmapy_conn_req **out)
{
	struct rpmapy_srq *srq;
	unsigned ready;
	int ret = handle_enter(&ep->handle);
	if (ret)
		return ret;
	ret = enter_cfg(ep->peer, cfg, &srq);
	if (ret) {
		handle_leave(&ep->handle);
		return ret;
	}
	ret = wait_readable(ep->fd, -1, deadline, &ready);
	struct rpmapy_conn_req *req = NULL;
	struct rpma_conn_req *object = NULL;
	if (!ret) {
		req = conn_req_handle(ep->peer, cfg, srq);
		if (req) {
			handle_use(&ep->handle);
			call_begin();
			log_quiet_begin();
			ret = rpma_ep_next_conn_req(ep->handle.object,
						    cfg ? cfg->handle.object : NULL, &object);
			log_quiet_end();
			handle_done(&ep->handle);
			/* Another thread was faster. */
			if (ret == RPMA_E_NO_EVENT ||
			    (ret == RPMA_E_PROVIDER && call_failed_with(EAGAIN)))
				ret = RPMAPY_AGAIN;
		} else {
			ret = RPMA_E_NOMEM;
		}
	}
	leave_cfg(cfg, srq);
	handle_leave(&ep->handle);
	if (ret) {
		if (req)
			handle_discard(&req->handle);
		return ret;
	}
	req->handle.object = object;
	*out = req;
	return 0;
}

static int
copy_private_data(int ret, const struct rpma_conn_private_data *from, void *data, uint8_t *size)
{
	*size = 0;
	if (!ret && from->ptr) {
		memcpy(data, from->ptr, from->len);
		*size = from->len;
	}
	return ret;
}

/* data: room for 255 bytes. */
int
rpmapy_conn_req_private_data(struct rpmapy_conn_req *req, void *data, uint8_t *size)
{
	int ret = handle_enter(&req->handle);
	if (ret)
		return ret;
	struct rpma_conn_private_data got = {0};
	call_begin();
	ret = copy_private_data(rpma_conn_req_get_private_data(req->handle.object, &got), &got,
				data, size);
	handle_leave(&req->handle);
	return ret;
}

int
rpmapy_conn_req_recv(struct rpmapy_conn_req *req, struct rpmapy_local *dst, size_t offset,
		     size_t length, uint64_t wr_id)
{
	if (!dst || wr_id >= RPMAPY_WR_ID_RESERVED ||
	    !local_ok(req->common.peer, dst, RPMA_MR_USAGE_RECV, offset, length))
		return RPMAPY_E_ARGUMENT;
	int ret = handles_enter(&req->handle, &dst->handle, NULL);
	if (ret)
		return ret;
	handle_use(&req->handle);
	call_begin();
	ret = post_result(rpma_conn_req_recv(req->handle.object, dst->handle.object, offset, length,
					     (void *)(uintptr_t)wr_id));
	handle_done(&req->handle);
	handles_leave(&req->handle, &dst->handle, NULL);
	return ret;
}

/* ---- connections ---- */

static void
conn_finish(struct handle *handle)
{
	struct rpmapy_conn *conn = (struct rpmapy_conn *)handle;
	if (conn->cq.owner)
		cq_fini(&conn->cq);
	if (conn->has_rcq)
		cq_fini(&conn->rcq);
	pthread_mutex_destroy(&conn->events_lock);
}

static int
conn_setup(struct rpmapy_conn *conn, struct rpma_conn *object)
{
	struct rpma_cq *cq = NULL, *rcq = NULL;
	int ret = rpma_conn_get_event_fd(object, &conn->event_fd);
	if (!ret)
		ret = set_nonblocking(conn->event_fd);
	if (!ret)
		ret = rpma_conn_get_cq(object, &cq);
	if (!ret)
		ret = cq_init(&conn->cq, &conn->handle, conn, cq);
	if (!ret)
		ret = rpma_conn_get_rcq(object, &rcq);
	if (!ret && rcq) {
		ret = cq_init(&conn->rcq, &conn->handle, conn, rcq);
		conn->has_rcq = true;
	}
	if (ret)
		return ret;
	ret = rpma_conn_get_compl_fd(object, &conn->channel_fd);
	if (ret != RPMA_E_NOT_SHARED_CHNL)
		return ret;
	conn->channel_fd = -1;
	return 0;
}

/* The request is used up, whatever the outcome: librpma deletes it. */
int
rpmapy_conn_req_connect(struct rpmapy_conn_req *req, const void *data, uint8_t size,
			struct rpmapy_conn **out)
{
	struct rpmapy_conn *conn = handle_new(sizeof(*conn), conn_delete, req->handle.parents[0],
					      req->handle.parents[1]);
	if (!conn)
		return RPMA_E_NOMEM;
	pthread_mutex_init(&conn->events_lock, NULL);
	conn->handle.finish = conn_finish;
	conn->common = req->common;
	conn->channel_fd = -1;
	atomic_store(&conn->ended, RPMA_CONN_UNDEFINED);

	int ret = handle_begin_close(&req->handle);
	if (ret) {
		handle_discard(&conn->handle);
		return ret;
	}
	struct rpma_conn_private_data private_data = {.ptr = (void *)(uintptr_t)data, .len = size};
	struct rpma_conn_req *request = req->handle.object;
	struct rpma_conn *object = NULL;
	call_begin();
	ret = rpma_conn_req_connect(&request, size ? &private_data : NULL, &object);
	handle_end_close(&req->handle);
	if (!ret) {
		conn->handle.object = object;
		ret = conn_setup(conn, object);
	}
	if (ret) {
		handle_discard(&conn->handle);
		return ret;
	}
	*out = conn;
	return 0;
}

static void
note_event(struct rpmapy_conn *conn, int event)
{
	if (event == RPMA_CONN_ESTABLISHED) {
		atomic_store(&conn->established, true);
	} else {
		atomic_store(&conn->grace_until, now_ns() + FLUSH_GRACE_NS);
		atomic_store(&conn->ended, event);
	}
}

/* The next event of the channel, which may have none after all: RPMAPY_AGAIN. */
static int
take_event(struct rpmapy_conn *conn, int *event)
{
	enum rpma_conn_event got = RPMA_CONN_UNDEFINED;
	log_quiet_begin();
	pthread_mutex_lock(&conn->events_lock);
	int ret = rpma_conn_next_event(conn->handle.object, &got);
	pthread_mutex_unlock(&conn->events_lock);
	log_quiet_end();
	if (ret == RPMA_E_NO_EVENT || (ret == RPMA_E_PROVIDER && call_failed_with(EAGAIN)))
		return RPMAPY_AGAIN;
	*event = got;
	if (!ret)
		note_event(conn, got);
	return ret;
}

int
rpmapy_conn_next_event(struct rpmapy_conn *conn, int64_t deadline, int *event)
{
	int ret = handle_enter(&conn->handle);
	if (ret)
		return ret;
	unsigned ready;
	call_begin();
	pthread_mutex_lock(&conn->events_lock);
	bool kept = conn->events_length > 0;
	if (kept) {
		*event = conn->events[conn->events_head];
		conn->events_head = (conn->events_head + 1) % EVENTS;
		conn->events_length--;
	}
	pthread_mutex_unlock(&conn->events_lock);
	if (!kept) {
		ret = wait_readable(conn->event_fd, -1, deadline, &ready);
		if (!ret)
			ret = take_event(conn, event);
	}
	handle_leave(&conn->handle);
	return ret;
}

/*
 * An event met while waiting for completions. It is kept for next_event(). The end of the
 * connection is followed by a disconnect of this side, so that what is still posted completes as
 * flushed instead of being waited for in vain.
 */
static void
meet_event(struct rpmapy_conn *conn)
{
	int event;
	if (take_event(conn, &event))
		return;
	pthread_mutex_lock(&conn->events_lock);
	if (conn->events_length < EVENTS)
		conn->events[(conn->events_head + conn->events_length++) % EVENTS] = event;
	pthread_mutex_unlock(&conn->events_lock);
	if (atomic_load(&conn->ended) != RPMA_CONN_UNDEFINED) {
		log_quiet_begin();
		handle_use(&conn->handle);
		(void)rpma_conn_disconnect(conn->handle.object);
		handle_done(&conn->handle);
		log_quiet_end();
	}
}

static int
take_completion_event(struct rpmapy_conn *conn, struct rpmapy_cq *cq, bool *is_rcq)
{
	if (conn->channel_fd < 0)
		return rpma_cq_wait(cq->cq);
	struct rpma_cq *which = NULL;
	bool of_rcq = false;
	int ret = rpma_conn_wait(conn->handle.object, 0, &which, &of_rcq);
	if (ret)
		return ret;
	if (is_rcq)
		*is_rcq = of_rcq;
	else if (of_rcq != (cq == &conn->rcq)) /* keep it for conn_wait() */
		atomic_store(of_rcq ? &conn->rcq_event : &conn->cq_event, true);
	return 0;
}

/* is_rcq: NULL where the caller polls `cq` whatever the event was for. */
int
conn_wait_completion_event(struct rpmapy_conn *conn, struct rpmapy_cq *cq, int64_t deadline,
			   bool *is_rcq)
{
	int fd = conn->channel_fd >= 0 ? conn->channel_fd : cq->fd;
	for (;;) {
		bool ended = atomic_load(&conn->ended) != RPMA_CONN_UNDEFINED;
		int64_t until = deadline;
		if (ended && atomic_load(&conn->grace_until) < until)
			until = atomic_load(&conn->grace_until);
		unsigned ready;
		int ret = wait_readable(fd, ended ? -1 : conn->event_fd, until, &ready);
		if (ret == RPMAPY_E_TIMEOUT && ended && until != deadline)
			return RPMAPY_E_ENDED;
		if (ret)
			return ret;
		if (ready & 2)
			meet_event(conn);
		if (ready & 1) {
			ret = take_completion_event(conn, cq, is_rcq);
			if (ret != RPMA_E_NO_COMPLETION) /* another thread was faster */
				return ret;
		}
	}
}

int
rpmapy_conn_wait(struct rpmapy_conn *conn, int64_t deadline, bool *is_rcq)
{
	int ret = handle_enter(&conn->handle);
	if (ret)
		return ret;
	call_begin();
	*is_rcq = false;
	if (conn->channel_fd < 0) {
		ret = RPMA_E_NOT_SHARED_CHNL;
	} else if (atomic_exchange(&conn->rcq_event, false)) {
		*is_rcq = true;
	} else if (!atomic_exchange(&conn->cq_event, false)) {
		pthread_mutex_lock(&conn->cq.lock);
		bool stashed = conn->cq.stash.length > 0;
		pthread_mutex_unlock(&conn->cq.lock);
		if (!stashed)
			ret = conn_wait_completion_event(conn, &conn->cq, deadline, is_rcq);
	}
	handle_leave(&conn->handle);
	return ret;
}

int
rpmapy_conn_disconnect(struct rpmapy_conn *conn)
{
	int ret = handle_enter(&conn->handle);
	if (ret)
		return ret;
	handle_use(&conn->handle);
	call_begin();
	ret = rpma_conn_disconnect(conn->handle.object);
	handle_done(&conn->handle);
	if (!ret)
		atomic_store(&conn->grace_until, now_ns() + FLUSH_GRACE_NS);
	handle_leave(&conn->handle);
	return ret;
}

/* The event that ended the connection, or RPMA_CONN_UNDEFINED. */
int
rpmapy_conn_ended(const struct rpmapy_conn *conn)
{
	return atomic_load(&conn->ended);
}

int
rpmapy_conn_private_data(struct rpmapy_conn *conn, void *data, uint8_t *size)
{
	int ret = handle_enter(&conn->handle);
	if (ret)
		return ret;
	struct rpma_conn_private_data got = {0};
	call_begin();
	ret = copy_private_data(rpma_conn_get_private_data(conn->handle.object, &got), &got, data,
				size);
	handle_leave(&conn->handle);
	return ret;
}

int
rpmapy_conn_event_fd(struct rpmapy_conn *conn, int *fd)
{
	int ret = handle_enter(&conn->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_conn_get_event_fd(conn->handle.object, fd);
	handle_leave(&conn->handle);
	return ret;
}

int
rpmapy_conn_compl_fd(struct rpmapy_conn *conn, int *fd)
{
	int ret = handle_enter(&conn->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_conn_get_compl_fd(conn->handle.object, fd);
	handle_leave(&conn->handle);
	return ret;
}

int
rpmapy_conn_qp_num(struct rpmapy_conn *conn, uint32_t *qp_num)
{
	int ret = handle_enter(&conn->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_conn_get_qp_num(conn->handle.object, qp_num);
	handle_leave(&conn->handle);
	return ret;
}

int
rpmapy_conn_apply_remote_peer_cfg(struct rpmapy_conn *conn, struct rpmapy_peer_cfg *cfg)
{
	int ret = handles_enter(&conn->handle, &cfg->handle, NULL);
	if (ret)
		return ret;
	handle_use(&conn->handle);
	handle_read(&cfg->handle);
	call_begin();
	ret = rpma_conn_apply_remote_peer_cfg(conn->handle.object, cfg->handle.object);
	handle_done(&cfg->handle);
	handle_done(&conn->handle);
	handles_leave(&conn->handle, &cfg->handle, NULL);
	return ret;
}

struct rpmapy_cq *
rpmapy_conn_cq(struct rpmapy_conn *conn)
{
	return &conn->cq;
}

struct rpmapy_cq *
rpmapy_conn_rcq(struct rpmapy_conn *conn)
{
	return conn->has_rcq ? &conn->rcq : NULL;
}
