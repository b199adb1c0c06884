/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * examples.c -- what programs do with librpma as a rule, without a mistake: examples NAME. Each
 * runs a server, and its clients in processes of their own. The numbers are those of librpma's
 * examples that go about it in the same way.
 */
#include "side.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/wait.h>

#define CLIENTS 4
#define ROUNDS 10 /* as many as a queue has room for by default */
#define DONE 0
#define SRQ_SIZE 4

/* What has a deadline of its own ends with an error; this is for what has none. */
#define DEADLINE_S 100

static int is_listening[2];

static void
let_client(char turn)
{
	EXPECT(write(is_listening[1], &turn, 1) == 1);
}

static struct rpma_ep *
open_for_clients(struct rpma_peer *peer, int clients)
{
	struct rpma_ep *ep = listening(peer);
	for (int i = 0; i < clients; i++)
		let_client((char)i);
	return ep;
}

/* Returns whose turn it is. */
static int
wait_for_server(void)
{
	char turn;
	EXPECT(read(is_listening[0], &turn, 1) == 1);
	return turn;
}

static void
close_server(struct rpma_ep **ep, struct rpma_peer **peer)
{
	must(rpma_ep_shutdown(ep));
	must(rpma_peer_delete(peer));
}

static uint64_t *
number_at(char *memory, size_t index)
{
	return (uint64_t *)(void *)memory + index;
}

/* ---- 01: connecting, and private data ---- */

static void
connection_server(void)
{
	struct rpma_conn_private_data pdata;
	struct rpma_peer *peer = new_peer();
	struct rpma_ep *ep = open_for_clients(peer, 1);
	struct rpma_conn_req *req = next_request(ep, NULL);
	must(rpma_conn_req_get_private_data(req, &pdata));
	EXPECT(pdata.ptr && !strcmp(pdata.ptr, "to the server"));
	struct rpma_conn *conn = established(req, "to the client", sizeof("to the client"));
	must(rpma_conn_get_private_data(conn, &pdata));
	EXPECT(pdata.ptr && !strcmp(pdata.ptr, "to the server"));
	end_first(&conn);
	close_server(&ep, &peer);
}

/* It asks before there is anybody to ask, and again. */
static void
connection_client(void)
{
	static const char data[] = "to the server";
	struct rpma_conn_private_data pdata = {.ptr = (void *)(uintptr_t)data, .len = sizeof(data)};
	struct rpma_peer *peer = new_peer();
	struct rpma_conn *conn;
	for (;;) {
		enum rpma_conn_event event;
		struct rpma_conn_req *req = new_request(peer, NULL);
		must(rpma_conn_req_connect(&req, &pdata, &conn));
		must(rpma_conn_next_event(conn, &event));
		if (event == RPMA_CONN_ESTABLISHED)
			break;
		EXPECT(event == RPMA_CONN_REJECTED);
		(void)rpma_conn_disconnect(conn);
		must(rpma_conn_delete(&conn));
		(void)wait_for_server();
	}
	must(rpma_conn_get_private_data(conn, &pdata));
	EXPECT(pdata.ptr && !strcmp(pdata.ptr, "to the client"));
	end_second(&conn);
	must(rpma_peer_delete(&peer));
}

/* ---- 02, 03, 04, 05, 07, 11: memory that one side offers, and what the other does with it ---- */

#define OFFERED                                                                                    \
	(RPMA_MR_USAGE_READ_SRC | RPMA_MR_USAGE_WRITE_DST | RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY)

static void
offering_server(void)
{
	struct rpma_peer *peer = new_peer();
	char *ptr = memory();
	struct rpma_ep *ep = open_for_clients(peer, 1);
	struct rpma_mr_local *mr = region(peer, ptr, OFFERED);
	struct rpma_peer_cfg *pcfg;
	must(rpma_peer_cfg_new(&pcfg));
	must(rpma_peer_cfg_set_direct_write_to_pmem(pcfg, true));
	struct offer offer = offer_of(mr, pcfg);
	struct rpma_conn *conn = established(next_request(ep, NULL), &offer, sizeof(offer));
	end_second(&conn);
	must(rpma_mr_dereg(&mr));
	must(rpma_peer_cfg_delete(&pcfg));
	close_server(&ep, &peer);
}

struct user {
	struct rpma_peer *peer;
	struct rpma_conn *conn;
	struct rpma_cq *cq;
	char *ptr;
	struct rpma_mr_local *mr;
	struct rpma_mr_remote *remote;
};

static struct user
user_of_offer(int usage)
{
	struct user user = {.peer = new_peer(), .ptr = memory()};
	(void)wait_for_server();
	user.conn = established(new_request(user.peer, NULL), NULL, 0);
	user.cq = cq_of(user.conn);
	user.mr = region(user.peer, user.ptr, usage);
	user.remote = region_from(user.conn);
	return user;
}

static void
end_user(struct user *user)
{
	must(rpma_mr_remote_delete(&user->remote));
	must(rpma_mr_dereg(&user->mr));
	end_first(&user->conn);
	must(rpma_peer_delete(&user->peer));
}

static void
read_client(void)
{
	size_t size;
	struct user user = user_of_offer(RPMA_MR_USAGE_READ_DST);
	must(rpma_mr_remote_get_size(user.remote, &size));
	must(rpma_read(user.conn, user.mr, 0, user.remote, 0, size, ALWAYS, NULL));
	(void)completed(user.cq, IBV_WC_RDMA_READ);
	end_user(&user);
}

