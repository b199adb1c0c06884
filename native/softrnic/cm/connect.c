/* SPDX-License-Identifier: BSD-3-Clause */
/* connect.c -- the active side of MPA's handshake. */
#include "cm.h"

#include <string.h>

/* Whether it is there; and if it is to be connected, that it can be. 0 or EINVAL. */
static int
check_qp(uint32_t qp_num, bool is_ready)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;
	struct ibv_qp *qp = qp_find(qp_num);
	int ret = qp ? ibv_query_qp(qp, &attr, IBV_QP_STATE, &init) : EINVAL;
	if (qp)
		qp_put(qp);
	if (!ret && is_ready && attr.qp_state != IBV_QPS_INIT && attr.qp_state != IBV_QPS_RTR &&
	    attr.qp_state != IBV_QPS_RTS)
		ret = EINVAL;
	return ret;
}

int
conn_param_check(const struct cm_id *id, const struct rdma_conn_param *param, bool accepts,
		 uint32_t *qp_num)
{
	const struct ibv_qp *qp = id->id.qp;
	if (!param && !qp)
		return EINVAL;
	if (param && ((param->responder_resources != RDMA_MAX_RESP_RES &&
		       param->responder_resources > DEVICE_RD_ATOMIC_MAX) ||
		      (param->initiator_depth != RDMA_MAX_INIT_DEPTH &&
		       param->initiator_depth > DEVICE_RD_ATOMIC_MAX) ||
		      (param->private_data_len && !param->private_data)))
		return EINVAL;
	*qp_num = qp ? qp->qp_num : param->qp_num;
	/* The program's own has time until rdma_establish(). */
	return check_qp(*qp_num, qp || accepts);
}

void
connect_abandon(struct cm_id *id)
{
	struct link *link = id->link;
	id->link = NULL;
	if (link->phase == LINK_REQUESTED) {
		link_reject(link, NULL, 0);
	} else {
		link_close(link);
		source_put(&link->source);
	}
}

/* ---- how it ends ---- */

static void
failed(struct link *link, int failure)
{
	struct cm_id *id = link->id;
	enum rdma_cm_event_type type = RDMA_CM_EVENT_CONNECT_ERROR;
	if (failure == ECONNREFUSED || failure == ECONNRESET)
		type = RDMA_CM_EVENT_REJECTED;
	else if (failure == ETIMEDOUT || failure == EHOSTUNREACH || failure == ENETUNREACH)
		type = RDMA_CM_EVENT_UNREACHABLE;
	link_close(link);
	id->state = ID_OVER;
	link_give_up_qp(link, id);
	event_tell(id, type, -failure);
}

/* By the program at the other end. */
static void
rejected(struct link *link)
{
	struct cm_id *id = link->id;
	struct event *event = event_new(id, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED);
	if (event)
		event_set_conn(event, &link->peer, 0, 0);
	link_close(link);
	id->state = ID_OVER;
	link_give_up_qp(link, id);
	event_post(event);
}

static void
join(struct link *link)
{
	struct cm_id *id = link->id;
	int ret = link_join(link, link->qp_num, false);
	if (ret) {
		failed(link, ret);
		return;
	}
	id->state = ID_CONNECTED;
	struct event *event = event_new(id, RDMA_CM_EVENT_ESTABLISHED, 0);
	if (event)
		event_set_conn(event, &link->peer, id->ird, id->ord);
	event_post(event);
	stream_joined(id);
}

/* ---- taking turns ---- */

/*
 * Connects that were refused, to be tried again, and those that a program began after them: what
 * asks the target first is the first to be reported there, and programs count on their order.
 */
static struct link *first_waiting, *last_waiting;

static void
wait_in_line(struct link *link)
{
	if (link->is_waiting)
		return;
	link->is_waiting = true;
	link->next_waiting = NULL;
	link->previous_waiting = last_waiting;
	if (last_waiting)
		last_waiting->next_waiting = link;
	else
		first_waiting = link;
	last_waiting = link;
}

void
connect_leave_line(struct link *link)
{
	if (!link->is_waiting)
		return;
	link->is_waiting = false;
	if (link->previous_waiting)
		link->previous_waiting->next_waiting = link->next_waiting;
	else
		first_waiting = link->next_waiting;
	if (link->next_waiting)
		link->next_waiting->previous_waiting = link->previous_waiting;
	else
		last_waiting = link->previous_waiting;
}

