/* SPDX-License-Identifier: BSD-3-Clause */
/* wrapper.h -- what every call runs through, for wrappers.c: short, as each costs its part. */
#ifndef RPMA_VALIDATION_WRAPPER_H
#define RPMA_VALIDATION_WRAPPER_H

#include <errno.h>

#include "line.h"
#include "validation.h"

#define OBJECTS_MAX (1u << 17)
#define CLAIMED 0x8000000000000000u

static inline struct object *
object_at(const void *handle)
{
	uintptr_t offset = (uintptr_t)handle - (uintptr_t)objects_base;
	if (offset >= OBJECTS_MAX * sizeof(struct object) || offset % sizeof(struct object))
		return NULL;
	return (struct object *)(uintptr_t)handle;
}

static inline struct object *
object_if_live(const void *handle, enum kind kind)
{
	struct object *object = object_at(handle);
	return object && atomic_load(&object->state) == STATE(kind, LIVES) ? object : NULL;
}

static inline void *
object_normal(const struct object *object)
{
	return object ? object->normal : NULL;
}

/* The normal library calls its own functions through here, with its own handles. */
static inline bool
call_is_inner(void)
{
	return this_thread.inner != NULL;
}

static inline void
call_begin(struct call *call, enum function_id id)
{
	struct thread *thread = &this_thread;
	call->function = &functions[id];
	call->thread = __builtin_expect(!!thread->id, 1) ? thread : thread_init();
	call->refusal = 0;
	call->is_traced = log_level >= call->function->level;
	call->has_finding = call->is_heard = call->is_temporary = call->is_posted = false;
	call->claims = 0;
	call->hint[0] = '\0';
	call->about[0] = NULL;
	if (__builtin_expect(call->is_traced, 0))
		call->start = log_now();
}

/* Who claims an object: in one word, so that the other thread can be named. */
static inline uint64_t
call_claimant(const struct call *call)
{
	return CLAIMED | (uint64_t)(call->function - functions) << 32 | (uint32_t)call->thread->id;
}

static inline void
call_claim(struct call *call, const char *name, struct object *object, enum claim claim)
{
	_Atomic uint64_t *word = claim == CLAIM_WAITS ? &object->waiter : &object->user;
	bool has_claim;
	if (claim == CLAIM_READS || claim == CLAIM_SETS || claim == CLAIM_TAKES) {
		has_claim = !(atomic_fetch_add(word, 1) & CLAIMED);
		if (!has_claim)
			atomic_fetch_sub(word, 1);
		else if (claim == CLAIM_TAKES)
			atomic_fetch_add(&object->waiter, 1);
		else if (claim == CLAIM_SETS && __builtin_expect(!!atomic_load(&object->waiter), 0))
			call_taken(call, name, object);
	} else {
		uint64_t nobody = 0;
		has_claim = atomic_compare_exchange_strong(word, &nobody, call_claimant(call));
	}
	if (__builtin_expect(!has_claim, 0)) {
		call_conflict(call, name, object, claim);
		return;
	}
	call->claimed[call->claims].object = object;
	call->claimed[call->claims++].claim = claim;
}

static inline struct object *
call_object(struct call *call, const char *name, const void *handle, enum kind kind,
	    enum claim claim, bool optional)
{
	struct object *object = object_at(handle);
	if (__builtin_expect(!object ||
				     atomic_load_explicit(&object->state, memory_order_acquire) !=
					     STATE(kind, LIVES),
			     0))
		return call_bad_object(call, name, handle, kind, optional);
	if (claim != CLAIM_NOTHING)
		call_claim(call, name, object, claim);
	return object;
}

/* Before the call: nobody may find the object any more. */
static inline void
object_end(struct object *object)
{
	if (object)
		atomic_store(&object->state, (atomic_load(&object->state) & ~3u) | ENDED);
}

static inline void
call_forward(struct call *call)
{
	call->thread->inner = call;
}

static inline void
call_return(struct call *call)
{
	call->thread->inner = NULL;
	if (__builtin_expect(log_level != 0, 0))
		call->saved_errno = errno;
}

static inline void
call_result(struct call *call, int ret)
{
	if (__builtin_expect(ret < 0, 0))
		call_failed(call, ret);
}

static inline bool
call_is_traced(const struct call *call)
{
	return __builtin_expect(call->is_traced || call->has_finding, 0);
}

void call_enter(struct call *call, const char *name, const struct object *object);
void call_line_begin(struct call *call, struct line *line);
void call_line_end(struct call *call, struct line *line, int ret);
void call_line_text(struct call *call, struct line *line, const char *ret);

static inline void
call_leave(struct call *call)
{
	for (unsigned i = 0; i < call->claims; i++) {
		struct object *object = call->claimed[i].object;
		switch (call->claimed[i].claim) {
		case CLAIM_USES:
			atomic_store_explicit(&object->user, 0, memory_order_release);
			break;
		case CLAIM_WAITS:
			atomic_store_explicit(&object->waiter, 0, memory_order_release);
			break;
		case CLAIM_TAKES:
			atomic_fetch_sub(&object->waiter, 1);
			atomic_fetch_sub(&object->user, 1);
			break;
		default:
			atomic_fetch_sub(&object->user, 1);
			break;
		}
	}
	if (__builtin_expect(call->has_finding, 0))
		call_abort(call);
}

#endif
