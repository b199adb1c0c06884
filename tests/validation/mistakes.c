/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mistakes.c -- a program for every mistake that the debug build tells: mistakes NAME. What the
 * wrong call returns, and rpma_errormsg(), are printed, if the program lives to do so.
 */
#include "pair.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>

#define ALWAYS RPMA_F_COMPLETION_ALWAYS
#define ON_ERROR RPMA_F_COMPLETION_ON_ERROR

extern const char *rpma_errormsg(void) __attribute__((weak));

static struct pair pair;

/* ---- handles ---- */

static int
null_handle(void)
{
	return rpma_conn_disconnect(NULL);
}

static int
null_result(void)
{
	return rpma_peer_cfg_new(NULL);
}

static int
freed_handle(void)
{
	size_t size;
	pair_memory(&pair);
	struct rpma_mr_local *copy = pair.local;
	must(rpma_mr_dereg(&pair.local));
	return rpma_mr_get_size(copy, &size);
}

static int
wrong_kind(void)
{
	size_t size;
	pair_memory(&pair);
	return rpma_mr_remote_get_size((struct rpma_mr_remote *)(void *)pair.local, &size);
}

static int
wild_handle(void)
{
	static char nothing[64];
	return rpma_conn_disconnect((struct rpma_conn *)(void *)nothing);
}

static int
no_handle(void)
{
	return rpma_conn_disconnect((struct rpma_conn *)(uintptr_t)64);
}

static int
handle_with_an_offset(void)
{
	pair_memory(&pair);
	return rpma_mr_dereg(&(struct rpma_mr_local *){
		(struct rpma_mr_local *)(void *)((char *)(void *)pair.local + 8)});
}

static int
request_used_up(void)
{
	struct rpma_conn_private_data data;
	struct rpma_conn_req *req, *copy;
	pair_memory(&pair);
	must(rpma_ep_listen(pair.peer, address(), port(), &pair.ep));
	must(rpma_conn_req_new(pair.peer, address(), port(), NULL, &req));
	copy = req;
	must(rpma_conn_req_connect(&req, NULL, &pair.conn));
	return rpma_conn_req_get_private_data(copy, &data);
}

static int
other_peer(void)
{
	struct rpma_mr_local *mr;
	pair_new(&pair);
	must(rpma_mr_reg(new_peer(), memory(), SIZE, EVERY_USAGE, &mr));
	return rpma_write(pair.conn, pair.remote, 0, mr, 0, 8, ALWAYS, NULL);
}

static int
srq_of_other_peer(void)
{
	struct rpma_srq *srq;
	struct rpma_conn_req *req;
	pair_memory(&pair);
	must(rpma_srq_new(new_peer(), NULL, &srq));
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_srq(pair.cfg, srq));
	return rpma_conn_req_new(pair.peer, address(), port(), pair.cfg, &req);
}

static int
deleted_srq(void)
{
	struct rpma_srq *srq;
	struct rpma_conn_req *req;
	pair_memory(&pair);
	must(rpma_srq_new(pair.peer, NULL, &srq));
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_srq(pair.cfg, srq));
	must(rpma_srq_delete(&srq));
	return rpma_conn_req_new(pair.peer, address(), port(), pair.cfg, &req);
}

static int
wild_srq(void)
{
	static char nothing[64];
	struct rpma_conn_req *req;
	pair_memory(&pair);
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_srq(pair.cfg, (struct rpma_srq *)(void *)nothing));
	return rpma_conn_req_new(pair.peer, address(), port(), pair.cfg, &req);
}

static int
deleted_twice(void)
{
	pair_new(&pair);
	struct rpma_conn *copy = pair.conn;
	pair_disconnect(&pair);
	must(rpma_conn_delete(&pair.conn));
	return rpma_conn_delete(&copy);
}

static int
peer_in_use(void)
{
	pair_memory(&pair);
	return rpma_peer_delete(&pair.peer);
}

static int
srq_in_use(void)
{
	struct rpma_srq *srq;
	pair_memory(&pair);
	must(rpma_srq_new(pair.peer, NULL, &srq));
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_srq(pair.cfg, srq));
	pair_connecting(&pair);
	return rpma_srq_delete(&srq);
}

static int
region_in_use(void)
{
	pair_new(&pair);
	must(rpma_recv(pair.conn, pair.local, 0, 8, NULL));
	return rpma_mr_dereg(&pair.local);
}