static bool
is_its_turn(const struct link *link)
{
	const struct sockaddr *target = &link->id->id.route.addr.dst_addr;
	const struct link *before = link->is_waiting ? link->previous_waiting : last_waiting;
	for (; before; before = before->previous_waiting) {
		const struct sockaddr *its = &before->id->id.route.addr.dst_addr;
		if (address_is_same(its, target) && address_port(its) == address_port(target))
			return false;
	}
	return true;
}

/* ---- the steps ---- */

static int
wait_a_moment(struct link *link, int64_t ms)
{
	wait_in_line(link);
	link->phase = LINK_REFUSED;
	return link_serve(link, EPOLLONESHOT, ms);
}

/* TCP's part is done. 0 or an errno. */
static int
ask(struct link *link)
{
	if (!is_its_turn(link))
		return wait_a_moment(link, 1);
	connect_leave_line(link);
	struct sockaddr_storage own;
	socklen_t size = sizeof(own);
	/* A port of the kernel's choice is a new one after a refusal. */
	if (getsockname(link->source.fd, (struct sockaddr *)&own, &size) == 0)
		address_set_port(&link->id->id.route.addr.src_addr,
				 address_port((struct sockaddr *)&own));
	int ret = link_send(link, &link->request);
	if (ret)
		return ret == EPIPE ? ECONNRESET : ret;
	link->phase = LINK_AWAITS_REPLY;
	return link_serve(link, EPOLLIN, PROGRAM_FACTOR * handshake_ms());
}

/*
 * A target may listen anew for each of its connections (perftest does), which takes it a moment. A
 * kernel's connection manager is slow enough for that; here a refusal comes within microseconds.
 */
static int
refused(struct link *link)
{
	if (link->refusals == REFUSALS)
		return ECONNREFUSED;
	return wait_a_moment(link, 1 << link->refusals++);
}

/* Connect, or go on with it; connect() itself knows how far it is. 0 or an errno. */
static int
begin(struct link *link)
{
	const struct sockaddr *target = &link->id->id.route.addr.dst_addr;
	if (uncancelled_connect(link->source.fd, target, address_size(target)) == 0 ||
	    errno == EISCONN)
		return ask(link);
	if (errno == EALREADY)
		return 0;
	if (errno == ECONNREFUSED)
		return refused(link);
	if (errno != EINPROGRESS)
		return errno;
	link->phase = LINK_CONNECTING;
	return link_serve(link, EPOLLOUT, handshake_ms());
}

/*
 * A responder that does not know revision 2 answers with a rejection of revision 1, or closes
 * (RFC 6581, on interoperability): ask it again as it likes it.
 */
static void
begin_again(struct link *old)
{
	struct cm_id *id = old->id;
	struct sockaddr_storage any_port = id->id.route.addr.src_storage;
	address_set_port((struct sockaddr *)&any_port, 0);
	int fd = socket_bound(id, (struct sockaddr *)&any_port);
	struct link *link = fd < 0 ? NULL : link_new(fd);
	if (!link) {
		failed(old, errno);
		return;
	}
	link->id = id;
	link->qp_num = old->qp_num;
	link->is_qp_of_id = old->is_qp_of_id;
	link->request = old->request;
	memcpy(link->own_data, old->own_data, sizeof(link->own_data));
	link->request.private_data = link->own_data;
	link->request.revision = 1;
	link->request.enhanced = link->request.peer_to_peer = false;
	link_close(old);
	source_put(&old->source);
	id->link = link;
	int ret = begin(link);
	if (ret)
		failed(link, ret);
}

