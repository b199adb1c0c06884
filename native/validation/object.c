/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * object.c -- what programs hold handles of. An object that has ended stays for a while as it was,
 * so that a use of it is told from a use of what came after.
 */
#include "validation.h"
#include "wrapper.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* How many objects end before the first one's place is taken. */
#define QUARANTINE 4096

char *objects_base;

const char *const kind_names[KINDS] = {
	[KIND_NONE] = "nothing",
	[KIND_PEER_CFG] = "peer_cfg",
	[KIND_PEER] = "peer",
	[KIND_MR_LOCAL] = "mr_local",
	[KIND_MR_REMOTE] = "mr_remote",
	[KIND_CONN_CFG] = "conn_cfg",
	[KIND_SRQ_CFG] = "srq_cfg",
	[KIND_SRQ] = "srq",
	[KIND_EP] = "ep",
	[KIND_CONN_REQ] = "conn_req",
	[KIND_CONN] = "conn",
	[KIND_CQ] = "cq",
};

/* What the end of an object is called. */
const char *
kind_ends(enum kind kind)
{
	switch (kind) {
	case KIND_MR_LOCAL:
		return "deregistered";
	case KIND_EP:
		return "shut down";
	default:
		return "deleted";
	}
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t numbers[KINDS];
static size_t used;                 /* slots that have been taken once */
static uint32_t ended[OBJECTS_MAX]; /* a ring of those to be taken again, oldest first */
static size_t first_ended, ended_length;
static unsigned generation;

static void
before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void
after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

static void
child_after_fork(void)
{
	generation++;
	pthread_mutex_unlock(&lock);
}

int
objects_init(void)
{
	objects_base = mmap(NULL, OBJECTS_MAX * sizeof(struct object), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (objects_base == MAP_FAILED)
		return -1;
	return pthread_atfork(before_fork, after_fork, child_after_fork);
}

static struct object *
slot(size_t index)
{
	return (struct object *)objects_base + index;
}

/* Kept as long as the object's slot: a thread may be polling while another one deletes. */
struct requests **
object_requests(struct object *object)
{
	static struct requests *none;
	switch (atomic_load(&object->state) >> 2) {
	case KIND_CONN_REQ:
	case KIND_CONN:
		return &object->conn.requests;
	case KIND_SRQ:
		return &object->srq.requests;
	default:
		return &none;
	}
}

static struct object *
take_slot(void)
{
	if (ended_length && (ended_length >= QUARANTINE || used == OBJECTS_MAX)) {
		struct object *object = slot(ended[first_ended]);
		first_ended = (first_ended + 1) % OBJECTS_MAX;
		ended_length--;
		requests_delete(*object_requests(object));
		memset(object, 0, sizeof(*object));
		return object;
	}
	return used < OBJECTS_MAX ? slot(used++) : NULL;
}

struct object *
object_new(struct call *call, enum kind kind, void *normal)
{
	pthread_mutex_lock(&lock);
	struct object *object = take_slot();
	if (object)
		object->number = ++numbers[kind];
	pthread_mutex_unlock(&lock);
	if (!object) {
		finding_now(NULL, "there are %u objects of librpma: none has been deleted for long",
			    OBJECTS_MAX);
		abort(); /* there is no handle to return */
	}
	object->normal = normal;
	object->generation = generation;
	place_take(&object->made, (enum function_id)(call->function - functions));
	atomic_store_explicit(&object->state, STATE(kind, IN_MAKING), memory_order_relaxed);
	return object;
}

void
object_publish(struct object *object)
{
	uint32_t kind = atomic_load_explicit(&object->state, memory_order_relaxed) >> 2;
	atomic_store_explicit(&object->state, STATE(kind, LIVES), memory_order_release);
}

struct object *
object_find(struct object *owner, void *normal)
{
	if (!normal)
		return NULL;
	if (atomic_load(&owner->state) >> 2 == KIND_CONN_CFG) {
		struct object *kept = object_at(atomic_load(&owner->kept));
		return kept && kept->normal == normal ? kept : NULL;
	}
	for (unsigned i = 0; i < 2; i++) {
		if (owner->found[i] && owner->found[i]->normal == normal)
			return owner->found[i];
	}
	/* The receive CQ of a connection may be that of its shared receive queue. */
	if (atomic_load(&owner->state) >> 2 == KIND_CONN && owner->conn.srq)
		return object_find(owner->conn.srq, normal);
	return NULL;
}

/* Before the owner is published: programs may ask for it in several threads. */
struct object *
object_add_cq(struct call *call, struct object *owner, void *normal, bool is_rcq)
{
	if (!normal || object_find(owner, normal))
		return NULL;
	struct object *object = object_new(call, KIND_CQ, normal);
	object->cq.owner = owner;
	object->peer = owner->peer;
	object->made = owner->made;
	object->cq.is_rcq = is_rcq;
	object_publish(object);
	owner->found[owner->found[0] ? 1 : 0] = object;
	return object;
}

void
object_ended(struct call *call, struct object *object, bool has_ended)
{
	if (!object)
		return;
	if (!has_ended) {
		atomic_store(&object->state, (atomic_load(&object->state) & ~3u) | LIVES);
		return;
	}
	place_take(&object->ended, (enum function_id)(call->function - functions));
	for (unsigned i = 0; i < 2; i++) {
		struct object *child = object->found[i];
		if (child && atomic_load(&child->state) >> 2 == KIND_CQ) {
			object_end(child);
			object_ended(call, child, true);
		}
	}
	for (unsigned i = 0; i < call->claims; i++) {
		if (call->claimed[i].object == object)
			call->claimed[i] = call->claimed[--call->claims];
	}
	pthread_mutex_lock(&lock);
	ended[(first_ended + ended_length++) % OBJECTS_MAX] =
		(uint32_t)(object - (struct object *)objects_base);
	pthread_mutex_unlock(&lock);
}

bool
object_is_live(const struct object *object)
{
	return (atomic_load(&object->state) & 3) == LIVES;
}

void
objects_lock(void)
{
	pthread_mutex_lock(&lock);
}

void
objects_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

struct object *
object_next(enum kind kind, const struct object *after)
{
	for (size_t i = after ? (size_t)(after - slot(0)) + 1 : 0; i < used; i++) {
		struct object *object = slot(i);
		if (atomic_load(&object->state) == STATE(kind, LIVES) &&
		    object->generation == generation)
			return object;
	}
	return NULL;
}

bool
object_has_connections(const struct object *srq)
{
	static const enum kind kinds[] = {KIND_CONN_REQ, KIND_CONN};
	for (unsigned i = 0; i < 2; i++) {
		const struct object *object = NULL;
		while ((object = object_next(kinds[i], object))) {
			if (object->conn.srq == srq &&
			    atomic_load(&object->conn.state) != CONN_ENDED)
				return true;
		}
	}
	return false;
}

/* The first of those that need it, or NULL. */
struct object *
object_depending_on(const struct object *object)
{
	struct object *found = NULL;
	objects_lock();
	for (enum kind kind = KIND_NONE + 1; kind < KIND_CQ && !found; kind++) {
		struct object *other = NULL;
		while (!found && (other = object_next(kind, other))) {
			bool has_srq = kind == KIND_CONN || kind == KIND_CONN_REQ;
			if (other->peer == object || (has_srq && other->conn.srq == object))
				found = other;
		}
	}
	objects_unlock();
	return found;
}

void
objects_report_leaks(void)
{
	objects_lock();
	for (enum kind kind = KIND_NONE + 1; kind < KIND_CQ; kind++) {
		struct object *object = NULL;
		while ((object = object_next(kind, object))) {
			log_write(1, "leak", "%s#%u: made by %s() and never %s", kind_names[kind],
				  object->number, functions[object->made.function].name,
				  kind_ends(kind));
			finding_about(NULL, object);
		}
	}
	objects_unlock();
}