static int
leak(void)
{
	pair_memory(&pair);
	return 0;
}

/* ---- memory ---- */

static int
local_range(void)
{
	pair_new(&pair);
	return rpma_write(pair.conn, pair.remote, 0, pair.local, SIZE - 4, 8, ALWAYS, NULL);
}

static int
local_overflow(void)
{
	pair_new(&pair);
	return rpma_read(pair.conn, pair.local, SIZE_MAX - 3, pair.remote, 0, 8, ALWAYS, NULL);
}

static int
remote_range(void)
{
	pair_new(&pair);
	return rpma_write(pair.conn, pair.remote, SIZE, pair.local, 0, 1, ALWAYS, NULL);
}

static int
flush_range(void)
{
	pair_new(&pair);
	return rpma_flush(pair.conn, pair.remote, 0, SIZE + 1, RPMA_FLUSH_TYPE_VISIBILITY, ALWAYS,
			  NULL);
}

static int
advise_range(void)
{
	pair_memory(&pair);
	return rpma_mr_advise(pair.local, 0, SIZE + 1, 0, 0);
}

static int
length_over_32_bits(void)
{
	struct rpma_mr_local *local, *target;
	size_t size = (1ul << 32) + PAGE;
	pair_new(&pair);
	void *ptr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(ptr == MAP_FAILED);
	must(rpma_mr_reg(pair.peer, ptr, size, EVERY_USAGE, &local));
	must(rpma_mr_reg(pair.peer, ptr, size, EVERY_USAGE, &target));
	return rpma_write(pair.conn, as_remote(target), 0, local, 0, size, ALWAYS, NULL);
}

/* A region for something else than what is done with it. */
static struct rpma_mr_local *
region_for(int usage)
{
	struct rpma_mr_local *mr;
	must(rpma_mr_reg(pair.peer, pair.source, SIZE, usage, &mr));
	return mr;
}

static int
write_source_usage(void)
{
	pair_new(&pair);
	return rpma_write(pair.conn, pair.remote, 0, region_for(RPMA_MR_USAGE_SEND), 0, 8, ALWAYS,
			  NULL);
}

static int
read_destination_usage(void)
{
	pair_new(&pair);
	return rpma_read(pair.conn, region_for(RPMA_MR_USAGE_SEND), 0, pair.remote, 0, 8, ALWAYS,
			 NULL);
}

static int
send_usage(void)
{
	pair_new(&pair);
	return rpma_send(pair.conn, region_for(RPMA_MR_USAGE_RECV), 0, 8, ALWAYS, NULL);
}

static int
receive_usage(void)
{
	pair_new(&pair);
	return rpma_recv(pair.conn, region_for(RPMA_MR_USAGE_SEND), 0, 8, NULL);
}

static int
receive_other_usage(void)
{
	pair_new(&pair);
	return rpma_recv(pair.conn, region_for(RPMA_MR_USAGE_SEND | RPMA_MR_USAGE_READ_DST), 0, 8,
			 NULL);
}

static int
read_destination_other_usage(void)
{
	pair_new(&pair);
	return rpma_read(pair.conn, region_for(RPMA_MR_USAGE_WRITE_DST), 0, pair.remote, 0, 8,
			 ALWAYS, NULL);
}

static int
remote_write_usage(void)
{
	pair_new(&pair);
	return rpma_write(pair.conn, as_remote(region_for(RPMA_MR_USAGE_READ_SRC)), 0, pair.local,
			  0, 8, ALWAYS, NULL);
}

static int
remote_read_usage(void)
{
	pair_new(&pair);
	return rpma_read(pair.conn, pair.local, 0, as_remote(region_for(RPMA_MR_USAGE_WRITE_DST)),
			 0, 8, ALWAYS, NULL);
}

static int
atomic_offset(void)
{
	pair_new(&pair);
	return rpma_atomic_write(pair.conn, pair.remote, 4, "abcdefgh", ALWAYS, NULL);
}

static int
atomic_address(void)
{
	struct rpma_mr_local *mr;
	pair_new(&pair);
	must(rpma_mr_reg(pair.peer, pair.target + 4, PAGE, EVERY_USAGE, &mr));
	return rpma_atomic_write(pair.conn, as_remote(mr), 0, "abcdefgh", ALWAYS, NULL);
}

