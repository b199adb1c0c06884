/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_peer.h -- what the targets with a fake peer share: the input, read from its front, and how
 * the peer's bytes are received. No thread runs.
 */
#ifndef SOFTRNIC_FUZZ_PEER_H
#define SOFTRNIC_FUZZ_PEER_H

#include "fuzz.h"

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

ssize_t __wrap_recv(int fd, void *bytes, size_t size, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*function)(void *), void *argument);

ssize_t
__wrap_recv(int fd, void *bytes, size_t size, int flags)
{
	struct iovec iovec = {bytes, size};
	struct msghdr message = {.msg_iov = &iovec, .msg_iovlen = 1};
	REQUIRE(size);
	return __wrap_recvmsg(fd, &message, flags);
}

int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
		      void *(*function)(void *), void *argument)
{
	(void)thread, (void)attributes, (void)function, (void)argument;
	return 0;
}

/* As much of the bytes as the message has room for. */
static size_t
receive_into(const struct msghdr *message, const uint8_t *bytes, size_t left)
{
	size_t got = 0;
	for (size_t i = 0; i < message->msg_iovlen && got < left; i++) {
		size_t size = message->msg_iov[i].iov_len;
		if (size > left - got)
			size = left - got;
		memcpy(message->msg_iov[i].iov_base, bytes + got, size);
		got += size;
	}
	return got;
}

static struct {
	const uint8_t *bytes;
	size_t size;
} input;

static uint32_t
take(unsigned bytes)
{
	uint32_t value = 0;
	while (bytes-- && input.size) {
		value = value << 8 | *input.bytes++;
		input.size--;
	}
	return value;
}

#endif
