/* SPDX-License-Identifier: BSD-3-Clause */
/* uncancelled.c -- system calls at which no thread is cancelled. */
#include "uncancelled.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Sanitizers, and what stands in for the C library in a test, know its calls, not syscall(). */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_WATCHED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_WATCHED
#endif
#endif

#define UNCANCELLED(call)                                                                          \
	({                                                                                         \
		int state;                                                                         \
		(void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);                      \
		__auto_type ret = (call);                                                          \
		(void)pthread_setcancelstate(state, &state);                                       \
		ret;                                                                               \
	})

int
uncancelled_open(const char *path, int flags)
{
	return UNCANCELLED(open(path, flags, 0666));
}

ssize_t
uncancelled_read(int fd, void *bytes, size_t size)
{
	return UNCANCELLED(read(fd, bytes, size));
}

void
uncancelled_write(int fd, const void *bytes, size_t size)
{
	(void)!UNCANCELLED(write(fd, bytes, size));
}

void
uncancelled_close(int fd)
{
	(void)UNCANCELLED(close(fd));
}

ssize_t
uncancelled_random(void *bytes, size_t size)
{
	return UNCANCELLED(getrandom(bytes, size, 0));
}

void
uncancelled_event_add(int fd)
{
	(void)UNCANCELLED(eventfd_write(fd, 1));
}

void
uncancelled_event_clear(int fd)
{
	eventfd_t value;
	(void)UNCANCELLED(eventfd_read(fd, &value));
}

bool
uncancelled_event_take(int fd)
{
	eventfd_t value;
	struct iovec iovec = {&value, sizeof(value)};
	return UNCANCELLED(preadv2(fd, &iovec, 1, -1, RWF_NOWAIT)) == sizeof(value);
}

int
uncancelled_epoll_wait(int epfd, struct epoll_event *events, int count, int timeout_ms)
{
	return UNCANCELLED(epoll_wait(epfd, events, count, timeout_ms));
}

int
uncancelled_poll_moment(struct pollfd *fd, const struct timespec *moment)
{
	return UNCANCELLED(ppoll(fd, 1, moment, NULL));
}

void
uncancelled_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	(void)UNCANCELLED(pthread_cond_wait(cond, mutex));
}

int
uncancelled_accept(int fd, int flags)
{
	return UNCANCELLED(accept4(fd, NULL, NULL, flags));
}

int
uncancelled_connect(int fd, const struct sockaddr *address, socklen_t size)
{
	return UNCANCELLED(connect(fd, address, size));
}

/* Who polls looks here all the time, and would feel the switching; syscall() needs none. */
ssize_t
uncancelled_recv(int fd, void *bytes, size_t size)
{
#ifdef IS_WATCHED
	return UNCANCELLED(recv(fd, bytes, size, MSG_DONTWAIT));
#else
	return syscall(SYS_recvfrom, fd, bytes, size, MSG_DONTWAIT, NULL, NULL);
#endif
}

ssize_t
uncancelled_recvmsg(int fd, struct msghdr *message)
{
	return UNCANCELLED(recvmsg(fd, message, MSG_DONTWAIT));
}

ssize_t
uncancelled_send(int fd, const void *bytes, size_t size)
{
	return UNCANCELLED(send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT));
}

ssize_t
uncancelled_sendmsg(int fd, const struct msghdr *message)
{
	return UNCANCELLED(sendmsg(fd, message, MSG_NOSIGNAL | MSG_DONTWAIT));
}