static int
unmapped(void)
{
	pair_new(&pair);
	must(munmap(pair.source + PAGE, PAGE));
	return rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 2 * PAGE, ALWAYS, NULL);
}

static int
source_changed(void)
{
	pair_new(&pair);
	must(rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 8, ALWAYS, (void *)7));
	pair.source[3] ^= 1;
	(void)completion(pair.cq);
	return 0;
}

static int
unanswered_source_changed(void)
{
	pair_new(&pair);
	must(rpma_recv(pair.passive, pair.target_mr, 0, 8, NULL));
	must(rpma_recv(pair.conn, pair.local, PAGE, 8, NULL));
	must(rpma_send(pair.conn, pair.local, 0, 8, ON_ERROR, (void *)7));
	(void)completion(pair.passive_cq);
	pair.source[3] ^= 1;
	must(rpma_send(pair.passive, pair.target_mr, 8, 8, ALWAYS, NULL));
	(void)completion(pair.cq);
	return 0;
}

static int
destination_read(void)
{
	pair_new(&pair);
	must(rpma_recv(pair.passive, pair.target_mr, 0, SIZE, NULL));
	return pair.target[PAGE] == 'x' ? 0 : 4;
}

/* ---- queues ---- */

static struct rpma_conn_cfg *
sizes(uint32_t sq, uint32_t rq, uint32_t cq, uint32_t rcq)
{
	struct rpma_conn_cfg *cfg;
	must(rpma_conn_cfg_new(&cfg));
	must(rpma_conn_cfg_set_sq_size(cfg, sq));
	must(rpma_conn_cfg_set_rq_size(cfg, rq));
	must(rpma_conn_cfg_set_cq_size(cfg, cq));
	must(rpma_conn_cfg_set_rcq_size(cfg, rcq));
	return cfg;
}

static int
write8(int flags)
{
	return rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 8, flags, NULL);
}

static int
send_queue_full(void)
{
	int ret = 0;
	pair.cfg = sizes(4, 4, 4000, 0);
	pair_new(&pair);
	for (int i = 0; i < 2000 && !ret; i++)
		ret = write8(ALWAYS);
	return ret;
}

static int
receive_queue_full(void)
{
	int ret = 0;
	pair.cfg = sizes(4, 4, 4000, 0);
	pair_new(&pair);
	for (int i = 0; i < 2000 && !ret; i++)
		ret = rpma_recv(pair.conn, pair.local, 0, 8, NULL);
	return ret;
}

static int
shared_queue_full(void)
{
	int ret = 0;
	struct rpma_srq_cfg *cfg;
	struct rpma_srq *srq;
	pair_memory(&pair);
	must(rpma_srq_cfg_new(&cfg));
	must(rpma_srq_cfg_set_rq_size(cfg, 4));
	must(rpma_srq_new(pair.peer, cfg, &srq));
	for (int i = 0; i < 2000 && !ret; i++)
		ret = rpma_srq_recv(srq, pair.local, 0, 8, NULL);
	return ret;
}

static int
cq_overflow(void)
{
	pair.cfg = sizes(8, 8, 2, 0);
	pair_new(&pair);
	must(write8(ALWAYS));
	must(write8(ALWAYS));
	return write8(ALWAYS);
}

static int
rcq_overflow(void)
{
	pair.cfg = sizes(8, 8, 2, 1);
	pair_new(&pair);
	must(rpma_recv(pair.conn, pair.local, 0, 8, NULL));
	return rpma_recv(pair.conn, pair.local, 0, 8, NULL);
}

static int
never_retired(void)
{
	pair.cfg = sizes(3, 3, 6, 0);
	pair_new(&pair);
	must(write8(ON_ERROR));
	must(write8(ON_ERROR));
	must(write8(ON_ERROR));
	return write8(ON_ERROR);
}

static int
never_known(void)
{
	pair_new(&pair);
	must(write8(ON_ERROR));
	pair_disconnect(&pair);
	return rpma_conn_delete(&pair.conn);
}

static int
never_collected(void)
{
	pair_new(&pair);
	must(write8(ALWAYS));
	return rpma_conn_delete(&pair.conn);
}

/* ---- state ---- */