/* A read behind a write, which tells that it has arrived. */
static void
write_client(void)
{
	struct user user = user_of_offer(RPMA_MR_USAGE_WRITE_SRC | RPMA_MR_USAGE_READ_DST);
	must(rpma_write(user.conn, user.remote, 0, user.mr, 0, PAGE, ON_ERROR, NULL));
	must(rpma_read(user.conn, user.mr, 2 * PAGE, user.remote, 0, 8, ALWAYS, NULL));
	(void)completed(user.cq, IBV_WC_RDMA_READ);
	end_user(&user);
}

static void
flush_client(void)
{
	bool is_direct;
	int offered;
	struct rpma_peer_cfg *pcfg;
	struct user user = user_of_offer(RPMA_MR_USAGE_WRITE_SRC);
	const struct offer *offer = offer_from(user.conn);
	must(rpma_peer_cfg_from_descriptor(offer->descriptors + offer->mr_size, offer->pcfg_size,
					   &pcfg));
	must(rpma_peer_cfg_get_direct_write_to_pmem(pcfg, &is_direct));
	EXPECT(is_direct);
	must(rpma_conn_apply_remote_peer_cfg(user.conn, pcfg));
	must(rpma_peer_cfg_delete(&pcfg));
	must(rpma_mr_remote_get_flush_type(user.remote, &offered));
	EXPECT(offered & RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY);
	must(rpma_write(user.conn, user.remote, 8, user.mr, 0, 64, ON_ERROR, NULL));
	must(rpma_flush(user.conn, user.remote, 8, 64, RPMA_FLUSH_TYPE_VISIBILITY, ALWAYS,
			(void *)9));
	struct ibv_wc wc = completion(user.cq);
	EXPECT(wc.status == IBV_WC_SUCCESS && wc.wr_id == 9);
	end_user(&user);
}

/* A log: each entry is written and flushed before the number that says so. */
static void
atomic_write_client(void)
{
	struct user user = user_of_offer(RPMA_MR_USAGE_WRITE_SRC | RPMA_MR_USAGE_READ_DST);
	must(rpma_read(user.conn, user.mr, 0, user.remote, 0, 8, ALWAYS, NULL));
	(void)completed(user.cq, IBV_WC_RDMA_READ);
	uint64_t used = PAGE;
	for (int i = 0; i < 2 * ROUNDS; i++) {
		char bytes[8];
		memset(user.ptr, 'a' + i, 16);
		must(rpma_write(user.conn, user.remote, used, user.mr, 0, 16, ON_ERROR, NULL));
		must(rpma_flush(user.conn, user.remote, used, 16, RPMA_FLUSH_TYPE_VISIBILITY,
				ON_ERROR, NULL));
		used += 16;
		memcpy(bytes, &used, sizeof(bytes));
		must(rpma_atomic_write(user.conn, user.remote, 0, bytes, ON_ERROR, NULL));
		must(rpma_flush(user.conn, user.remote, 0, 8, RPMA_FLUSH_TYPE_VISIBILITY, ALWAYS,
				(void *)9));
		struct ibv_wc wc = completion(user.cq);
		EXPECT(wc.status == IBV_WC_SUCCESS && wc.wr_id == 9);
	}
	end_user(&user);
}

static void
write_with_imm_server(void)
{
	struct rpma_peer *peer = new_peer();
	char *ptr = memory();
	struct rpma_mr_local *mr = region(peer, ptr, OFFERED), *receives;
	must(rpma_mr_reg(peer, memory(), 1, RPMA_MR_USAGE_RECV, &receives));
	struct offer offer = offer_of(mr, NULL);
	struct rpma_ep *ep = open_for_clients(peer, 1);
	struct rpma_conn_req *req = next_request(ep, NULL);
	must(rpma_conn_req_recv(req, receives, 0, 1, NULL));
	struct rpma_conn *conn = established(req, &offer, sizeof(offer));
	struct ibv_wc wc = completed(cq_of(conn), IBV_WC_RECV_RDMA_WITH_IMM);
	EXPECT(wc.wc_flags & IBV_WC_WITH_IMM && be32toh(wc.imm_data) == 77 && ptr[0] == 'x');
	end_second(&conn);
	must(rpma_mr_dereg(&mr));
	must(rpma_mr_dereg(&receives));
	close_server(&ep, &peer);
}

static void
write_with_imm_client(void)
{
	struct user user = user_of_offer(RPMA_MR_USAGE_WRITE_SRC);
	must(rpma_write_with_imm(user.conn, user.remote, 0, user.mr, 0, 1024, ALWAYS, 77, NULL));
	(void)completed(user.cq, IBV_WC_RDMA_WRITE);
	end_user(&user);
}

/* The same with the sides changed: the server reads what its client offers. */
static void
read_server(void)
{
	struct rpma_peer *peer = new_peer();
	char *ptr = memory();
	struct rpma_mr_local *mr = region(peer, ptr, RPMA_MR_USAGE_READ_DST);
	struct rpma_ep *ep = open_for_clients(peer, 1);
	struct rpma_conn *conn = established(next_request(ep, NULL), NULL, 0);
	const struct offer *offer = offer_from(conn);
	struct rpma_mr_remote *remote = region_from(conn);
	must(rpma_read(conn, mr, 0, remote, offer->offset, PAGE, ALWAYS, NULL));
	(void)completed(cq_of(conn), IBV_WC_RDMA_READ);
	must(rpma_mr_remote_delete(&remote));
	must(rpma_mr_dereg(&mr));
	end_first(&conn);
	close_server(&ep, &peer);
}

