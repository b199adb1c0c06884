/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * threads.c -- what librpma's THREAD_SAFETY.md allows to several threads: threads NAME. Each does
 * it in all of them at once, as librpma's multithreaded tests do, and over and over.
 */
#include "side.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS 6
#define TIMES 300
#define DEADLINE_S 100

static struct rpma_peer *peer;
static pthread_barrier_t start;

/* How often calls are made that are over before another thread has begun. */
static unsigned short_times = 100 * 1000;

struct task {
	void (*function)(unsigned number, void *data);
	unsigned number;
	void *data;
};

static void *
run_task(void *argument)
{
	const struct task *task = argument;
	(void)pthread_barrier_wait(&start);
	task->function(task->number, task->data);
	return NULL;
}

/* Run the function in all threads at once; data: what they share. */
static void
in_threads(void (*function)(unsigned number, void *data), void *data)
{
	pthread_t threads[THREADS];
	struct task tasks[THREADS];
	must(pthread_barrier_init(&start, NULL, THREADS));
	for (unsigned i = 0; i < THREADS; i++) {
		tasks[i] = (struct task){.function = function, .number = i, .data = data};
		must(pthread_create(&threads[i], NULL, run_task, &tasks[i]));
	}
	for (unsigned i = 0; i < THREADS; i++)
		must(pthread_join(threads[i], NULL));
	must(pthread_barrier_destroy(&start));
}

/* ---- configurations, each shared by all threads ---- */

struct conn_cfg_data {
	struct rpma_conn_cfg *cfg;
	struct rpma_srq *srqs[2];
};

static void
get_conn_cfg(const struct rpma_conn_cfg *cfg, const struct conn_cfg_data *data)
{
	struct rpma_srq *srq;
	uint32_t size;
	bool is_shared;
	int timeout_ms;
	must(rpma_conn_cfg_get_timeout(cfg, &timeout_ms));
	EXPECT(timeout_ms == 2000);
	must(rpma_conn_cfg_get_cq_size(cfg, &size));
	EXPECT(size == 21);
	must(rpma_conn_cfg_get_rcq_size(cfg, &size));
	EXPECT(size == 22);
	must(rpma_conn_cfg_get_sq_size(cfg, &size));
	EXPECT(size == 23);
	must(rpma_conn_cfg_get_rq_size(cfg, &size));
	EXPECT(size == 24);
	must(rpma_conn_cfg_get_compl_channel(cfg, &is_shared));
	EXPECT(is_shared);
	must(rpma_conn_cfg_get_srq(cfg, &srq));
	EXPECT(srq == data->srqs[0] || srq == data->srqs[1]);
}

static void
set_conn_cfg(struct rpma_conn_cfg *cfg, struct rpma_srq *srq)
{
	must(rpma_conn_cfg_set_timeout(cfg, 2000));
	must(rpma_conn_cfg_set_cq_size(cfg, 21));
	must(rpma_conn_cfg_set_rcq_size(cfg, 22));
	must(rpma_conn_cfg_set_sq_size(cfg, 23));
	must(rpma_conn_cfg_set_rq_size(cfg, 24));
	must(rpma_conn_cfg_set_compl_channel(cfg, true));
	must(rpma_conn_cfg_set_srq(cfg, srq));
}

static void
get_task(unsigned number, void *data)
{
	const struct conn_cfg_data *shared = data;
	(void)number;
	for (unsigned i = 0; i < short_times; i++)
		get_conn_cfg(shared->cfg, shared);
}

static void
set_and_get_task(unsigned number, void *data)
{
	const struct conn_cfg_data *shared = data;
	for (unsigned i = 0; i < short_times; i++) {
		set_conn_cfg(shared->cfg, shared->srqs[(number + i) % 2]);
		get_conn_cfg(shared->cfg, shared);
	}
}

static void
share_conn_cfg(void (*function)(unsigned number, void *data))
{
	struct conn_cfg_data data;
	must(rpma_srq_new(peer, NULL, &data.srqs[0]));
	must(rpma_srq_new(peer, NULL, &data.srqs[1]));
	must(rpma_conn_cfg_new(&data.cfg));
	set_conn_cfg(data.cfg, data.srqs[0]);
	in_threads(function, &data);
	must(rpma_conn_cfg_delete(&data.cfg));
	must(rpma_srq_delete(&data.srqs[0]));
	must(rpma_srq_delete(&data.srqs[1]));
}

