/* SPDX-License-Identifier: BSD-3-Clause */
/* memory.c -- checks of registered memory: regions, ranges, what they are registered for. */
#include "validation.h"
#include "line.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define USAGES                                                                                     \
	(RPMA_MR_USAGE_READ_SRC | RPMA_MR_USAGE_READ_DST | RPMA_MR_USAGE_WRITE_SRC |               \
	 RPMA_MR_USAGE_WRITE_DST | RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY |                           \
	 RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT | RPMA_MR_USAGE_SEND | RPMA_MR_USAGE_RECV)

/* The descriptor of a region: address, size, key, usage. */
#define DESCRIPTOR_SIZE 21

/* Whether all of it is: MS_ASYNC does nothing else (msync(2)). */
bool
memory_is_mapped(const char *ptr, size_t size)
{
	int saved_errno = errno;
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t first = (uintptr_t)ptr & ~(page - 1);
	bool is = !size || !msync((void *)first, (uintptr_t)ptr + size - first, MS_ASYNC) ||
		  errno != ENOMEM;
	errno = saved_errno;
	return is;
}

/* A system call: at level 0 it is made for the first of so many requests. */
#define LOOK_EVERY 256

static bool
is_still_mapped(struct mr_local *local, size_t offset, size_t len)
{
	if (log_level < 1) {
		/* Threads may miss each other's count: it is to be roughly so. */
		uint32_t posted = atomic_load_explicit(&local->posted, memory_order_relaxed);
		atomic_store_explicit(&local->posted, posted + 1, memory_order_relaxed);
		if (posted % LOOK_EVERY)
			return true;
	}
	return memory_is_mapped(local->ptr + offset, len);
}

static const char *
usage_text(struct line *line, int usage)
{
	line->length = 0;
	line_usage(line, usage);
	line->text[line->length] = '\0';
	return line->text;
}

static int COLD
wrong_usage(struct call *call, const char *name, struct object *object, int usage, int has)
{
	struct line wanted, is;
	return finding(call, object, "%s, %s#%u, is not registered for %s, but for %s", name,
		       kind_names[atomic_load(&object->state) >> 2], object->number,
		       usage_text(&wanted, usage), usage_text(&is, has));
}

/*
 * Whether the device carries it out all the same, as what the region is registered for gives it the
 * right: verbs knows writes of its own alone, and on iWARP a read's destination is the peer's to
 * write to.
 */
static bool
is_granted(const struct object *local, int usage)
{
	const int read_dst = RPMA_MR_USAGE_READ_DST | RPMA_MR_USAGE_WRITE_DST,
		  writable = read_dst | RPMA_MR_USAGE_WRITE_SRC | RPMA_MR_USAGE_RECV;
	switch (usage) {
	case RPMA_MR_USAGE_WRITE_SRC:
	case RPMA_MR_USAGE_SEND:
		return true;
	case RPMA_MR_USAGE_READ_DST:
		return local->local.usage &
		       (local->peer->transport == IBV_TRANSPORT_IWARP ? read_dst : writable);
	default:
		return local->local.usage & writable;
	}
}

static void COLD
other_usage(struct call *call, const char *name, struct object *local, int usage)
{
	struct line wanted, is;
	warning(call, local,
		"%s, mr_local#%u, is not registered for %s, but for %s; the device happens to do "
		"it for that, too",
		name, local->number, usage_text(&wanted, usage),
		usage_text(&is, local->local.usage));
}

static int COLD
wrong_range(struct call *call, const char *name, struct object *object, size_t offset, size_t len,
	    uint64_t size)
{
	return finding(call, object,
		       "%zu bytes at offset %zu are not within %s, %s#%u, which has %llu", len,
		       offset, name, kind_names[atomic_load(&object->state) >> 2], object->number,
		       (unsigned long long)size);
}

int
check_local(struct call *call, const char *name, struct object *local, const struct object *peer,
	    size_t offset, size_t len, int usage)
{
	const struct mr_local *region = &local->local;
	bool is_for_it = !usage || region->usage & usage;
	if (local->peer != peer) {
		int ret = finding(call, local, "%s, mr_local#%u, is of peer#%u, not of peer#%u",
				  name, local->number, local->peer->number, peer->number);
		finding_about(call, local->peer);
		return ret;
	}
	if (!is_for_it && !is_granted(local, usage))
		return wrong_usage(call, name, local, usage, region->usage);
	if (offset > region->size || len > region->size - offset)
		return wrong_range(call, name, local, offset, len, region->size);
	if (len > UINT32_MAX)
		return finding(call, local,
			       "%zu bytes are more than a request carries: its length has 32 bits",
			       len);
	if (!is_still_mapped(&local->local, offset, len))
		return finding(call, local,
			       "%s, mr_local#%u, has been unmapped: %zu bytes at %p are no memory "
			       "of this process any more",
			       name, local->number, len, (void *)(region->ptr + offset));
	if (!is_for_it)
		other_usage(call, name, local, usage);
	return 0;
}

int
check_remote(struct call *call, const char *name, struct object *remote, size_t offset, size_t len,
	     int usage)
{
	const struct mr_remote *region = &remote->remote;
	if (usage && !(region->usage & usage))
		return wrong_usage(call, name, remote, usage, region->usage);
	if (offset > region->size || len > region->size - offset)
		return wrong_range(call, name, remote, offset, len, region->size);
	return 0;
}