static void
offering_client(void)
{
	struct rpma_peer *peer = new_peer();
	struct rpma_mr_local *mr = region(peer, memory(), OFFERED);
	struct offer offer = offer_of(mr, NULL);
	(void)wait_for_server();
	struct rpma_conn *conn = established(new_request(peer, NULL), &offer, sizeof(offer));
	end_second(&conn);
	must(rpma_mr_dereg(&mr));
	must(rpma_peer_delete(&peer));
}

/* ---- 06: many connections, by their file descriptors ---- */

static void
no_blocking(int fd)
{
	EXPECT(fd >= 0 && !fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
}

struct watched {
	struct rpma_conn *conn;
	struct rpma_cq *cq;
	struct rpma_mr_remote *remote;
	bool is_read;
};

/* The connection has news. Returns whether it has ended. */
static bool
next_news(struct watched *watched, struct rpma_mr_local *mr, size_t offset)
{
	enum rpma_conn_event event;
	int ret = rpma_conn_next_event(watched->conn, &event);
	if (ret == RPMA_E_NO_EVENT)
		return false;
	must(ret);
	if (event != RPMA_CONN_ESTABLISHED) {
		must(rpma_conn_delete(&watched->conn));
		return true;
	}
	/* What was read stays wanted when its description is gone. */
	watched->remote = region_from(watched->conn);
	must(rpma_read(watched->conn, mr, offset, watched->remote, 0, 8, ALWAYS, NULL));
	must(rpma_mr_remote_delete(&watched->remote));
	return false;
}

static void
next_completion(struct watched *watched, bool is_shared)
{
	struct rpma_cq *cq = watched->cq;
	struct ibv_wc wc;
	int ret = is_shared ? rpma_conn_wait(watched->conn, 0, &cq, NULL) : rpma_cq_wait(cq);
	if (!ret)
		ret = rpma_cq_get_wc(cq, 1, &wc, NULL);
	if (ret == RPMA_E_NO_COMPLETION)
		return;
	must(ret);
	if (watched->is_read)
		return;
	EXPECT(wc.status == IBV_WC_SUCCESS && wc.opcode == IBV_WC_RDMA_READ);
	watched->is_read = true;
	must(rpma_conn_disconnect(watched->conn));
}

static void
many_server(bool is_shared)
{
	struct watched all[CLIENTS] = {0};
	struct rpma_peer *peer = new_peer();
	struct rpma_mr_local *mr = region(peer, memory(), RPMA_MR_USAGE_READ_DST);
	struct rpma_conn_cfg *cfg;
	must(rpma_conn_cfg_new(&cfg));
	must(rpma_conn_cfg_set_compl_channel(cfg, is_shared));
	struct rpma_ep *ep = open_for_clients(peer, CLIENTS);
	struct pollfd fds[1 + 2 * CLIENTS] = {{.events = POLLIN}};
	unsigned came = 0, gone = 0;
	must(rpma_ep_get_fd(ep, &fds[0].fd));
	no_blocking(fds[0].fd);
	for (unsigned i = 1; i < 1 + 2 * CLIENTS; i++)
		fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
	while (gone < CLIENTS) {
		EXPECT(poll(fds, 1 + 2 * CLIENTS, -1) > 0);
		for (unsigned i = 0; i < came; i++) {
			struct pollfd *own = &fds[1 + 2 * i];
			if (own[1].fd >= 0 && own[1].revents)
				next_completion(&all[i], is_shared);
			if (own[0].fd >= 0 && own[0].revents &&
			    next_news(&all[i], mr, i * (size_t)8)) {
				own[0].fd = own[1].fd = -1;
				gone++;
			}
		}
		if (!fds[0].revents)
			continue;
		struct rpma_conn_req *req = next_request(ep, cfg);
		struct watched *watched = &all[came];
		must(rpma_conn_req_connect(&req, NULL, &watched->conn));
		watched->cq = cq_of(watched->conn);
		struct pollfd *own = &fds[1 + 2 * came++];
		must(rpma_conn_get_event_fd(watched->conn, &own[0].fd));
		must(is_shared ? rpma_conn_get_compl_fd(watched->conn, &own[1].fd)
			       : rpma_cq_get_fd(watched->cq, &own[1].fd));
		no_blocking(own[0].fd);
		no_blocking(own[1].fd);
	}
	must(rpma_conn_cfg_delete(&cfg));
	must(rpma_mr_dereg(&mr));
	close_server(&ep, &peer);
}

static void
many_connections_server(void)
{
	many_server(false);
}

static void
many_connections_shared_channel_server(void)
{
	many_server(true);
}

/* ---- 08, 12: messages there and back ---- */

struct messages {
	struct rpma_peer *peer;
	char *sent, *received;
	struct rpma_mr_local *send_mr, *receive_mr;
};

static struct messages
new_messages(void)
{
	struct messages messages = {.peer = new_peer(), .sent = memory(), .received = memory()};
	messages.send_mr = region(messages.peer, messages.sent, RPMA_MR_USAGE_SEND);
	messages.receive_mr = region(messages.peer, messages.received, RPMA_MR_USAGE_RECV);
	return messages;
}

static void
end_messages(struct messages *messages)
{
	must(rpma_mr_dereg(&messages->send_mr));
	must(rpma_mr_dereg(&messages->receive_mr));
	must(rpma_peer_delete(&messages->peer));
}

/* Which CQs a connection has, and how it waits for them. */
struct queues {
	bool has_rcq, is_shared;
};

/* Some completions of the connection; of its receive CQ, if it has one and they are wanted. */
static int
next_completions(struct rpma_conn *conn, struct queues queues, bool wants_receive,
		 struct ibv_wc wc[2])
{
	for (;;) {
		struct rpma_cq *cq = queues.has_rcq && wants_receive ? rcq_of(conn) : cq_of(conn);
		int count = 0;
		int ret = queues.is_shared ? rpma_conn_wait(conn, 0, &cq, NULL) : rpma_cq_wait(cq);
		if (!ret)
			ret = rpma_cq_get_wc(cq, 2, wc, &count);
		if (ret == RPMA_E_NO_COMPLETION)
			continue;
		must(ret);
		return count;
	}
}

/* Wait for a message, and for what was sent. */
static void
exchange(struct rpma_conn *conn, struct queues queues, bool has_sent)
{
	bool has_received = false;
	while (!has_sent || !has_received) {
		struct ibv_wc wc[2];
		int count = next_completions(conn, queues, has_sent, wc);
		for (int i = 0; i < count; i++) {
			EXPECT(wc[i].status == IBV_WC_SUCCESS);
			has_sent |= wc[i].opcode == IBV_WC_SEND;
			has_received |= wc[i].opcode == IBV_WC_RECV;
		}
	}
}

static struct rpma_conn_cfg *
cfg_with(struct queues queues)
{
	struct rpma_conn_cfg *cfg;
	must(rpma_conn_cfg_new(&cfg));
	if (queues.has_rcq)
		must(rpma_conn_cfg_set_rcq_size(cfg, 10));
	must(rpma_conn_cfg_set_compl_channel(cfg, queues.is_shared));
	return cfg;
}

static void
ping_pong_server(struct queues queues)
{
	struct messages m = new_messages();
	struct rpma_ep *ep = open_for_clients(m.peer, 1);
	struct rpma_conn_cfg *cfg = cfg_with(queues);
	struct rpma_conn_req *req = next_request(ep, cfg);
	must(rpma_conn_req_recv(req, m.receive_mr, 0, 8, NULL));
	struct rpma_conn *conn = established(req, NULL, 0);
	exchange(conn, queues, true);
	while (*number_at(m.received, 0) != DONE) {
		*number_at(m.sent, 0) = *number_at(m.received, 0) + 1;
		must(rpma_recv(conn, m.receive_mr, 0, 8, NULL));
		must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
		exchange(conn, queues, false);
	}
	end_first(&conn);
	must(rpma_conn_cfg_delete(&cfg));
	must(rpma_ep_shutdown(&ep));
	end_messages(&m);
}

/* Its last message wants no answer, and it may not wait for one. */
static void
ping_pong_client(struct queues queues, void (*end)(struct rpma_conn **conn))
{
	struct messages m = new_messages();
	struct rpma_conn_cfg *cfg = cfg_with(queues);
	(void)wait_for_server();
	struct rpma_conn *conn = established(new_request(m.peer, cfg), NULL, 0);
	for (uint64_t i = 0; i < ROUNDS; i++) {
		must(rpma_recv(conn, m.receive_mr, 0, 8, NULL));
		*number_at(m.sent, 0) = 10 * i + 1;
		must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
		exchange(conn, queues, false);
		EXPECT(*number_at(m.received, 0) == 10 * i + 2);
	}
	*number_at(m.sent, 0) = DONE;
	must(rpma_send(conn, m.send_mr, 0, 8, ON_ERROR, NULL));
	end(&conn);
	must(rpma_conn_cfg_delete(&cfg));
	end_messages(&m);
}

static const struct queues one_cq = {false, false};
static const struct queues two_cqs = {true, false};
static const struct queues two_cqs_one_channel = {true, true};

static void
messages_server(void)
{
	ping_pong_server(one_cq);
}

static void
messages_client(void)
{
	ping_pong_client(one_cq, end_first);
}

static void
receive_cq_server(void)
{
	ping_pong_server(two_cqs);
}

static void
receive_cq_client(void)
{
	ping_pong_client(two_cqs, end_first);
}

static void
receive_cq_shared_channel_server(void)
{
	ping_pong_server(two_cqs_one_channel);
}

static void
receive_cq_shared_channel_client(void)
{
	ping_pong_client(two_cqs_one_channel, end_first);
}

/* ---- 08srq, 13: messages of clients through a shared receive queue ---- */

/* Where the receives of the shared queue complete. */
enum where { AT_QUEUE, AT_CONNECTION, AT_RECEIVE_CQ };

struct shared {
	struct messages m;
	struct rpma_srq *srq;
	struct rpma_conn_cfg *cfg;
	struct rpma_ep *ep;
};

static struct shared
new_shared(enum where where, int clients)
{
	struct shared shared = {.m = new_messages()};
	struct rpma_srq_cfg *srq_cfg;
	must(rpma_srq_cfg_new(&srq_cfg));
	must(rpma_srq_cfg_set_rq_size(srq_cfg, SRQ_SIZE));
	must(rpma_srq_cfg_set_rcq_size(srq_cfg, where == AT_QUEUE ? SRQ_SIZE : 0));
	must(rpma_srq_new(shared.m.peer, srq_cfg, &shared.srq));
	must(rpma_srq_cfg_delete(&srq_cfg));
	must(rpma_conn_cfg_new(&shared.cfg));
	if (where == AT_RECEIVE_CQ)
		must(rpma_conn_cfg_set_rcq_size(shared.cfg, 10));
	must(rpma_conn_cfg_set_srq(shared.cfg, shared.srq));
	shared.ep = open_for_clients(shared.m.peer, clients);
	return shared;
}

static void
end_shared(struct shared *shared)
{
	must(rpma_mr_dereg(&shared->m.send_mr));
	must(rpma_mr_dereg(&shared->m.receive_mr));
	must(rpma_ep_shutdown(&shared->ep));
	must(rpma_conn_cfg_delete(&shared->cfg));
	must(rpma_srq_delete(&shared->srq));
	must(rpma_peer_delete(&shared->m.peer));
}

/* Answers ask for no completion: the client's next message says that it has them. */
static void
srq_server(enum where where)
{
	struct shared shared = new_shared(where, 1);
	struct messages *m = &shared.m;
	uint32_t qp_num;
	must(rpma_srq_recv(shared.srq, m->receive_mr, 0, 8, m->received));
	struct rpma_conn *conn = established(next_request(shared.ep, shared.cfg), NULL, 0);
	struct rpma_cq *cq = NULL;
	must(rpma_conn_get_qp_num(conn, &qp_num));
	if (where == AT_QUEUE)
		must(rpma_srq_get_rcq(shared.srq, &cq));
	else
		cq = where == AT_CONNECTION ? cq_of(conn) : rcq_of(conn);
	for (;;) {
		struct ibv_wc wc = completed(cq, IBV_WC_RECV);
		EXPECT(wc.qp_num == qp_num);
		if (*number_at(m->received, 0) == DONE)
			break;
		*number_at(m->sent, 0) = *number_at(m->received, 0) + 1;
		must(rpma_srq_recv(shared.srq, m->receive_mr, 0, 8, m->received));
		must(rpma_send(conn, m->send_mr, 0, 8, ON_ERROR, NULL));
	}
	must(rpma_conn_disconnect(conn));
	must(rpma_conn_delete(&conn));
	end_shared(&shared);
}

static void
srq_at_queue_server(void)
{
	srq_server(AT_QUEUE);
}

static void
srq_at_connection_server(void)
{
	srq_server(AT_CONNECTION);
}

static void
srq_at_receive_cq_server(void)
{
	srq_server(AT_RECEIVE_CQ);
}

static void
srq_client(void)
{
	ping_pong_client(one_cq, end_second);
}

static void
srq_of_many_server(void)
{
	struct shared shared = new_shared(AT_QUEUE, CLIENTS);
	struct messages *m = &shared.m;
	struct rpma_conn *conns[CLIENTS];
	uint32_t qp_nums[CLIENTS];
	struct rpma_cq *cq;
	unsigned done = 0;
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct rpma_srq *srq;
		must(rpma_conn_cfg_get_srq(shared.cfg, &srq));
		must(rpma_srq_recv(srq, m->receive_mr, 8 * (size_t)i, 8,
				   number_at(m->received, i)));
		conns[i] = established(next_request(shared.ep, shared.cfg), NULL, 0);
		must(rpma_conn_get_qp_num(conns[i], &qp_nums[i]));
	}
	must(rpma_srq_get_rcq(shared.srq, &cq));
	while (done < CLIENTS) {
		struct ibv_wc wc = completed(cq, IBV_WC_RECV);
		size_t index =
			(size_t)((uint64_t *)(uintptr_t)wc.wr_id - number_at(m->received, 0));
		unsigned who = 0;
		while (who < CLIENTS && qp_nums[who] != wc.qp_num)
			who++;
		EXPECT(who < CLIENTS);
		if (*number_at(m->received, index) == DONE) {
			done++;
			continue;
		}
		/* By client: what was sent to one may not have arrived when another one asks. */
		*number_at(m->sent, who) = *number_at(m->received, index) + 1;
		must(rpma_srq_recv(shared.srq, m->receive_mr, 8 * index, 8,
				   number_at(m->received, index)));
		must(rpma_send(conns[who], m->send_mr, 8 * (size_t)who, 8, ON_ERROR, NULL));
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		must(rpma_conn_disconnect(conns[i]));
		must(rpma_conn_delete(&conns[i]));
	}
	end_shared(&shared);
}

