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

/*
 * For those that a message takes: syscall() is no cancellation point, so that nothing has to be
 * switched, nor does the C library prepare for being cancelled there.
 */
#ifdef IS_WATCHED
#define MESSAGE_CALL(call, ...) UNCANCELLED(call)
#else
#define MESSAGE_CALL(call, ...) syscall(__VA_ARGS__)
#endif

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
	const eventfd_t one = 1;
	(void)!MESSAGE_CALL(write(fd, &one, sizeof(one)), SYS_write, fd, &one, sizeof(one));
}

void
uncancelled_event_clear(int fd)
{
	eventfd_t value;
	(void)!MESSAGE_CALL(read(fd, &value, sizeof(value)), SYS_read, fd, &value, sizeof(value));
}

bool
uncancelled_event_take(int fd)
{
	eventfd_t value;
	struct iovec iovec = {&value, sizeof(value)};
	return MESSAGE_CALL(preadv2(fd, &iovec, 1, -1, RWF_NOWAIT), SYS_preadv2, fd, &iovec, 1UL,
			    -1L, -1L, RWF_NOWAIT) == sizeof(value);
}

int
uncancelled_epoll_wait(int epfd, struct epoll_event *events, int count, int timeout_ms)
{
	/* Not SYS_epoll_wait, which aarch64 does not have. */
	return (int)MESSAGE_CALL(epoll_wait(epfd, events, count, timeout_ms), SYS_epoll_pwait, epfd,
				 events, count, timeout_ms, NULL, 0UL);
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

ssize_t
uncancelled_recv(int fd, void *bytes, size_t size)
{
	return MESSAGE_CALL(recv(fd, bytes, size, MSG_DONTWAIT), SYS_recvfrom, fd, bytes, size,
			    MSG_DONTWAIT, NULL, NULL);
}

ssize_t
uncancelled_recvmsg(int fd, struct msghdr *message)
{
	return MESSAGE_CALL(recvmsg(fd, message, MSG_DONTWAIT), SYS_recvmsg, fd, message,
			    MSG_DONTWAIT);
}

ssize_t
uncancelled_send(int fd, const void *bytes, size_t size)
{
	const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
	return MESSAGE_CALL(send(fd, bytes, size, flags), SYS_sendto, fd, bytes, size, flags, NULL,
			    0);
}

ssize_t
uncancelled_sendmsg(int fd, const struct msghdr *message)
{
	const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
	return MESSAGE_CALL(sendmsg(fd, message, flags), SYS_sendmsg, fd, message, flags);
}
