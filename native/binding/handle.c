/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * handle.c -- lifetime of librpma's objects under Python's: close() from any thread, parents that
 * outlive their children whatever order the garbage collector takes, and no call in a forked child.
 */
#include "binding.h"

#include <stdlib.h>
#include <time.h>

#define CLOSED 0x80000000u /* nobody enters any more, unless close() is refused after all */
#define GONE 0x40000000u   /* and the object is no more */
#define RELEASED 0x80000000u

static unsigned generation;

static void
child_after_fork(void)
{
	generation++;
}

/* Once, at import. */
int
rpmapy_init(void)
{
	int ret = pthread_atfork(NULL, NULL, child_after_fork);
	return ret ? RPMA_E_NOMEM : log_init();
}

unsigned
handle_generation(void)
{
	return generation;
}

void *
handle_new(size_t size, int (*delete_object)(void *), struct handle *parent,
	   struct handle *other_parent)
{
	struct handle *handle = calloc(1, size);
	if (!handle)
		return NULL;
	handle->delete_object = delete_object;
	handle->generation = generation;
	pthread_rwlock_init(&handle->threads, NULL);
	handle->parents[0] = parent;
	handle->parents[1] = other_parent;
	for (int i = 0; i < HANDLE_PARENTS; i++) {
		if (handle->parents[i])
			atomic_fetch_add(&handle->parents[i]->children, 1);
	}
	return handle;
}

static int
delete_object(struct handle *handle)
{
	int ret = 0;
	if (handle->object && (handle->only_memory || handle->generation == generation)) {
		call_begin();
		ret = handle->delete_object(handle->object);
	}
	handle->object = NULL;
	return ret;
}

static void destroy(struct handle *handle);

static void
leave_parents(struct handle *handle)
{
	for (int i = 0; i < HANDLE_PARENTS; i++) {
		struct handle *parent = handle->parents[i];
		handle->parents[i] = NULL;
		/* The last child of a parent that Python has let go of takes it along. */
		if (parent && atomic_fetch_sub(&parent->children, 1) == (RELEASED | 1))
			destroy(parent);
	}
}

static void
destroy(struct handle *handle)
{
	(void)delete_object(handle);
	leave_parents(handle);
	if (handle->finish)
		handle->finish(handle);
	pthread_rwlock_destroy(&handle->threads);
	free(handle);
}

/* A handle that never got its object: construction failed. */
void
handle_discard(struct handle *handle)
{
	destroy(handle);
}

void
handle_use(struct handle *handle)
{
	pthread_rwlock_wrlock(&handle->threads);
}

void
handle_read(struct handle *handle)
{
	if (handle)
		pthread_rwlock_rdlock(&handle->threads);
}

void
handle_done(struct handle *handle)
{
	if (handle)
		pthread_rwlock_unlock(&handle->threads);
}

static void
wait_a_little(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 50 * 1000}, NULL);
}

/*
 * Shut the door and wait until the calls inside have left. RPMAPY_E_CLOSED: another thread did, and
 * the object is gone: whoever closes may do with its memory as he likes, first or not.
 */
int
handle_begin_close(struct handle *handle)
{
	if (handle->generation != generation)
		return RPMAPY_E_FORKED;
	while (atomic_fetch_or(&handle->users, CLOSED) & CLOSED) {
		uint32_t users;
		while ((users = atomic_load(&handle->users)) & CLOSED) {
			if (users & GONE)
				return RPMAPY_E_CLOSED;
			wait_a_little();
		}
		/* To the other thread it was refused: now it is this one's turn to ask. */
	}
	while (atomic_load(&handle->users) & ~CLOSED)
		wait_a_little();
	return 0;
}

/* The object has gone elsewhere or is deleted; the handle stays, closed, until Python lets go. */
void
handle_end_close(struct handle *handle)
{
	handle->object = NULL;
	leave_parents(handle);
	atomic_fetch_or(&handle->users, GONE);
}

static bool
has_children(struct handle *handle)
{
	return atomic_load(&handle->children) & ~RELEASED;
}

int
rpmapy_close(void *opaque)
{
	struct handle *handle = opaque;
	/* Asked before the door is shut, since other threads may be at it with good reason. */
	if (handle->generation == generation && has_children(handle))
		return RPMAPY_E_CHILDREN;
	int ret = handle_begin_close(handle);
	if (ret)
		return 0;           /* closed before, or the parent process's to close */
	if (has_children(handle)) { /* one was made meanwhile */
		atomic_fetch_and(&handle->users, ~CLOSED);
		return RPMAPY_E_CHILDREN;
	}
	ret = delete_object(handle);
	handle_end_close(handle);
	return ret;
}

/* Python's last reference is gone. */
void
rpmapy_release(void *opaque)
{
	struct handle *handle = opaque;
	atomic_fetch_or(&handle->users, CLOSED);
	if (atomic_fetch_or(&handle->children, RELEASED) == 0)
		destroy(handle);
}

/* A place for a handle to be, which Python owns before there is one. */
void *
rpmapy_cell_new(void)
{
	return calloc(1, sizeof(void *));
}

void
rpmapy_cell_free(void *cell)
{
	void *handle = *(void **)cell;
	if (handle)
		rpmapy_release(handle);
	free(cell);
}

int
rpmapy_state(const void *opaque)
{
	const struct handle *handle = opaque;
	if (handle->generation != generation)
		return RPMAPY_E_FORKED;
	return atomic_load(&handle->users) & CLOSED ? RPMAPY_E_CLOSED : 0;
}

unsigned
rpmapy_children(const void *opaque)
{
	const struct handle *handle = opaque;
	return atomic_load(&handle->children) & ~RELEASED;
}

/* NULL is fine: an argument that librpma lets be NULL. */
int
handle_enter(struct handle *handle)
{
	if (!handle)
		return 0;
	if (handle->generation != generation)
		return RPMAPY_E_FORKED;
	if (atomic_fetch_add_explicit(&handle->users, 1, memory_order_acquire) & CLOSED) {
		handle_leave(handle);
		return RPMAPY_E_CLOSED;
	}
	return 0;
}

void
handle_leave(struct handle *handle)
{
	if (handle)
		atomic_fetch_sub_explicit(&handle->users, 1, memory_order_release);
}

int
handles_enter(struct handle *first, struct handle *second, struct handle *third)
{
	int ret = handle_enter(first);
	if (ret)
		return ret;
	ret = handle_enter(second);
	if (!ret) {
		ret = handle_enter(third);
		if (!ret)
			return 0;
		handle_leave(second);
	}
	handle_leave(first);
	return ret;
}

void
handles_leave(struct handle *first, struct handle *second, struct handle *third)
{
	handle_leave(third);
	handle_leave(second);
	handle_leave(first);
}