/* ---- 09: the server makes durable what a message names ---- */

static void
general_purpose_flush(struct queues queues)
{
	struct messages m = new_messages();
	struct rpma_mr_local *mr = region(m.peer, memory(), OFFERED);
	struct offer offer = offer_of(mr, NULL);
	struct rpma_ep *ep = open_for_clients(m.peer, 1);
	struct rpma_conn_cfg *cfg = cfg_with(queues);
	struct rpma_conn_req *req = next_request(ep, cfg);
	must(rpma_conn_req_recv(req, m.receive_mr, 0, 64, NULL));
	struct rpma_conn *conn = established(req, &offer, sizeof(offer));
	struct ibv_wc wc[2];
	EXPECT(next_completions(conn, queues, true, wc) == 1 && wc[0].opcode == IBV_WC_RECV);
	must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
	EXPECT(next_completions(conn, queues, false, wc) == 1 && wc[0].opcode == IBV_WC_SEND);
	end_second(&conn);
	must(rpma_conn_delete(&conn)); /* NULL by now, which is allowed */
	must(rpma_conn_cfg_delete(&cfg));
	must(rpma_mr_dereg(&mr));
	must(rpma_ep_shutdown(&ep));
	end_messages(&m);
}

static void
want_general_purpose_flush(struct queues queues)
{
	struct messages m = new_messages();
	struct rpma_mr_local *mr = region(m.peer, memory(), RPMA_MR_USAGE_WRITE_SRC);
	struct rpma_conn_cfg *cfg = cfg_with(queues);
	(void)wait_for_server();
	struct rpma_conn *conn = established(new_request(m.peer, cfg), NULL, 0);
	struct rpma_mr_remote *remote = region_from(conn);
	must(rpma_write(conn, remote, 0, mr, 0, 1024, ON_ERROR, NULL));
	must(rpma_recv(conn, m.receive_mr, 0, 64, NULL));
	must(rpma_send(conn, m.send_mr, 0, 16, ALWAYS, NULL));
	exchange(conn, queues, false);
	must(rpma_mr_remote_delete(&remote));
	must(rpma_mr_dereg(&mr));
	end_first(&conn);
	must(rpma_conn_cfg_delete(&cfg));
	end_messages(&m);
}

