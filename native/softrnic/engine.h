/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engine.h -- progress: who reads and writes the sockets, and when.
 *
 * One epoll instance per process. Whoever has time serves it: the progress thread when the program
 * sleeps or computes, a thread that polls a completion queue, a thread that waits for a completion
 * event. As long as a program's own thread serves, the progress thread keeps out of its way.
 */
#ifndef SOFTRNIC_ENGINE_H
#define SOFTRNIC_ENGINE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#define SOFTRNIC_EXPORT __attribute__((visibility("default")))

/*
 * Something with a file descriptor. `ready` runs on any thread, never twice at once for one source
 * unless its own locks allow it, and must not block. `release` runs when the last reference goes.
 */
struct source {
	int fd;
	void (*ready)(struct source *source, uint32_t events);
	void (*expired)(struct source *source); /* its deadline has passed; may be NULL */
	void (*release)(struct source *source);
	/* The engine's own: */
	_Atomic unsigned references;
	uint32_t slot; /* 0: not added */
	_Atomic uint32_t events;
	int64_t deadline; /* 0: none */
	struct source *next_timed, *previous_timed;
};

/* With one reference, the caller's. */
void source_init(struct source *source, int fd, void (*ready)(struct source *, uint32_t),
		 void (*expired)(struct source *), void (*release)(struct source *));
void source_get(struct source *source);
void source_put(struct source *source);

/* Serve it from now on (level-triggered). Starts the progress thread. 0 or an errno. */
int engine_add(struct source *source, uint32_t events);
/* Set and clear events that it is served for. */
int engine_change(struct source *source, uint32_t set, uint32_t clear);
/* No call of `ready` or `expired` begins after this; one may still be running. */
void engine_remove(struct source *source);
/* Call `expired` once, at this moment (engine_now()); 0 takes it back. Coarse: milliseconds. */
void engine_set_deadline(struct source *source, int64_t deadline);

extern _Atomic bool engine_is_lost; /* fork.c */
int engine_refuse(void);            /* EPERM, and tell the user why */

int64_t engine_now(void); /* CLOCK_MONOTONIC, in nanoseconds */

/*
 * 0, or EPERM in a child of the process that uses the device: fork is not supported across it. To
 * be asked before a lock is taken, which may be held by a thread that the child does not have.
 */
static inline int
engine_usable(void)
{
	return atomic_load_explicit(&engine_is_lost, memory_order_relaxed) ? engine_refuse() : 0;
}

/* ---- for the device ---- */

/* Serve what is ready now, without waiting. Returns how much that was. */
int engine_poll(void);
/* The program polls, here and now: the progress thread leaves the sockets to it for a while. */
void engine_polled(void);
/* A thread is about to sleep until there is a completion, though it may have polled until now. */
void engine_armed(void);
/* Whether the program has polled lately, and so may answer soon to what has come for it. */
bool engine_is_attended(void);
/*
 * Wait until `is_done`, serving what comes meanwhile; who makes it true in another thread has to
 * kick. Where another thread that waits serves already, wait for `fd` alone, which is readable
 * then. It may also return early. 0, or -1 with errno: EINTR.
 */
int engine_wait(int fd, bool (*is_done)(void *argument), void *argument);
void engine_kick(void);
/* Somebody else is at the socket already: the progress thread lets them. */
void engine_step_back(void);
/* How long what is owed waits for something to travel with. */
#define ENGINE_OWED_NS 30000
/*
 * Something small is owed to a peer, and may wait a moment for something to travel with. Returns
 * whether the progress thread will call `idle` soon; if not, the caller pays at once.
 */
bool engine_owe(void);
void engine_on_idle(void (*idle)(void));

/* ---- forks (fork.c) ---- */

/* This process uses the device from here on, or does not: its children cannot, or can. */
void engine_is_used(bool is);
/* A file descriptor to be closed in a forked child, where it would keep a connection alive. */
void engine_close_in_child(int fd);
void engine_forget_fd(int fd);

#endif