static int
not_established(void)
{
	pair_memory(&pair);
	pair_connecting(&pair);
	return write8(ALWAYS);
}

static int
disconnecting(void)
{
	pair_new(&pair);
	must(rpma_conn_disconnect(pair.conn));
	return write8(ALWAYS);
}

static int
closed(void)
{
	pair_new(&pair);
	pair_disconnect(&pair);
	return write8(ALWAYS);
}

static int
private_data_too_long(void)
{
	static char bytes[255];
	struct rpma_conn_private_data data = {.ptr = bytes, .len = sizeof(bytes)};
	struct rpma_conn_req *req;
	pair_memory(&pair);
	must(rpma_ep_listen(pair.peer, address(), port(), &pair.ep));
	must(rpma_conn_req_new(pair.peer, address(), port(), NULL, &req));
	return rpma_conn_req_connect(&req, &data, &pair.conn);
}

static int
private_data_empty(void)
{
	struct rpma_conn_private_data data = {.ptr = "", .len = 0};
	struct rpma_conn_req *req;
	pair_memory(&pair);
	must(rpma_ep_listen(pair.peer, address(), port(), &pair.ep));
	must(rpma_conn_req_new(pair.peer, address(), port(), NULL, &req));
	return rpma_conn_req_connect(&req, &data, &pair.conn);
}

static int
flush_to(int usage, enum rpma_flush_type type, bool has_direct_write)
{
	struct rpma_mr_local *mr;
	struct rpma_peer_cfg *pcfg;
	pair_new(&pair);
	must(rpma_peer_cfg_new(&pcfg));
	must(rpma_peer_cfg_set_direct_write_to_pmem(pcfg, has_direct_write));
	must(rpma_conn_apply_remote_peer_cfg(pair.conn, pcfg));
	must(rpma_mr_reg(pair.peer, persistent_memory(), SIZE, usage, &mr));
	return rpma_flush(pair.conn, as_remote(mr), 0, 8, type, ALWAYS, NULL);
}

static int
flush_visibility_not_offered(void)
{
	return flush_to(RPMA_MR_USAGE_WRITE_DST, RPMA_FLUSH_TYPE_VISIBILITY, true);
}

static int
flush_persistent_not_offered(void)
{
	return flush_to(RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY, RPMA_FLUSH_TYPE_PERSISTENT, true);
}

static int
flush_without_direct_write(void)
{
	return flush_to(RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT, RPMA_FLUSH_TYPE_PERSISTENT, false);
}

static int
persistent_flush_of_dram(void)
{
	struct rpma_mr_local *mr;
	return rpma_mr_reg(new_peer(), memory(), SIZE, RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT, &mr);
}

static int
flush_type(void)
{
	return flush_to(EVERY_USAGE, (enum rpma_flush_type)7, true);
}

static int
wait_on_shared_channel(void)
{
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_compl_channel(pair.cfg, true));
	pair_new(&pair);
	return rpma_cq_wait(pair.cq);
}

static int
wait_without_shared_channel(void)
{
	struct rpma_cq *cq;
	bool is_rcq;
	pair_new(&pair);
	return rpma_conn_wait(pair.conn, 0, &cq, &is_rcq);
}

static int
shared_channel_with_srq(void)
{
	struct rpma_srq *srq;
	struct rpma_conn_req *req;
	pair_memory(&pair);
	must(rpma_ep_listen(pair.peer, address(), port(), &pair.ep));
	must(rpma_srq_new(pair.peer, NULL, &srq));
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_compl_channel(pair.cfg, true));
	must(rpma_conn_cfg_set_srq(pair.cfg, srq));
	return rpma_conn_req_new(pair.peer, address(), port(), pair.cfg, &req);
}

static int
receive_beside_srq(void)
{
	struct rpma_srq *srq;
	pair_memory(&pair);
	must(rpma_srq_new(pair.peer, NULL, &srq));
	must(rpma_conn_cfg_new(&pair.cfg));
	must(rpma_conn_cfg_set_srq(pair.cfg, srq));
	pair_connecting(&pair);
	pair_established(&pair);
	return rpma_recv(pair.conn, pair.local, 0, 8, NULL);
}

static int
no_flags(void)
{
	pair_new(&pair);
	return write8(0);
}

static int
unknown_flags(void)
{
	pair_new(&pair);
	return write8(1 << 1);
}