static void
general_purpose_flush_server(void)
{
	general_purpose_flush(two_cqs);
}

static void
general_purpose_flush_client(void)
{
	want_general_purpose_flush(two_cqs);
}

static void
general_purpose_flush_shared_channel_server(void)
{
	general_purpose_flush(two_cqs_one_channel);
}

static void
general_purpose_flush_shared_channel_client(void)
{
	want_general_purpose_flush(two_cqs_one_channel);
}

/* ---- 10: immediate data, with and without a message ---- */

static void
send_with_imm_server(void)
{
	struct messages m = new_messages();
	struct rpma_ep *ep = open_for_clients(m.peer, 2);
	for (int i = 0; i < 2; i++) {
		struct rpma_conn_req *req = next_request(ep, NULL);
		must(rpma_conn_req_recv(req, m.receive_mr, 0, 1024, NULL));
		struct rpma_conn *conn = established(req, NULL, 0);
		struct ibv_wc wc = completed(cq_of(conn), IBV_WC_RECV);
		EXPECT(wc.wc_flags & IBV_WC_WITH_IMM && be32toh(wc.imm_data) == wc.byte_len);
		end_second(&conn);
	}
	must(rpma_ep_shutdown(&ep));
	end_messages(&m);
}

static void
send_with_imm_client(void)
{
	struct messages m = new_messages();
	uint32_t len = wait_for_server() ? 1024 : 0;
	struct rpma_conn *conn = established(new_request(m.peer, NULL), NULL, 0);
	must(rpma_send_with_imm(conn, len ? m.send_mr : NULL, 0, len, ALWAYS, len, NULL));
	(void)completed(cq_of(conn), IBV_WC_SEND);
	end_first(&conn);
	end_messages(&m);
}

