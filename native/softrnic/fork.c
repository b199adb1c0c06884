/* SPDX-License-Identifier: BSD-3-Clause */
/* fork.c -- what happens to the device's file descriptors in a child process. */
#include "engine.h"

#include "say.h"
#include "uncancelled.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static struct {
	pthread_mutex_t lock;
	int *fds;
	unsigned count, capacity;
	_Atomic bool is_used;
} children = {.lock = PTHREAD_MUTEX_INITIALIZER};

SOFTRNIC_EXPORT _Atomic bool engine_is_lost;

SOFTRNIC_EXPORT int
engine_refuse(void)
{
	SAY_ONCE("this process is a fork of one that uses the device, and cannot use it: all calls "
		 "fail with EPERM (Operation not permitted). Fork before the device is used, that "
		 "is before a connection is made or listened for");
	return EPERM;
}

void
engine_is_used(bool is)
{
	atomic_store(&children.is_used, is);
}

static void
before_fork(void)
{
	pthread_mutex_lock(&children.lock);
}

static void
after_fork(void)
{
	pthread_mutex_unlock(&children.lock);
}

static void
child_after_fork(void)
{
	if (atomic_load(&children.is_used))
		atomic_store(&engine_is_lost, true);
	/* A connection that the parent ends must end for its peer as well. */
	for (unsigned i = 0; i < children.count; i++)
		uncancelled_close(children.fds[i]);
	children.count = 0;
	pthread_mutex_unlock(&children.lock);
}

static __attribute__((constructor)) void
watch_forks(void)
{
	(void)pthread_atfork(before_fork, after_fork, child_after_fork);
}

void
engine_close_in_child(int fd)
{
	pthread_mutex_lock(&children.lock);
	if (children.count == children.capacity) {
		unsigned capacity = children.capacity ? 2 * children.capacity : 64;
		int *grown = realloc(children.fds, capacity * sizeof(*grown));
		if (grown) {
			children.fds = grown;
			children.capacity = capacity;
		}
	}
	if (children.count < children.capacity)
		children.fds[children.count++] = fd;
	pthread_mutex_unlock(&children.lock);
}

void
engine_forget_fd(int fd)
{
	pthread_mutex_lock(&children.lock);
	for (unsigned i = children.count; i-- > 0;) {
		if (children.fds[i] == fd) {
			children.fds[i] = children.fds[--children.count];
			break;
		}
	}
	pthread_mutex_unlock(&children.lock);
}