static void
conn_cfg_get(void)
{
	share_conn_cfg(get_task);
}

static void
conn_cfg_set_and_get(void)
{
	share_conn_cfg(set_and_get_task);
}

static void
srq_cfg_set_and_get_task(unsigned number, void *data)
{
	struct rpma_srq_cfg *cfg = data;
	uint32_t size;
	(void)number;
	for (unsigned i = 0; i < short_times; i++) {
		must(rpma_srq_cfg_set_rq_size(cfg, 25));
		must(rpma_srq_cfg_set_rcq_size(cfg, 26));
		must(rpma_srq_cfg_get_rq_size(cfg, &size));
		EXPECT(size == 25);
		must(rpma_srq_cfg_get_rcq_size(cfg, &size));
		EXPECT(size == 26);
	}
}

static void
srq_cfg_set_and_get(void)
{
	struct rpma_srq_cfg *cfg;
	must(rpma_srq_cfg_new(&cfg));
	in_threads(srq_cfg_set_and_get_task, cfg);
	must(rpma_srq_cfg_delete(&cfg));
}

static void
peer_cfg_set_and_get_task(unsigned number, void *data)
{
	struct rpma_peer_cfg *cfg = data;
	bool is_direct;
	char descriptor[8];
	size_t size;
	(void)number;
	for (unsigned i = 0; i < short_times; i++) {
		must(rpma_peer_cfg_set_direct_write_to_pmem(cfg, true));
		must(rpma_peer_cfg_get_direct_write_to_pmem(cfg, &is_direct));
		EXPECT(is_direct);
		must(rpma_peer_cfg_get_descriptor_size(cfg, &size));
		EXPECT(size <= sizeof(descriptor));
		must(rpma_peer_cfg_get_descriptor(cfg, descriptor));
		EXPECT(descriptor[0] == 1);
	}
}

static void
peer_cfg_set_and_get(void)
{
	struct rpma_peer_cfg *cfg;
	must(rpma_peer_cfg_new(&cfg));
	in_threads(peer_cfg_set_and_get_task, cfg);
	must(rpma_peer_cfg_delete(&cfg));
}

static void
own_configurations_task(unsigned number, void *data)
{
	(void)data;
	for (unsigned i = 0; i < TIMES; i++) {
		struct rpma_conn_cfg *cfg;
		struct rpma_srq_cfg *srq_cfg;
		struct rpma_peer_cfg *pcfg;
		uint32_t size;
		bool is_direct;
		must(rpma_conn_cfg_new(&cfg));
		must(rpma_conn_cfg_set_sq_size(cfg, number));
		must(rpma_conn_cfg_get_sq_size(cfg, &size));
		EXPECT(size == number);
		must(rpma_conn_cfg_delete(&cfg));
		must(rpma_srq_cfg_new(&srq_cfg));
		must(rpma_srq_cfg_delete(&srq_cfg));
		must(rpma_peer_cfg_new(&pcfg));
		must(rpma_peer_cfg_delete(&pcfg));
		must(rpma_peer_cfg_from_descriptor("\1", 1, &pcfg));
		must(rpma_peer_cfg_get_direct_write_to_pmem(pcfg, &is_direct));
		EXPECT(is_direct);
		must(rpma_peer_cfg_delete(&pcfg));
	}
}

static void
own_configurations(void)
{
	in_threads(own_configurations_task, NULL);
}

/* ---- peers, memory, shared receive queues ---- */

static void
peers_task(unsigned number, void *data)
{
	(void)number;
	(void)data;
	for (unsigned i = 0; i < TIMES / 10; i++) {
		struct ibv_context *context;
		struct rpma_peer *own;
		int is_capable;
		must(rpma_utils_get_ibv_context(address(), RPMA_UTIL_IBV_CONTEXT_LOCAL, &context));
		must(rpma_utils_ibv_context_is_odp_capable(context, &is_capable));
		must(rpma_peer_new(context, &own));
		must(rpma_peer_delete(&own));
	}
}

static void
peers(void)
{
	in_threads(peers_task, NULL);
}

struct region_data {
	char *ptr;
	struct rpma_mr_local *mr;
	char descriptor[64];
};

