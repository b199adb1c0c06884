/* SPDX-License-Identifier: BSD-3-Clause */
/* raw_peer.h -- peers that speak MPA by hand, over a socket of their own. */
#ifndef SOFTRNIC_RAW_PEER_H
#define SOFTRNIC_RAW_PEER_H

#include "cm_test.h"

/* How MPA's frames begin. */
#define REQUEST "4D504120494420526571204672616D65"
#define REPLY "4D504120494420526570204672616D65"

static inline int
raw_connect(const struct rdma_cm_id *listener)
{
	union address address = {.storage = listener->route.addr.src_storage};
	int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	MUST(fd >= 0);
	MUST(!connect(fd, &address.any, size_of(&address)));
	return fd;
}

static inline void
raw_send(int fd, const char *hex)
{
	uint8_t bytes[1024];
	size_t size = parse(bytes, hex);
	CHECK(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

/* What comes within the time that anything may take, as far as it is asked for. */
static inline size_t
raw_receive(int fd, uint8_t *bytes, size_t size)
{
	size_t filled = 0;
	while (filled < size && is_readable(fd, PATIENCE_MS)) {
		ssize_t got = recv(fd, bytes + filled, size - filled, 0);
		if (got <= 0)
			break;
		filled += (size_t)got;
	}
	return filled;
}

#define RAW_EXPECT(fd, hex) raw_expect(__LINE__, fd, hex)

static inline void
raw_expect(int line, int fd, const char *hex)
{
	uint8_t got[1024], shall_be[1024];
	size_t size = parse(shall_be, hex);
	size_t count = raw_receive(fd, got, size);
	check(line, "bytes received", (long long)count, (long long)size);
	check_bytes(line, got, count, hex);
}

/* Closed by the other side, with nothing more to read. */
#define RAW_EXPECT_CLOSED(fd)                                                                      \
	do {                                                                                       \
		char byte;                                                                         \
		CHECK(is_readable(fd, PATIENCE_MS), 1);                                            \
		CHECK(recv(fd, &byte, 1, 0) <= 0, 1);                                              \
		close(fd);                                                                         \
	} while (0)

static inline int
raw_listen(int *port)
{
	union address address = address_of("127.0.0.1", 0);
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	MUST(fd >= 0 && !bind(fd, &address.any, size_of(&address)) && !listen(fd, 16));
	MUST(!getsockname(fd, &address.any, &size));
	*port = ntohs(address.v4.sin_port);
	return fd;
}

static inline int
raw_accept(int listen_fd)
{
	MUST(is_readable(listen_fd, PATIENCE_MS));
	int fd = accept(listen_fd, NULL, NULL);
	MUST(fd >= 0);
	return fd;
}

#endif