/* ---- what no example of librpma's does, and programs do ---- */

/* The oldest receive of the shared queue has completed, and its connection's CQ is looked at last.
 */
static void
srq_with_a_patient_client_server(void)
{
	struct shared shared = new_shared(AT_CONNECTION, 1);
	struct messages *m = &shared.m;
	uintptr_t i;
	for (i = 0; i < SRQ_SIZE; i++)
		must(rpma_srq_recv(shared.srq, m->receive_mr, 8 * i, 8, (void *)i));
	struct rpma_conn *patient = established(next_request(shared.ep, shared.cfg), NULL, 0);
	must(rpma_cq_wait(cq_of(patient)));
	let_client(1);
	struct rpma_conn *other = established(next_request(shared.ep, shared.cfg), NULL, 0);
	for (unsigned round = 0; round < 3 * SRQ_SIZE; round++) {
		i = completed(cq_of(other), IBV_WC_RECV).wr_id;
		must(rpma_srq_recv(shared.srq, m->receive_mr, 8 * i, 8, (void *)i));
		must(rpma_send(other, m->send_mr, 0, 8, ALWAYS, NULL));
		(void)completed(cq_of(other), IBV_WC_SEND);
	}
	EXPECT(completed(cq_of(patient), IBV_WC_RECV).wr_id == 0);
	must(rpma_send(patient, m->send_mr, 0, 8, ALWAYS, NULL));
	(void)completed(cq_of(patient), IBV_WC_SEND);
	end_second(&other);
	end_second(&patient);
	/* Receives are left in the queue, and nobody who could send to them. */
	end_shared(&shared);
}

