/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fabric_sockets.c -- what many connections make of an operation on TCP sockets alone: the bytes of
 * fabric_connections.c without RDMA. For benchmarks/fabric.py.
 *
 * usage: fabric_sockets target ADDRESS PORT QUEUE_SIZE
 *        fabric_sockets client ADDRESS PORT QUEUE_SIZE
 *
 * It takes the commands of fabric_connections.c but "memory", with one write under way. Both sides
 * look for events without sleeping, as the soft RNIC does when it is busy. QUEUE_SIZE is ignored.
 */
#define PROGRAM "fabric_sockets"
#include "fabric_side.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CONNECTIONS_MAX 8192
/* A write of 8 bytes with the request to acknowledge it, and the acknowledgement. */
#define REQUEST_SIZE 80
#define ANSWER_SIZE 20

static int epfd, listener, sockets[CONNECTIONS_MAX];
static unsigned connected;

static void
must(const char *what, int ret)
{
	if (ret < 0)
		fail(what);
}

static void
watch(int fd)
{
	int on = 1;
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	must("epoll_ctl", epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event));
}

static int
next_readable(void)
{
	struct epoll_event event;
	while (epoll_wait(epfd, &event, 1, 0) <= 0)
		sched_yield();
	return event.data.fd;
}

static void *
answer(void *unused)
{
	char bytes[4096] = {0};
	(void)unused;
	for (;;) {
		int fd = next_readable();
		if (fd == listener) {
			int accepted = accept(listener, NULL, NULL);
			must("accept", accepted);
			watch(accepted);
		} else if (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) <= 0) {
			(void)epoll_ctl(epfd, EPOLL_CTL_DEL, fd, NULL);
		} else {
			(void)send(fd, bytes, ANSWER_SIZE, MSG_NOSIGNAL);
		}
	}
	return NULL;
}

static uint64_t
connect_up_to(const struct sockaddr_in *where, uint64_t count)
{
	uint64_t begin = now(CLOCK_MONOTONIC);
	errno = ERANGE;
	must("connections", count > CONNECTIONS_MAX ? -1 : 0);
	for (; connected < count; connected++) {
		int fd = sockets[connected] = socket(AF_INET, SOCK_STREAM, 0);
		must("connect", connect(fd, (const struct sockaddr *)where, sizeof(*where)));
		watch(fd);
	}
	return now(CLOCK_MONOTONIC) - begin;
}

static uint64_t
write_in_turn(uint64_t over, uint64_t count)
{
	char bytes[REQUEST_SIZE] = {0};
	uint64_t begin = now(CLOCK_MONOTONIC);
	errno = ERANGE;
	must("write", !over || over > connected ? -1 : 0);
	for (uint64_t i = 0; i < count; i++) {
		must("send", (int)send(sockets[i % over], bytes, sizeof(bytes), MSG_NOSIGNAL));
		must("recv", (int)recv(next_readable(), bytes, sizeof(bytes), MSG_DONTWAIT));
	}
	return now(CLOCK_MONOTONIC) - begin;
}

static uint64_t
command(const char *line, void *where)
{
	uint64_t count, over;
	if (!strcmp(line, "cpu\n"))
		return now(CLOCK_PROCESS_CPUTIME_ID);
	if (sscanf(line, "connect %" SCNu64, &count) == 1)
		return connect_up_to(where, count);
	if (sscanf(line, "write %" SCNu64 " %" SCNu64, &over, &count) == 2)
		return write_in_turn(over, count);
	errno = EINVAL;
	fail(line);
	return 0;
}

int
main(int argc, char *argv[])
{
	errno = EINVAL;
	if (argc != 5)
		fail("usage: fabric_sockets target|client ADDRESS PORT QUEUE_SIZE");
	raise_file_limit();
	struct sockaddr_in where = {.sin_family = AF_INET,
				    .sin_port = htons((uint16_t)atoi(argv[3]))};
	must("address", inet_pton(AF_INET, argv[2], &where.sin_addr) - 1);
	epfd = epoll_create1(0);
	must("epoll_create1", epfd);
	if (!strcmp(argv[1], "target")) {
		pthread_t thread;
		int on = 1;
		listener = socket(AF_INET, SOCK_STREAM, 0);
		(void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		must("bind", bind(listener, (struct sockaddr *)&where, sizeof(where)));
		must("listen", listen(listener, 1024));
		watch(listener);
		must("pthread_create", -pthread_create(&thread, NULL, answer, NULL));
	}
	answer_commands(command, &where);
	return 0;
}