static void
regions_task(unsigned number, void *data)
{
	const struct region_data *shared = data;
	char *own_ptr = memory();
	(void)number;
	for (unsigned i = 0; i < TIMES / 10; i++) {
		struct rpma_mr_local *own;
		struct rpma_mr_remote *remote;
		char descriptor[64];
		size_t size;
		void *ptr;
		int flush_type;
		must(rpma_mr_reg(peer, own_ptr, SIZE, RPMA_MR_USAGE_READ_SRC, &own));
		must(rpma_mr_dereg(&own));
		must(rpma_mr_get_ptr(shared->mr, &ptr));
		EXPECT(ptr == shared->ptr);
		must(rpma_mr_get_size(shared->mr, &size));
		EXPECT(size == SIZE);
		must(rpma_mr_get_descriptor_size(shared->mr, &size));
		must(rpma_mr_get_descriptor(shared->mr, descriptor));
		EXPECT(!memcmp(descriptor, shared->descriptor, size));
		must(rpma_mr_remote_from_descriptor(shared->descriptor, size, &remote));
		must(rpma_mr_remote_get_size(remote, &size));
		EXPECT(size == SIZE);
		must(rpma_mr_remote_get_flush_type(remote, &flush_type));
		must(rpma_mr_remote_delete(&remote));
	}
	must(munmap(own_ptr, SIZE));
}

static void
regions(void)
{
	struct region_data data = {.ptr = memory()};
	data.mr = region(peer, data.ptr, RPMA_MR_USAGE_READ_SRC);
	must(rpma_mr_get_descriptor(data.mr, data.descriptor));
	in_threads(regions_task, &data);
	must(rpma_mr_dereg(&data.mr));
}

struct srq_data {
	struct rpma_srq *srq;
	struct rpma_srq_cfg *cfg;
	struct rpma_mr_local *mr;
	struct rpma_cq *rcq;
};

static void
shared_receive_queues_task(unsigned number, void *data)
{
	const struct srq_data *shared = data;
	struct rpma_cq *rcq;
	for (unsigned i = 0; i < TIMES / 10; i++) {
		struct rpma_srq *own;
		must(rpma_srq_new(peer, i % 2 ? shared->cfg : NULL, &own));
		must(rpma_srq_delete(&own));
		must(rpma_srq_get_rcq(shared->srq, &rcq));
		EXPECT(rcq == shared->rcq);
	}
	must(rpma_srq_recv(shared->srq, shared->mr, 8 * (size_t)number, 8, NULL));
}

static void
shared_receive_queues(void)
{
	struct srq_data data;
	must(rpma_srq_cfg_new(&data.cfg));
	must(rpma_srq_new(peer, data.cfg, &data.srq));
	must(rpma_srq_get_rcq(data.srq, &data.rcq));
	data.mr = region(peer, memory(), RPMA_MR_USAGE_RECV);
	in_threads(shared_receive_queues_task, &data);
	must(rpma_srq_delete(&data.srq));
	must(rpma_srq_cfg_delete(&data.cfg));
	must(rpma_mr_dereg(&data.mr));
}

/* ---- endpoints and requests for connections ---- */

static void
endpoints_task(unsigned number, void *data)
{
	struct rpma_ep *shared = data;
	int fd, shared_fd;
	(void)number;
	must(rpma_ep_get_fd(shared, &shared_fd));
	for (unsigned i = 0; i < TIMES / 10; i++) {
		struct rpma_ep *own;
		must(rpma_ep_listen(peer, address(), "0", &own));
		must(rpma_ep_get_fd(own, &fd));
		EXPECT(fd != shared_fd);
		must(rpma_ep_shutdown(&own));
		must(rpma_ep_get_fd(shared, &fd));
		EXPECT(fd == shared_fd);
	}
}

static void
endpoints(void)
{
	struct rpma_ep *ep = listening(peer);
	in_threads(endpoints_task, ep);
	must(rpma_ep_shutdown(&ep));
}

static void
requests_task(unsigned number, void *data)
{
	(void)number;
	for (unsigned i = 0; i < TIMES / 10; i++) {
		struct rpma_conn_req *req = new_request(peer, i % 2 ? data : NULL);
		must(rpma_conn_req_delete(&req));
	}
}

static void
requests(void)
{
	struct rpma_conn_cfg *cfg;
	must(rpma_conn_cfg_new(&cfg));
	in_threads(requests_task, cfg);
	must(rpma_conn_cfg_delete(&cfg));
}

/* ---- connections ---- */

/* Both sides of a connection for each thread, and what is registered for them. */
struct ends {
	struct rpma_conn_req *req;
	struct rpma_conn *conn, *passive;
	char *ptr, *target;
	struct rpma_mr_local *mr, *target_mr;
	struct rpma_mr_remote *remote;
};