static void
accepted(struct link *link)
{
	struct cm_id *id = link->id;
	const struct mpa_frame *peer = &link->peer;
	link->crc = link->request.crc || peer->crc;
	id->ird = link->request.ird;
	id->ord = link->request.ord;
	link->rtr = RTR_NONE;
	link->acknowledges = mpa_has_all_rtr(peer);
	if (peer->enhanced) {
		id->ird = rd_lower(id->ird, peer->ord, MPA_RD_MAX);
		id->ord = rd_lower(id->ord, peer->ird, MPA_RD_MAX);
	}
	if (peer->enhanced && peer->peer_to_peer)
		link->rtr = peer->rtr_write  ? RTR_WRITE
			    : peer->rtr_read ? RTR_READ
			    : peer->rtr_send ? RTR_SEND
					     : RTR_NONE;
	if (link->is_qp_of_id) {
		join(link);
		return;
	}
	link->phase = LINK_RESPONDED;
	id->state = ID_RESPONDED;
	(void)link_serve(link, EPOLLRDHUP, 0);
	struct event *event = event_new(id, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
	if (event)
		event_set_conn(event, peer, id->ird, id->ord);
	event_post(event);
}

static void
replied(struct link *link)
{
	int ret = link_receive(link, true);
	bool is_first_try = link->request.revision == 2;
	if (ret == 0)
		return;
	if (ret == -ECONNRESET && is_first_try && !link->filled)
		begin_again(link);
	else if (ret < 0)
		failed(link, -ret);
	else if (link->peer.rejected && is_first_try && link->peer.revision == 1)
		begin_again(link);
	else if (link->peer.rejected)
		rejected(link);
	else if (link->peer.markers)
		failed(link, EPROTO);
	else
		accepted(link);
}

void
connect_ready(struct link *link, uint32_t events)
{
	if (link->phase == LINK_CONNECTING) {
		int ret = begin(link);
		if (ret)
			failed(link, ret);
	} else if (link->phase == LINK_AWAITS_REPLY) {
		replied(link);
	} else if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
		/* The responder does not wait for rdma_establish() any more. */
		struct cm_id *id = link->id;
		link_close(link);
		id->state = ID_OVER;
		event_tell(id, RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET);
	}
}

void
connect_expired(struct link *link)
{
	int ret = link->phase == LINK_REFUSED ? begin(link) : ETIMEDOUT;
	if (ret)
		failed(link, ret);
}

/* ---- the program's calls ---- */

/* What the program asks for; its private data behind what rdma_create_ep() was given. */
static void
set_request(struct link *link, struct cm_id *id, const struct rdma_conn_param *param)
{
	size_t size = param ? param->private_data_len : 0;
	if (id->connect_size)
		memcpy(link->own_data, id->connect_data, id->connect_size);
	if (size)
		memcpy(link->own_data + id->connect_size, param->private_data, size);
	unsigned ird = param ? param->responder_resources : RDMA_MAX_RESP_RES;
	unsigned ord = param ? param->initiator_depth : RDMA_MAX_INIT_DEPTH;
	link->request = (struct mpa_frame){
		.revision = 2,
		.crc = link_wants_crc(&id->id.route.addr),
		.enhanced = true,
		.peer_to_peer = true,
		.rtr_send = true,
		.rtr_write = true,
		.rtr_read = true,
		.ird = rd_lower(DEVICE_RD_ATOMIC_MAX, ird, RDMA_MAX_RESP_RES),
		.ord = rd_lower(DEVICE_RD_ATOMIC_MAX, ord, RDMA_MAX_INIT_DEPTH),
		.private_size = (uint16_t)(id->connect_size + size),
		.private_data = link->own_data,
	};
}

/* 0 or an errno: of what the program did wrong, the network's is told by an event. */
static int
connect_id(struct cm_id *id, const struct rdma_conn_param *param, uint32_t qp_num)
{
	if (id->state != ID_ROUTE_RESOLVED || id->fd < 0 ||
	    id->connect_size + (param ? param->private_data_len : 0) > PRIVATE_DATA_MAX)
		return EINVAL;
	struct link *link = link_new(id->fd);
	id->fd = -1;
	if (!link)
		return ENOMEM;
	link->qp_num = qp_num;
	link->is_qp_of_id = id->id.qp;
	set_request(link, id, param);
	link->id = id;
	id->link = link;
	id->state = ID_CONNECTING;
	int ret = begin(link);
	if (ret)
		failed(link, ret);
	return 0;
}

SOFTRNIC_EXPORT int
rdma_connect(struct rdma_cm_id *public, struct rdma_conn_param *param)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	uint32_t qp_num;
	int ret = conn_param_check(id, param, false, &qp_num);
	if (!ret) {
		pthread_mutex_lock(&cm_lock);
		ret = connect_id(id, param, qp_num);
		pthread_mutex_unlock(&cm_lock);
	}
	return ret ? failed_with(ret) : id_complete(id);
}

SOFTRNIC_EXPORT int
rdma_establish(struct rdma_cm_id *public)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	if (public->qp)
		return failed_with(EINVAL);
	pthread_mutex_lock(&cm_lock);
	int ret = id->state == ID_RESPONDED ? 0 : EINVAL;
	if (!ret) {
		struct link *link = id->link;
		ret = link_join(link, link->qp_num, false);
		/* The program knows: there is no event for it. */
		id->state = ret ? ID_OVER : ID_CONNECTED;
		if (!ret)
			stream_joined(id);
	}
	pthread_mutex_unlock(&cm_lock);
	return ret ? failed_with(ret) : 0;
}