/* ---- local regions ---- */

int
check_rpma_mr_reg(struct call *call, struct object *peer, void *ptr, size_t size, int usage,
		  struct rpma_mr_local **mr_ptr)
{
	(void)peer;
	(void)mr_ptr;
	if (!ptr)
		hint(call, "ptr is NULL");
	else if (!size)
		hint(call, "size is 0");
	else if (!usage)
		hint(call, "usage is 0: say what the region is for, RPMA_MR_USAGE_*");
	else if (usage & ~USAGES)
		hint(call, "usage has bits that are no RPMA_MR_USAGE_*: 0x%x", usage & ~USAGES);
	else if (!memory_is_mapped(ptr, size))
		hint(call, "not all of the %zu bytes at %p are memory of this process", size, ptr);
	return 0;
}

void
after_rpma_mr_reg(struct call *call, int ret, struct object *peer, void *ptr, size_t size,
		  int usage, struct object *mr)
{
	if (ret) {
		if (ret == RPMA_E_PROVIDER && errno == EINVAL &&
		    (usage & RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT))
			hint(call,
			     "a device that flushes by itself takes "
			     "RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT for persistent memory alone: "
			     "register other memory with RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY");
		return;
	}
	mr->peer = peer;
	mr->local.ptr = ptr;
	mr->local.size = size;
	mr->local.usage = usage;
}

int
check_rpma_mr_dereg(struct call *call, struct object *mr)
{
	static const enum kind owners[] = {KIND_CONN, KIND_CONN_REQ, KIND_SRQ};
	objects_lock();
	for (unsigned i = 0; mr && i < sizeof(owners) / sizeof(*owners); i++) {
		struct object *owner = NULL;
		while ((owner = object_next(owners[i], owner))) {
			unsigned count = requests_using(owner, mr);
			if (count)
				warning(call, mr,
					"mr_local#%u is in use: by %u request%s of %s#%u that %s "
					"not completed",
					mr->number, count, count == 1 ? "" : "s",
					kind_names[owners[i]], owner->number,
					count == 1 ? "has" : "have");
		}
	}
	objects_unlock();
	return 0;
}

static void
log_descriptor(struct object *object, const unsigned char *bytes, size_t size)
{
	char text[3 * DESCRIPTOR_SIZE] = "";
	for (size_t i = 0; i < size && i < DESCRIPTOR_SIZE; i++)
		(void)snprintf(text + 2 * i, sizeof(text) - 2 * i, "%02x", bytes[i]);
	log_write(4, "descriptor", "%s#%u %s", kind_names[atomic_load(&object->state) >> 2],
		  object->number, text);
}

void
after_rpma_mr_get_descriptor(struct call *call, int ret, struct object *mr, void *desc)
{
	if (!desc)
		hint(call, "desc is NULL");
	else if (!ret && log_level >= 4)
		log_descriptor(mr, desc, DESCRIPTOR_SIZE);
}

int
check_rpma_mr_advise(struct call *call, struct object *mr, size_t offset, size_t len, int advice,
		     uint32_t flags)
{
	(void)advice;
	(void)flags;
	return check_local(call, "mr", mr, mr->peer, offset, len, 0);
}

/* ---- remote regions ---- */

int
check_rpma_mr_remote_from_descriptor(struct call *call, const void *desc, size_t desc_size,
				     struct rpma_mr_remote **mr_ptr)
{
	(void)mr_ptr;
	if (!desc)
		hint(call, "desc is NULL");
	else if (desc_size < DESCRIPTOR_SIZE)
		hint(call, "desc_size is %zu: the descriptor of a region has %d bytes", desc_size,
		     DESCRIPTOR_SIZE);
	else if (!((const unsigned char *)desc)[DESCRIPTOR_SIZE - 1])
		hint(call, "desc is no descriptor of a region: it has no usage");
	return 0;
}

void
after_rpma_mr_remote_from_descriptor(struct call *call, int ret, const void *desc, size_t desc_size,
				     struct object *mr)
{
	(void)call;
	(void)desc_size;
	if (ret)
		return;
	uint64_t address, size;
	memcpy(&address, desc, sizeof(address));
	memcpy(&size, (const char *)desc + sizeof(address), sizeof(size));
	mr->remote.raddr = le64toh(address);
	mr->remote.size = le64toh(size);
	mr->remote.usage = ((const unsigned char *)desc)[DESCRIPTOR_SIZE - 1];
	if (log_level >= 4)
		log_descriptor(mr, desc, DESCRIPTOR_SIZE);
}

/* ---- configurations of peers ---- */

void
after_rpma_peer_cfg_get_descriptor(struct call *call, int ret, struct object *pcfg, void *desc)
{
	if (!desc)
		hint(call, "desc is NULL");
	else if (!ret && log_level >= 4)
		log_descriptor(pcfg, desc, 1);
}

int
check_rpma_peer_cfg_from_descriptor(struct call *call, const void *desc, size_t desc_size,
				    struct rpma_peer_cfg **pcfg_ptr)
{
	(void)pcfg_ptr;
	if (!desc)
		hint(call, "desc is NULL");
	else if (!desc_size)
		hint(call, "desc_size is 0: the descriptor of a configuration has 1 byte");
	return 0;
}