#define USAGES                                                                                     \
	(RPMA_MR_USAGE_READ_SRC | RPMA_MR_USAGE_READ_DST | RPMA_MR_USAGE_WRITE_SRC |               \
	 RPMA_MR_USAGE_WRITE_DST | RPMA_MR_USAGE_SEND | RPMA_MR_USAGE_RECV |                       \
	 RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY)

static struct rpma_ep *ep;

static void
connecting(struct ends *ends)
{
	ep = listening(peer);
	for (unsigned i = 0; i < THREADS; i++) {
		struct rpma_conn_req *req = new_request(peer, NULL);
		must(rpma_conn_req_connect(&req, NULL, &ends[i].conn));
		ends[i].req = next_request(ep, NULL);
	}
}

static void
connected(struct ends *ends)
{
	connecting(ends);
	for (unsigned i = 0; i < THREADS; i++) {
		struct ends *own = &ends[i];
		must(rpma_conn_req_connect(&own->req, NULL, &own->passive));
		expect_event(own->conn, RPMA_CONN_ESTABLISHED);
		expect_event(own->passive, RPMA_CONN_ESTABLISHED);
		own->ptr = memory();
		own->target = memory();
		own->mr = region(peer, own->ptr, USAGES);
		own->target_mr = region(peer, own->target, USAGES);
		own->remote = as_remote(own->target_mr);
	}
}

static void
disconnected(struct ends *ends)
{
	for (unsigned i = 0; i < THREADS; i++) {
		struct ends *own = &ends[i];
		must(rpma_conn_disconnect(own->conn));
		end_second(&own->passive);
		expect_event(own->conn, RPMA_CONN_CLOSED);
		must(rpma_conn_delete(&own->conn));
		if (own->mr) {
			must(rpma_mr_remote_delete(&own->remote));
			must(rpma_mr_dereg(&own->mr));
			must(rpma_mr_dereg(&own->target_mr));
		}
	}
	must(rpma_ep_shutdown(&ep));
}

static void
accept_task(unsigned number, void *data)
{
	struct ends *own = &((struct ends *)data)[number];
	struct rpma_conn_private_data pdata = {.ptr = "to all", .len = 7};
	must(rpma_conn_req_connect(&own->req, &pdata, &own->passive));
	expect_event(own->passive, RPMA_CONN_ESTABLISHED);
	expect_event(own->conn, RPMA_CONN_ESTABLISHED);
}

static void
accepting(void)
{
	struct ends ends[THREADS] = {0};
	connecting(ends);
	in_threads(accept_task, ends);
	disconnected(ends);
}

/* Each on its own connection. */
static void
operations_task(unsigned number, void *data)
{
	struct ends *own = &((struct ends *)data)[number];
	struct rpma_cq *cq = cq_of(own->conn), *passive_cq = cq_of(own->passive);
	for (unsigned i = 0; i < TIMES / 3; i++) {
		memset(own->ptr, (int)(number + i), 16);
		must(rpma_write(own->conn, own->remote, 0, own->mr, 0, 16, ON_ERROR, NULL));
		must(rpma_atomic_write(own->conn, own->remote, 16, "12345678", ON_ERROR, NULL));
		must(rpma_flush(own->conn, own->remote, 0, 24, RPMA_FLUSH_TYPE_VISIBILITY, ALWAYS,
				NULL));
		EXPECT(completion(cq).status == IBV_WC_SUCCESS);
		must(rpma_read(own->conn, own->mr, 32, own->remote, 0, 24, ALWAYS, NULL));
		(void)completed(cq, IBV_WC_RDMA_READ);
		EXPECT(!memcmp(own->ptr, own->ptr + 32, 16));
		must(rpma_recv(own->passive, own->target_mr, PAGE, PAGE, NULL));
		must(rpma_send(own->conn, own->mr, 0, 16, ALWAYS, NULL));
		(void)completed(cq, IBV_WC_SEND);
		(void)completed(passive_cq, IBV_WC_RECV);
		must(rpma_recv(own->passive, own->target_mr, PAGE, PAGE, NULL));
		must(rpma_write_with_imm(own->conn, own->remote, 0, own->mr, 0, 16, ALWAYS, i,
					 NULL));
		(void)completed(cq, IBV_WC_RDMA_WRITE);
		(void)completed(passive_cq, IBV_WC_RECV_RDMA_WITH_IMM);
	}
}

