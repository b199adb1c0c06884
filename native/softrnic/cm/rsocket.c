/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rsocket.c -- rsockets, of which there are none: who wants sockets over TCP has them.
 *
 * Programs such as rping are linked with rpoll() without ever using an rsocket, so that the names
 * must be there. rpoll() and rselect() take other file descriptors as well; the rest says EBADF.
 */
#include "cm.h"

#include <rdma/rsocket.h>

SOFTRNIC_EXPORT int
rsocket(int domain, int type, int protocol)
{
	(void)domain, (void)type, (void)protocol;
	return failed_with(EPROTONOSUPPORT);
}

SOFTRNIC_EXPORT int
rpoll(struct pollfd *fds, nfds_t count, int timeout)
{
	return poll(fds, count, timeout);
}

SOFTRNIC_EXPORT int
rselect(int count, fd_set *readable, fd_set *writable, fd_set *exceptional, struct timeval *timeout)
{
	return select(count, readable, writable, exceptional, timeout);
}

#pragma GCC diagnostic ignored "-Wunused-parameter"

#define NO_RSOCKET(type, name, ...)                                                                \
	SOFTRNIC_EXPORT type name(int socket, ##__VA_ARGS__)                                       \
	{                                                                                          \
		return (type)failed_with(EBADF);                                                   \
	}

NO_RSOCKET(int, rbind, const struct sockaddr *address, socklen_t size)
NO_RSOCKET(int, rlisten, int backlog)
NO_RSOCKET(int, raccept, struct sockaddr *address, socklen_t *size)
NO_RSOCKET(int, rconnect, const struct sockaddr *address, socklen_t size)
NO_RSOCKET(int, rshutdown, int how)
NO_RSOCKET(int, rclose)
NO_RSOCKET(ssize_t, rrecv, void *bytes, size_t size, int flags)
NO_RSOCKET(ssize_t, rrecvfrom, void *bytes, size_t size, int flags, struct sockaddr *address,
	   socklen_t *address_size)
NO_RSOCKET(ssize_t, rrecvmsg, struct msghdr *message, int flags)
NO_RSOCKET(ssize_t, rsend, const void *bytes, size_t size, int flags)
NO_RSOCKET(ssize_t, rsendto, const void *bytes, size_t size, int flags,
	   const struct sockaddr *address, socklen_t address_size)
NO_RSOCKET(ssize_t, rsendmsg, const struct msghdr *message, int flags)
NO_RSOCKET(ssize_t, rread, void *bytes, size_t size)
NO_RSOCKET(ssize_t, rreadv, const struct iovec *pieces, int count)
NO_RSOCKET(ssize_t, rwrite, const void *bytes, size_t size)
NO_RSOCKET(ssize_t, rwritev, const struct iovec *pieces, int count)
NO_RSOCKET(int, rgetpeername, struct sockaddr *address, socklen_t *size)
NO_RSOCKET(int, rgetsockname, struct sockaddr *address, socklen_t *size)
NO_RSOCKET(int, rsetsockopt, int level, int name, const void *value, socklen_t size)
NO_RSOCKET(int, rgetsockopt, int level, int name, void *value, socklen_t *size)
NO_RSOCKET(int, rfcntl, int command, ...)
NO_RSOCKET(off_t, riomap, void *bytes, size_t size, int protection, int flags, off_t offset)
NO_RSOCKET(int, riounmap, void *bytes, size_t size)
NO_RSOCKET(size_t, riowrite, const void *bytes, size_t size, off_t offset, int flags)