static void
srq_with_a_patient_client_client(void)
{
	struct messages m = new_messages();
	unsigned rounds = wait_for_server() ? 3 * SRQ_SIZE : 1;
	struct rpma_conn *conn = established(new_request(m.peer, NULL), NULL, 0);
	for (unsigned round = 0; round < rounds; round++) {
		must(rpma_recv(conn, m.receive_mr, 0, 8, NULL));
		must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
		exchange(conn, one_cq, false);
	}
	end_first(&conn);
	end_messages(&m);
}

/* Each client takes a receive of the shared queue, and its connection goes with the completion. */
static void
srq_completions_that_go_with_connections_server(void)
{
	struct shared shared = new_shared(AT_CONNECTION, 0);
	for (unsigned i = 0; i < 2 * SRQ_SIZE; i++) {
		must(rpma_srq_recv(shared.srq, shared.m.receive_mr, 0, 8, NULL));
		let_client(0);
		struct rpma_conn *conn = established(next_request(shared.ep, shared.cfg), NULL, 0);
		must(rpma_cq_wait(cq_of(conn)));
		end_second(&conn);
	}
	end_shared(&shared);
}

static void
srq_completions_that_go_with_connections_client(void)
{
	struct messages m = new_messages();
	for (unsigned i = 0; i < 2 * SRQ_SIZE; i++) {
		(void)wait_for_server();
		struct rpma_conn *conn = established(new_request(m.peer, NULL), NULL, 0);
		must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
		(void)completed(cq_of(conn), IBV_WC_SEND);
		end_first(&conn);
	}
	end_messages(&m);
}

/* Answers that are written, and need no completion: the client's next message says that it has
 * them. */
static void
srq_with_written_answers_server(void)
{
	struct shared shared = new_shared(AT_QUEUE, 1);
	struct messages *m = &shared.m;
	struct rpma_mr_local *mr = region(m->peer, memory(), RPMA_MR_USAGE_WRITE_SRC);
	struct rpma_cq *cq;
	must(rpma_srq_get_rcq(shared.srq, &cq));
	must(rpma_srq_recv(shared.srq, m->receive_mr, 0, 8, NULL));
	struct rpma_conn *conn = established(next_request(shared.ep, shared.cfg), NULL, 0);
	struct rpma_mr_remote *remote = region_from(conn);
	for (;;) {
		(void)completed(cq, IBV_WC_RECV);
		if (*number_at(m->received, 0) == DONE)
			break;
		must(rpma_srq_recv(shared.srq, m->receive_mr, 0, 8, NULL));
		must(rpma_write(conn, remote, 0, mr, 0, PAGE, ON_ERROR, NULL));
		must(rpma_send(conn, m->send_mr, 0, 8, ON_ERROR, NULL));
	}
	must(rpma_conn_disconnect(conn));
	must(rpma_conn_delete(&conn));
	must(rpma_mr_remote_delete(&remote));
	must(rpma_mr_dereg(&mr));
	end_shared(&shared);
}

static void
srq_with_written_answers_client(void)
{
	struct messages m = new_messages();
	struct rpma_mr_local *mr = region(m.peer, memory(), OFFERED);
	struct offer offer = offer_of(mr, NULL);
	(void)wait_for_server();
	struct rpma_conn *conn = established(new_request(m.peer, NULL), &offer, sizeof(offer));
	for (unsigned i = 0; i < ROUNDS / 2; i++) {
		must(rpma_recv(conn, m.receive_mr, 0, 8, NULL));
		must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
		exchange(conn, one_cq, false);
	}
	*number_at(m.sent, 0) = DONE;
	must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
	(void)completed(cq_of(conn), IBV_WC_SEND);
	end_second(&conn);
	must(rpma_mr_dereg(&mr));
	end_messages(&m);
}

/* What was sent may change once the peer has answered, long before a completion tells of it. */
static void
answered_messages_server(void)
{
	struct messages m = new_messages();
	struct rpma_ep *ep = open_for_clients(m.peer, 1);
	struct rpma_conn_req *req = next_request(ep, NULL);
	must(rpma_conn_req_recv(req, m.receive_mr, 0, 8, NULL));
	struct rpma_conn *conn = established(req, NULL, 0);
	for (;;) {
		exchange(conn, one_cq, true);
		bool is_last = *number_at(m.received, 0) == DONE;
		*number_at(m.sent, 0) = *number_at(m.received, 0) + 1;
		if (!is_last)
			must(rpma_recv(conn, m.receive_mr, 0, 8, NULL));
		must(rpma_send(conn, m.send_mr, 0, 8, is_last ? ALWAYS : ON_ERROR, NULL));
		if (is_last)
			break;
	}
	(void)completed(cq_of(conn), IBV_WC_SEND);
	end_second(&conn);
	must(rpma_ep_shutdown(&ep));
	end_messages(&m);
}

static void
answered_messages_client(void)
{
	struct messages m = new_messages();
	(void)wait_for_server();
	struct rpma_conn *conn = established(new_request(m.peer, NULL), NULL, 0);
	for (uint64_t i = 1; i < ROUNDS; i++) {
		must(rpma_recv(conn, m.receive_mr, 0, 8, NULL));
		*number_at(m.sent, 0) = i + 1 < ROUNDS ? i : DONE;
		must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
		exchange(conn, one_cq, false);
	}
	end_first(&conn);
	end_messages(&m);
}

/* A message that came before the event that the connection is established is answered before, too.
 */