static void
operations(void)
{
	struct ends ends[THREADS] = {0};
	connected(ends);
	in_threads(operations_task, ends);
	disconnected(ends);
}

struct apply_data {
	struct ends *ends;
	struct rpma_peer_cfg *pcfg;
};

static void
peer_cfg_of_many_task(unsigned number, void *data)
{
	const struct apply_data *shared = data;
	for (unsigned i = 0; i < TIMES; i++)
		must(rpma_conn_apply_remote_peer_cfg(shared->ends[number].conn, shared->pcfg));
}

static void
peer_cfg_of_many(void)
{
	struct ends ends[THREADS] = {0};
	struct apply_data data = {.ends = ends};
	must(rpma_peer_cfg_new(&data.pcfg));
	connected(ends);
	in_threads(peer_cfg_of_many_task, &data);
	disconnected(ends);
	must(rpma_peer_cfg_delete(&data.pcfg));
}

/* What tells of a connection, while its thread works with it. Nobody has asked for its CQ before.
 */
struct told {
	struct ends *ends;
	_Atomic(struct rpma_cq *) cq;
};

static void
told_by_one_connection_task(unsigned number, void *data)
{
	struct told *told = data;
	struct rpma_conn *conn = told->ends[0].conn;
	struct rpma_conn_private_data pdata;
	struct rpma_cq *cq = cq_of(conn), *first = NULL;
	EXPECT(atomic_compare_exchange_strong(&told->cq, &first, cq) || first == cq);
	if (!number) {
		operations_task(0, told->ends);
		return;
	}
	for (unsigned i = 0; i < TIMES; i++) {
		uint32_t qp_num;
		int fd;
		must(rpma_conn_get_private_data(conn, &pdata));
		must(rpma_conn_get_qp_num(conn, &qp_num));
		must(rpma_conn_get_event_fd(conn, &fd));
		must(rpma_cq_get_fd(cq, &fd));
		EXPECT(cq_of(conn) == cq && !rcq_of(conn));
	}
}

static void
told_by_one_connection(void)
{
	struct ends ends[THREADS] = {0};
	struct told told = {.ends = ends};
	connected(ends);
	in_threads(told_by_one_connection_task, &told);
	disconnected(ends);
}

/* ---- the log ---- */

static void
log_task(unsigned number, void *data)
{
	(void)number;
	(void)data;
	for (unsigned i = 0; i < TIMES; i++) {
		enum rpma_log_level level;
		must(rpma_log_set_function(RPMA_LOG_USE_DEFAULT_FUNCTION));
		must(rpma_log_set_threshold(RPMA_LOG_THRESHOLD, RPMA_LOG_LEVEL_INFO));
		must(rpma_log_get_threshold(RPMA_LOG_THRESHOLD, &level));
		EXPECT(level == RPMA_LOG_LEVEL_INFO);
		EXPECT(rpma_err_2str(RPMA_E_NOMEM) && rpma_utils_conn_event_2str(RPMA_CONN_LOST));
	}
}

static void
logging(void)
{
	in_threads(log_task, NULL);
}

static const struct pattern {
	const char *name;
	void (*run)(void);
} patterns[] = {
	{"conn_cfg_get", conn_cfg_get},
	{"conn_cfg_set_and_get", conn_cfg_set_and_get},
	{"srq_cfg_set_and_get", srq_cfg_set_and_get},
	{"peer_cfg_set_and_get", peer_cfg_set_and_get},
	{"own_configurations", own_configurations},
	{"peers", peers},
	{"regions", regions},
	{"shared_receive_queues", shared_receive_queues},
	{"endpoints", endpoints},
	{"requests", requests},
	{"accepting", accepting},
	{"operations", operations},
	{"peer_cfg_of_many", peer_cfg_of_many},
	{"told_by_one_connection", told_by_one_connection},
	{"logging", logging},
};

int
main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
		if (argc == 1) {
			puts(patterns[i].name);
		} else if (!strcmp(argv[1], patterns[i].name)) {
			(void)alarm(DEADLINE_S);
			if (argc > 2)
				short_times = (unsigned)strtoul(argv[2], NULL, 10);
			peer = new_peer();
			patterns[i].run();
			must(rpma_peer_delete(&peer));
			return 0;
		}
	}
	return argc == 1 ? 0 : 2;
}