static int
half_a_transfer(void)
{
	pair_new(&pair);
	return rpma_write(pair.conn, pair.remote, 0, NULL, 0, 8, ALWAYS, NULL);
}

static int
usage_zero(void)
{
	struct rpma_mr_local *mr;
	pair_memory(&pair);
	return rpma_mr_reg(pair.peer, pair.source, SIZE, 0, &mr);
}

static int
descriptor_too_short(void)
{
	struct rpma_mr_remote *remote;
	return rpma_mr_remote_from_descriptor("12345678", 8, &remote);
}

static int
no_entries(void)
{
	struct ibv_wc wc;
	pair_new(&pair);
	return rpma_cq_get_wc(pair.cq, 0, &wc, NULL);
}

static int
negative_timeout(void)
{
	must(rpma_conn_cfg_new(&pair.cfg));
	return rpma_conn_cfg_set_timeout(pair.cfg, -1);
}

/* ---- threads ---- */

static sem_t is_inside;

/* The first message holds the call that logs it in the library. */
static void
hold(enum rpma_log_level level, const char *file, const int line, const char *function,
     const char *format, ...)
{
	static _Atomic bool holds;
	(void)level, (void)file, (void)line, (void)function, (void)format;
	if (atomic_exchange(&holds, true))
		return;
	sem_post(&is_inside);
	pause();
}

static void
hold_calls(enum rpma_log_level level)
{
	must(rpma_log_set_threshold(RPMA_LOG_THRESHOLD, level));
	must(rpma_log_set_function(hold));
}

static void
start(void *(*function)(void *))
{
	pthread_t thread;
	sem_init(&is_inside, 0, 0);
	must(pthread_create(&thread, NULL, function, NULL));
}

static void *
disconnect_in_thread(void *unused)
{
	(void)rpma_conn_disconnect(pair.conn);
	return unused;
}

static int
connection_in_two_threads(void)
{
	pair_new(&pair);
	hold_calls(RPMA_LOG_LEVEL_NOTICE);
	start(disconnect_in_thread);
	sem_wait(&is_inside);
	return write8(ALWAYS);
}

static void *
next_conn_req_in_thread(void *unused)
{
	struct rpma_conn_req *req;
	sem_post(&is_inside);
	(void)rpma_ep_next_conn_req(pair.ep, NULL, &req);
	return unused;
}

static void
wait_in_thread(void)
{
	pair_memory(&pair);
	must(rpma_ep_listen(pair.peer, address(), port(), &pair.ep));
	start(next_conn_req_in_thread);
	sem_wait(&is_inside);
	usleep(500 * 1000);
}

static int
endpoint_in_two_threads(void)
{
	struct rpma_conn_req *req;
	int fd;
	wait_in_thread();
	/* The other thread waits as it does; this one is not to. */
	must(rpma_ep_get_fd(pair.ep, &fd));
	must(fcntl(fd, F_SETFL, O_NONBLOCK));
	return rpma_ep_next_conn_req(pair.ep, NULL, &req);
}

static int
endpoint_shut_down_in_use(void)
{
	wait_in_thread();
	return rpma_ep_shutdown(&pair.ep);
}

static void *
conn_req_new_in_thread(void *unused)
{
	struct rpma_conn_req *req;
	(void)rpma_conn_req_new(pair.peer, address(), port(), pair.cfg, &req);
	return unused;
}

static void
take_configuration_in_thread(void)
{
	pair_memory(&pair);
	must(rpma_conn_cfg_new(&pair.cfg));
	hold_calls(RPMA_LOG_LEVEL_NOTICE);
	start(conn_req_new_in_thread);
	sem_wait(&is_inside);
}

static int
configuration_in_two_threads(void)
{
	take_configuration_in_thread();
	return rpma_conn_cfg_set_sq_size(pair.cfg, 20);
}

static int
configuration_deleted_in_use(void)
{
	take_configuration_in_thread();
	return rpma_conn_cfg_delete(&pair.cfg);
}

static void *
next_event_in_thread(void *unused)
{
	enum rpma_conn_event event;
	sem_post(&is_inside);
	(void)rpma_conn_next_event(pair.conn, &event);
	return unused;
}

static int
deleted_in_use(void)
{
	pair_new(&pair);
	start(next_event_in_thread);
	sem_wait(&is_inside);
	usleep(500 * 1000);
	return rpma_conn_delete(&pair.conn);
}