static void
answer_before_the_event_server(void)
{
	struct messages m = new_messages();
	struct rpma_ep *ep = open_for_clients(m.peer, 1);
	struct rpma_conn_req *req = next_request(ep, NULL);
	struct rpma_conn *conn;
	must(rpma_conn_req_recv(req, m.receive_mr, 0, 8, NULL));
	must(rpma_conn_req_connect(&req, NULL, &conn));
	(void)completed(cq_of(conn), IBV_WC_RECV);
	must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
	(void)completed(cq_of(conn), IBV_WC_SEND);
	expect_event(conn, RPMA_CONN_ESTABLISHED);
	end_second(&conn);
	must(rpma_ep_shutdown(&ep));
	end_messages(&m);
}

static void
answer_before_the_event_client(void)
{
	struct messages m = new_messages();
	(void)wait_for_server();
	struct rpma_conn *conn = established(new_request(m.peer, NULL), NULL, 0);
	must(rpma_recv(conn, m.receive_mr, 0, 8, NULL));
	must(rpma_send(conn, m.send_mr, 0, 8, ALWAYS, NULL));
	exchange(conn, one_cq, false);
	end_first(&conn);
	end_messages(&m);
}

/* Writes that ask for no completion, and a look for errors when the connection has ended. */
static void
errors_looked_for_at_the_end_client(void)
{
	struct ibv_wc wc;
	struct user user = user_of_offer(RPMA_MR_USAGE_WRITE_SRC);
	for (unsigned i = 0; i < ROUNDS; i++)
		must(rpma_write(user.conn, user.remote, 0, user.mr, 0, 8, ON_ERROR, NULL));
	must(rpma_conn_disconnect(user.conn));
	expect_event(user.conn, RPMA_CONN_CLOSED);
	int ret = rpma_cq_get_wc(user.cq, 1, &wc, NULL);
	while (!ret) {
		EXPECT(wc.status == IBV_WC_WR_FLUSH_ERR);
		ret = rpma_cq_get_wc(user.cq, 1, &wc, NULL);
	}
	EXPECT(ret == RPMA_E_NO_COMPLETION);
	must(rpma_conn_delete(&user.conn));
	must(rpma_mr_remote_delete(&user.remote));
	must(rpma_mr_dereg(&user.mr));
	must(rpma_peer_delete(&user.peer));
}

static const struct example {
	const char *name;
	void (*serve)(void);
	void (*use)(void);
	int clients;
} examples[] = {
	{"connection", connection_server, connection_client, 1},
	{"read", offering_server, read_client, 1},
	{"read_by_the_server", read_server, offering_client, 1},
	{"write", offering_server, write_client, 1},
	{"flush", offering_server, flush_client, 1},
	{"many_connections", many_connections_server, offering_client, CLIENTS},
	{"many_connections_shared_channel", many_connections_shared_channel_server, offering_client,
	 CLIENTS},
	{"atomic_write", offering_server, atomic_write_client, 1},
	{"messages", messages_server, messages_client, 1},
	{"srq_at_queue", srq_at_queue_server, srq_client, 1},
	{"srq_at_connection", srq_at_connection_server, srq_client, 1},
	{"srq_at_receive_cq", srq_at_receive_cq_server, srq_client, 1},
	{"general_purpose_flush", general_purpose_flush_server, general_purpose_flush_client, 1},
	{"general_purpose_flush_shared_channel", general_purpose_flush_shared_channel_server,
	 general_purpose_flush_shared_channel_client, 1},
	{"send_with_imm", send_with_imm_server, send_with_imm_client, 2},
	{"write_with_imm", write_with_imm_server, write_with_imm_client, 1},
	{"receive_cq", receive_cq_server, receive_cq_client, 1},
	{"receive_cq_shared_channel", receive_cq_shared_channel_server,
	 receive_cq_shared_channel_client, 1},
	{"srq_of_many", srq_of_many_server, srq_client, CLIENTS},
	{"srq_with_a_patient_client", srq_with_a_patient_client_server,
	 srq_with_a_patient_client_client, 2},
	{"srq_completions_that_go_with_connections",
	 srq_completions_that_go_with_connections_server,
	 srq_completions_that_go_with_connections_client, 1},
	{"srq_with_written_answers", srq_with_written_answers_server,
	 srq_with_written_answers_client, 1},
	{"answered_messages", answered_messages_server, answered_messages_client, 1},
	{"answer_before_the_event", answer_before_the_event_server, answer_before_the_event_client,
	 1},
	{"errors_looked_for_at_the_end", offering_server, errors_looked_for_at_the_end_client, 1},
};

static int
run(const struct example *example)
{
	int failed = 0, status;
	EXPECT(!pipe(is_listening));
	for (int i = 0; i < example->clients; i++) {
		pid_t child = fork();
		EXPECT(child >= 0);
		(void)alarm(DEADLINE_S);
		if (!child) {
			example->use();
			exit(0);
		}
	}
	example->serve();
	for (int i = 0; i < example->clients; i++) {
		EXPECT(wait(&status) > 0);
		failed += !WIFEXITED(status) || WEXITSTATUS(status);
	}
	return failed ? 4 : 0;
}

int
main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++) {
		if (argc == 1)
			puts(examples[i].name);
		else if (!strcmp(argv[1], examples[i].name))
			return run(&examples[i]);
	}
	return argc == 1 ? 0 : 2;
}
