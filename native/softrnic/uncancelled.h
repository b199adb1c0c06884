/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uncancelled.h -- system calls at which no thread is cancelled.
 *
 * A thread that a program cancels (pthread_cancel) goes at its next call of a cancellation point,
 * with whatever lock, role or half-done change it has in hand. So all of the device's are these;
 * only waits for an event of the program, where nothing is in hand or a cleanup handler gives it
 * back, are the C library's own.
 */
#ifndef SOFTRNIC_UNCANCELLED_H
#define SOFTRNIC_UNCANCELLED_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

int uncancelled_open(const char *path, int flags);
ssize_t uncancelled_read(int fd, void *bytes, size_t size);
void uncancelled_write(int fd, const void *bytes, size_t size);
void uncancelled_close(int fd);
ssize_t uncancelled_random(void *bytes, size_t size);

/* An eventfd: one more; all there is, if anything; one of a semaphore, whatever its flags say. */
void uncancelled_event_add(int fd);
void uncancelled_event_clear(int fd);
bool uncancelled_event_take(int fd);

int uncancelled_epoll_wait(int epfd, struct epoll_event *events, int count, int timeout_ms);
int uncancelled_poll_moment(struct pollfd *fd, const struct timespec *moment);
void uncancelled_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);

/* On a socket, none of which waits. */
int uncancelled_accept(int fd, int flags);
int uncancelled_connect(int fd, const struct sockaddr *address, socklen_t size);
ssize_t uncancelled_recv(int fd, void *bytes, size_t size);
ssize_t uncancelled_recvmsg(int fd, struct msghdr *message);
ssize_t uncancelled_send(int fd, const void *bytes, size_t size);
ssize_t uncancelled_sendmsg(int fd, const struct msghdr *message);

#endif