static void *
cq_wait_in_thread(void *unused)
{
	sem_post(&is_inside);
	(void)rpma_cq_wait(pair.cq);
	return unused;
}

static int
deleted_with_cq_in_use(void)
{
	pair_new(&pair);
	start(cq_wait_in_thread);
	sem_wait(&is_inside);
	usleep(500 * 1000);
	return rpma_conn_delete(&pair.conn);
}

static const struct mistake {
	const char *name;
	int (*make)(void);
} mistakes[] = {
#define MISTAKE(name)                                                                              \
	{                                                                                          \
#name, name                                                                        \
	}
	MISTAKE(null_handle),
	MISTAKE(null_result),
	MISTAKE(freed_handle),
	MISTAKE(wrong_kind),
	MISTAKE(wild_handle),
	MISTAKE(no_handle),
	MISTAKE(handle_with_an_offset),
	MISTAKE(request_used_up),
	MISTAKE(other_peer),
	MISTAKE(srq_of_other_peer),
	MISTAKE(deleted_srq),
	MISTAKE(wild_srq),
	MISTAKE(deleted_twice),
	MISTAKE(peer_in_use),
	MISTAKE(srq_in_use),
	MISTAKE(region_in_use),
	MISTAKE(leak),
	MISTAKE(local_range),
	MISTAKE(local_overflow),
	MISTAKE(remote_range),
	MISTAKE(flush_range),
	MISTAKE(advise_range),
	MISTAKE(length_over_32_bits),
	MISTAKE(write_source_usage),
	MISTAKE(read_destination_usage),
	MISTAKE(send_usage),
	MISTAKE(receive_usage),
	MISTAKE(receive_other_usage),
	MISTAKE(read_destination_other_usage),
	MISTAKE(remote_write_usage),
	MISTAKE(remote_read_usage),
	MISTAKE(atomic_offset),
	MISTAKE(atomic_address),
	MISTAKE(unmapped),
	MISTAKE(source_changed),
	MISTAKE(unanswered_source_changed),
	MISTAKE(destination_read),
	MISTAKE(send_queue_full),
	MISTAKE(receive_queue_full),
	MISTAKE(shared_queue_full),
	MISTAKE(cq_overflow),
	MISTAKE(rcq_overflow),
	MISTAKE(never_retired),
	MISTAKE(never_known),
	MISTAKE(never_collected),
	MISTAKE(not_established),
	MISTAKE(disconnecting),
	MISTAKE(closed),
	MISTAKE(private_data_too_long),
	MISTAKE(private_data_empty),
	MISTAKE(flush_visibility_not_offered),
	MISTAKE(flush_persistent_not_offered),
	MISTAKE(flush_without_direct_write),
	MISTAKE(persistent_flush_of_dram),
	MISTAKE(flush_type),
	MISTAKE(wait_on_shared_channel),
	MISTAKE(wait_without_shared_channel),
	MISTAKE(shared_channel_with_srq),
	MISTAKE(receive_beside_srq),
	MISTAKE(no_flags),
	MISTAKE(unknown_flags),
	MISTAKE(half_a_transfer),
	MISTAKE(usage_zero),
	MISTAKE(descriptor_too_short),
	MISTAKE(no_entries),
	MISTAKE(negative_timeout),
	MISTAKE(connection_in_two_threads),
	MISTAKE(endpoint_in_two_threads),
	MISTAKE(endpoint_shut_down_in_use),
	MISTAKE(configuration_in_two_threads),
	MISTAKE(configuration_deleted_in_use),
	MISTAKE(deleted_in_use),
	MISTAKE(deleted_with_cq_in_use),
};

int
main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(mistakes) / sizeof(*mistakes); i++) {
		if (argc == 1) {
			puts(mistakes[i].name);
		} else if (!strcmp(argv[1], mistakes[i].name)) {
			int ret = mistakes[i].make();
			printf("%d %s\n", ret, rpma_errormsg ? rpma_errormsg() : "");
			fflush(stdout);
			if (strstr(argv[1], "threads") || strstr(argv[1], "in_use"))
				_exit(0); /* the other thread is in the library */
			return 0;
		}
	}
	return argc == 1 ? 0 : 2;
}
