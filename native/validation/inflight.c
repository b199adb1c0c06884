/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inflight.c -- level 4: the memory of requests between their posting and their completion. A
 * source has to stay as it is: its bytes are hashed, and compared in the end. A destination says
 * nothing until then: its pages are taken away from the program, so that a read of them is caught.
 * The soft RNIC's threads are the program's, too: it tells what it touches.
 */
#include "validation.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Not for secrets, and fast; never 0. */
uint64_t
inflight_hash(const void *from, size_t len)
{
	const unsigned char *bytes = from;
	uint64_t hash = 0x9e3779b97f4a7c15u ^ len;
	for (; len >= 8; bytes += 8, len -= 8) {
		uint64_t word;
		memcpy(&word, bytes, 8);
		hash = (hash ^ word) * 0xff51afd7ed558ccdu;
		hash ^= hash >> 32;
	}
	for (; len; bytes++, len--)
		hash = (hash ^ *bytes) * 0x100000001b3u;
	return hash ? hash : 1;
}

/* ---- destinations ---- */

/* Whole pages of a destination; others share theirs with it. */
struct guard {
	struct guard *next;
	uintptr_t start, end;
	bool is_closed; /* to the program */
	struct object *local;
	const struct function *function;
	size_t offset, len;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct guard *guards;
static struct sigaction other_action;
static __thread uintptr_t last_fault;

static void
open_pages(struct guard *guard)
{
	if (guard->is_closed)
		(void)mprotect((void *)guard->start, guard->end - guard->start,
			       PROT_READ | PROT_WRITE);
	guard->is_closed = false;
}

/*
 * What the device, the soft RNIC in this process, is reading or writing. Destinations of several
 * requests may overlap, and a program may give a peer the memory of its own requests: pages stay
 * open while the device is at them, whoever else posts.
 */
#define TOUCHES 512
static struct {
	uintptr_t start, end;
} touches[TOUCHES];
static unsigned touch_count, unnoted; /* unnoted: those for which there was no room */

static bool
is_touched(uintptr_t start, uintptr_t end)
{
	bool is = unnoted > 0;
	for (unsigned i = 0; i < touch_count && !is; i++)
		is = touches[i].start < end && start < touches[i].end;
	return is;
}

static void
touch_begins(uintptr_t start, uintptr_t end)
{
	/* It is in use from now on. */
	for (struct guard *guard = guards; guard; guard = guard->next) {
		if (guard->start < end && start < guard->end)
			open_pages(guard);
	}
	if (touch_count == TOUCHES) {
		unnoted++;
		return;
	}
	touches[touch_count].start = start;
	touches[touch_count++].end = end;
}

static void
touch_ends(uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < touch_count; i++) {
		if (touches[i].start == start && touches[i].end == end) {
			touches[i] = touches[--touch_count];
			return;
		}
	}
	if (unnoted)
		unnoted--;
}

static void
device_touches(void *memory, size_t length, bool begins)
{
	uintptr_t start = (uintptr_t)memory;
	pthread_mutex_lock(&lock);
	if (begins)
		touch_begins(start, start + length);
	else
		touch_ends(start, start + length);
	pthread_mutex_unlock(&lock);
}

static void
other_handler(int number, siginfo_t *info, void *context)
{
	if (other_action.sa_flags & SA_SIGINFO) {
		other_action.sa_sigaction(number, info, context);
	} else if (other_action.sa_handler != SIG_DFL && other_action.sa_handler != SIG_IGN) {
		other_action.sa_handler(number);
	} else {
		/* As without this one: the access happens again. */
		(void)sigaction(number, &other_action, NULL);
	}
}

/* A thread has touched memory that it may not: ours to tell about, if it is a destination. */
static void
on_fault(int number, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;
	struct guard found = {0};
	pthread_mutex_lock(&lock);
	for (struct guard *guard = guards; guard; guard = guard->next) {
		if (guard->start <= address && address < guard->end) {
			found = *guard;
			open_pages(guard);
		}
	}
	pthread_mutex_unlock(&lock);
	if (!found.local)
		other_handler(number, info, context);
	else if (found.is_closed)
		finding_now(found.local,
			    "the program reads or writes %p, in the destination of %s(), %zu bytes "
			    "at offset %zu of mr_local#%u, which is in flight: what is there is "
			    "not known before its completion",
			    info->si_addr, found.function->name, found.len, found.offset,
			    found.local->number);
	else if (last_fault == address)
		other_handler(number, info, context);
	else
		last_fault = address; /* the device, or another thread, may just have opened it */
}

/* The program may have put another one in its place. */
static void
install_handler(void)
{
	struct sigaction current,
		ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
	if (sigaction(SIGSEGV, NULL, &current))
		return;
	if (current.sa_flags & SA_SIGINFO && current.sa_sigaction == on_fault)
		return;
	other_action = current;
	(void)sigaction(SIGSEGV, &ours, NULL);
}

static void
child_after_fork(void)
{
	pthread_mutex_init(&lock, NULL);
	touch_count = unnoted = 0;
	for (struct guard *guard = guards; guard; guard = guard->next)
		open_pages(guard);
}

void
inflight_init(void)
{
	void (*watch)(void (*)(void *, size_t, bool)) = NULL;
	void *found = normal_symbol("softrnic_watch_memory");
	memcpy(&watch, &found, sizeof(watch));
	if (watch)
		watch(device_touches);
	(void)pthread_atfork(NULL, NULL, child_after_fork);
}

/* NULL: there is no whole page in it. */
struct guard *
inflight_guard(struct object *local, size_t offset, size_t len, const struct function *function)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = (uintptr_t)(local->local.ptr + offset + page - 1) & ~(page - 1);
	uintptr_t end = (uintptr_t)(local->local.ptr + offset + len) & ~(page - 1);
	if (start >= end)
		return NULL;
	struct guard *guard = malloc(sizeof(*guard));
	if (!guard)
		return NULL;
	*guard = (struct guard){.start = start,
				.end = end,
				.local = local,
				.function = function,
				.offset = offset,
				.len = len};
	pthread_mutex_lock(&lock);
	install_handler();
	guard->is_closed =
		!is_touched(start, end) && !mprotect((void *)start, end - start, PROT_NONE);
	guard->next = guards;
	guards = guard;
	pthread_mutex_unlock(&lock);
	return guard;
}

void
inflight_unguard(struct guard *guard)
{
	pthread_mutex_lock(&lock);
	for (struct guard **link = &guards; *link; link = &(*link)->next) {
		if (*link == guard) {
			*link = guard->next;
			break;
		}
	}
	open_pages(guard);
	pthread_mutex_unlock(&lock);
	free(guard);
}
