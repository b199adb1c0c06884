/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * durable.c -- a pool's memory and what makes it durable. A failure of the storage stays: what was
 * written before it may be lost, and no later success of a flush proves otherwise.
 */
#include "pool.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The lock is let go of this often while much is copied, for the flushes of other clients. */
#define COPY_AT_ONCE ((uint64_t)1 << 20)

uintptr_t
page_size(void)
{
	static _Atomic uintptr_t known;
	uintptr_t size = atomic_load_explicit(&known, memory_order_relaxed);
	if (!size) {
		size = (uintptr_t)sysconf(_SC_PAGESIZE);
		atomic_store_explicit(&known, size, memory_order_relaxed);
	}
	return size;
}

/* ---- SIGBUS: a file that shrinks, or whose storage fails, while it is mapped ---- */

#define GUARDS 64

/*
 * Where a live mapping is, for the signal handler, which may take no lock and meet anything half
 * done. Guards are used again but never freed.
 */
struct guard {
	_Atomic bool taken;
	_Atomic uintptr_t begin, end; /* whole pages; end is 0 while there is no mapping */
	_Atomic int failed;
};

struct guards {
	struct guards *next;
	struct guard guard[GUARDS];
};

static struct guards *_Atomic guards;
static struct sigaction previous;
static uintptr_t handlers_page_size;

static struct guard *
guard_take(void)
{
	for (struct guards *some = atomic_load(&guards); some; some = some->next) {
		for (int i = 0; i < GUARDS; i++) {
			if (!atomic_exchange(&some->guard[i].taken, true))
				return &some->guard[i];
		}
	}
	struct guards *more = calloc(1, sizeof(*more));
	if (!more)
		return NULL;
	atomic_store(&more->guard[0].taken, true);
	more->next = atomic_load(&guards);
	while (!atomic_compare_exchange_weak(&guards, &more->next, more))
		;
	return &more->guard[0];
}

static void
guard_set(struct guard *guard, const char *mapping, uint64_t size)
{
	uintptr_t begin = (uintptr_t)mapping, end = begin + size, page = page_size();
	atomic_store(&guard->failed, 0);
	atomic_store(&guard->begin, begin & ~(page - 1));
	atomic_store(&guard->end, (end + page - 1) & ~(page - 1));
}

static void
guard_drop(struct guard *guard)
{
	atomic_store(&guard->end, 0);
	atomic_store(&guard->taken, false);
}

/* The first failure is the one to tell. */
static void
guard_fail(struct guard *guard, int failure)
{
	int none = 0;
	(void)atomic_compare_exchange_strong(&guard->failed, &none, failure);
}

/* In the handler: every pool that has the address fails. Where the mapping ends, or 0. */
static uintptr_t
guards_fail(uintptr_t address)
{
	uintptr_t found = 0;
	for (struct guards *some = atomic_load(&guards); some; some = some->next) {
		for (int i = 0; i < GUARDS; i++) {
			struct guard *guard = &some->guard[i];
			uintptr_t end = atomic_load(&guard->end);
			uintptr_t begin = atomic_load(&guard->begin);
			/* A second look, lest the two are of different mappings. */
			if (address < begin || address >= end || atomic_load(&guard->end) != end)
				continue;
			guard_fail(guard, EIO);
			found = end;
		}
	}
	return found;
}

static bool
put_memory(uintptr_t address, size_t length)
{
	return mmap((void *)address, length, PROT_READ | PROT_WRITE,
		    MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/*
 * One page, since those behind it may be sound and are read by clients. More only where the process
 * can have no more mappings.
 */
static bool
mend(const siginfo_t *info)
{
	if (info->si_code <= 0) /* sent by somebody: there is no address */
		return false;
	uintptr_t address = (uintptr_t)info->si_addr;
	uintptr_t end = guards_fail(address); /* first: nobody may trust the new page */
	if (!end)
		return false;
	address &= ~(handlers_page_size - 1);
	return put_memory(address, handlers_page_size) || put_memory(address, end - address);
}

static void
on_sigbus(int number, siginfo_t *info, void *context)
{
	int saved_errno = errno;
	if (!mend(info)) {
		if (previous.sa_flags & SA_SIGINFO) {
			previous.sa_sigaction(number, info, context);
		} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
			previous.sa_handler(number);
		} else if (previous.sa_handler == SIG_DFL || info->si_code > 0) {
			/* The access is tried again, and ends the process. */
			struct sigaction standard = {.sa_handler = SIG_DFL};
			(void)sigaction(SIGBUS, &standard, NULL);
			if (info->si_code <= 0)
				(void)raise(number);
		}
	}
	errno = saved_errno;
}

/*
 * From now on a fault in a durable mapping costs the pool, and not the process. Once for good: a
 * handler that comes later has to pass on what is not its own. 0, or an errno.
 */
int
rpmapy_durable_guard(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static bool installed;
	int ret = 0;
	pthread_mutex_lock(&lock);
	if (!installed) {
		handlers_page_size = page_size();
		struct sigaction ours = {.sa_sigaction = on_sigbus,
					 .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
		sigemptyset(&ours.sa_mask);
		/* Asked for first: a fault may come as soon as ours is there. */
		if (sigaction(SIGBUS, NULL, &previous) || sigaction(SIGBUS, &ours, NULL))
			ret = errno;
		else
			installed = true;
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

/* ---- libpmem, where it is needed ---- */

typedef void (*persist_function)(const void *address, size_t length);
typedef int (*is_pmem_function)(const void *address, size_t length);

static struct {
	_Atomic persist_function persist;
	_Atomic is_pmem_function is_pmem;
} pmem;

/*
 * Looked up in the global scope, not in the library that was opened, so that one that is preloaded
 * comes first; dlopen itself follows LD_LIBRARY_PATH.
 */
static int
pmem_load(void)
{
	if (atomic_load(&pmem.persist))
		return 0;
	(void)dlopen("libpmem.so.1", RTLD_NOW | RTLD_GLOBAL);
	is_pmem_function is_pmem = (is_pmem_function)dlsym(RTLD_DEFAULT, "pmem_is_pmem");
	persist_function persist = (persist_function)dlsym(RTLD_DEFAULT, "pmem_persist");
	if (!is_pmem || !persist)
		return RPMAPY_E_NO_LIBPMEM;
	atomic_store(&pmem.is_pmem, is_pmem);
	atomic_store(&pmem.persist, persist);
	return 0;
}

/* 1 or 0, or RPMAPY_E_NO_LIBPMEM. */
int
rpmapy_is_pmem(const void *address, size_t length)
{
	int ret = pmem_load();
	return ret ? ret : atomic_load(&pmem.is_pmem)(address, length) != 0;
}

/* ---- durable memory ---- */

static int
durable_delete(void *object)
{
	struct rpmapy_durable *durable = object;
	durable->failed = atomic_load(&durable->guard->failed);
	guard_drop(durable->guard);
	rounds_close(&durable->rounds);
	return 0;
}

static void
durable_finish(struct handle *handle)
{
	struct rpmapy_durable *durable = (struct rpmapy_durable *)handle;
	rounds_end(&durable->rounds);
	pthread_mutex_destroy(&durable->lock);
}

/*
 * The memory must stay where it is until the durable is closed. fd: the file of the mapping, which
 * begins at an offset of it; or negative, where each range is then flushed by itself.
 */
int
rpmapy_durable_new(void *memory, void *mapping, size_t size, int method, int fd,
		   uint64_t file_offset, struct rpmapy_durable **out)
{
	if (!memory || !mapping || !size || size > UINTPTR_MAX / 2 ||
	    method < RPMAPY_DURABLE_NONE || method > RPMAPY_DURABLE_PMEM)
		return RPMAPY_E_ARGUMENT;
	int ret = method == RPMAPY_DURABLE_PMEM ? pmem_load() : 0;
	if (ret)
		return ret;
	struct rpmapy_durable *durable = handle_new(sizeof(*durable), durable_delete, NULL, NULL);
	if (!durable)
		return RPMA_E_NOMEM;
	pthread_mutex_init(&durable->lock, NULL);
	rounds_init(&durable->rounds, method == RPMAPY_DURABLE_MSYNC ? fd : -1, file_offset);
	durable->handle.finish = durable_finish;
	durable->handle.only_memory = true;
	durable->memory = memory;
	durable->mapping = mapping;
	durable->size = size;
	durable->method = method;
	durable->guard = guard_take();
	if (!durable->guard) {
		handle_discard(&durable->handle);
		return RPMA_E_NOMEM;
	}
	guard_set(durable->guard, mapping, size);
	durable->handle.object = durable;
	*out = durable;
	return 0;
}

uint64_t
durable_page_down(const struct rpmapy_durable *durable, uint64_t offset)
{
	uintptr_t address = (uintptr_t)durable->mapping + offset;
	uintptr_t excess = address & (page_size() - 1);
	return offset > excess ? offset - excess : 0;
}

uint64_t
durable_page_up(const struct rpmapy_durable *durable, uint64_t offset)
{
	uintptr_t address = (uintptr_t)durable->mapping + offset;
	uint64_t missing = -address & (page_size() - 1);
	return missing < durable->size - offset ? offset + missing : durable->size;
}

int
durable_failure(const struct rpmapy_durable *durable)
{
	return atomic_load(&durable->guard->failed);
}

void
durable_fail(struct rpmapy_durable *durable, int failure)
{
	guard_fail(durable->guard, failure);
}

/*
 * Under the lock, so that a copy that is slow does not put back what a later one of another client
 * has replaced, and made durable.
 */
static void
copy_locked(struct rpmapy_durable *durable, uint64_t offset, uint64_t length)
{
	pthread_mutex_lock(&durable->lock);
	memcpy(durable->mapping + offset, durable->memory + offset, length);
	pthread_mutex_unlock(&durable->lock);
}

int
durable_copy(struct rpmapy_durable *durable, uint64_t offset, uint64_t length)
{
	if (durable->memory == durable->mapping)
		return durable_failure(durable);
	while (length && !durable_failure(durable)) {
		uint64_t now = length < COPY_AT_ONCE ? length : COPY_AT_ONCE;
		copy_locked(durable, offset, now);
		offset += now;
		length -= now;
	}
	return durable_failure(durable);
}

/*
 * Pages that the file has lost are no error to msync. They are to whoever touches them: then the
 * guard takes note. A file loses its last pages first.
 */
static void
touch(const struct rpmapy_durable *durable, uint64_t offset)
{
	(void)*(const volatile char *)(durable->mapping + offset);
}

static void
touch_all(const struct rpmapy_durable *durable, const struct range *ranges, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		touch(durable, ranges[i].offset + ranges[i].length - 1);
}

static void
persist_msync(struct rpmapy_durable *durable, const struct range *ranges, uint32_t count)
{
	touch_all(durable, ranges, count);
	if (durable_failure(durable))
		return;
	rounds_persist(durable, ranges, count);
	touch_all(durable, ranges, count); /* the file may have shrunk meanwhile */
}

static void
persist_pmem(const struct rpmapy_durable *durable, const struct range *ranges, uint32_t count)
{
	persist_function persist = atomic_load(&pmem.persist);
	touch_all(durable, ranges, count);
	for (uint32_t i = 0; i < count; i++)
		persist(durable->mapping + ranges[i].offset, ranges[i].length);
}

/* Of at least a byte each. */
int
durable_persist(struct rpmapy_durable *durable, const struct range *ranges, uint32_t count)
{
	int ret = durable_failure(durable);
	if (ret || !count)
		return ret;
	if (durable->method == RPMAPY_DURABLE_MSYNC)
		persist_msync(durable, ranges, count);
	else if (durable->method == RPMAPY_DURABLE_PMEM)
		persist_pmem(durable, ranges, count);
	else
		return EOPNOTSUPP;
	/* A last look: what has become known by now is of these ranges, too, whoever came upon it.
	 */
	return durable_failure(durable);
}

int
rpmapy_durable_flush(struct rpmapy_durable *durable, uint64_t offset, uint64_t length)
{
	if (offset > durable->size || length > durable->size - offset)
		return RPMAPY_E_ARGUMENT;
	int ret = handle_enter(&durable->handle);
	if (ret)
		return ret;
	if (durable->method == RPMAPY_DURABLE_NONE)
		ret = EOPNOTSUPP;
	else
		ret = durable_copy(durable, offset, length);
	if (!ret)
		ret = durable_persist(durable, &(struct range){offset, length}, length != 0);
	handle_leave(&durable->handle);
	return ret;
}

/* Copy the pages that differ. Each run of them is persisted; msync takes all as one. */
static int
write_back(struct rpmapy_durable *durable)
{
	bool by_run = durable->method == RPMAPY_DURABLE_PMEM;
	uint64_t first = 0, last = 0, next; /* what is copied and not yet durable */
	int ret = durable_failure(durable);
	for (uint64_t offset = 0; !ret && offset < durable->size; offset = next) {
		next = durable_page_up(durable, offset + 1);
		const char *shadow = durable->memory + offset;
		if (!memcmp(shadow, durable->mapping + offset, next - offset))
			continue;
		if (last > first && by_run && last != offset) {
			ret = durable_persist(durable, &(struct range){first, last - first}, 1);
			first = last;
		}
		if (last == first)
			first = offset;
		last = next;
		if (!ret)
			ret = durable_copy(durable, offset, next - offset);
	}
	const struct range rest = {first, last - first};
	return ret ? ret : durable_persist(durable, &rest, last != first);
}

/* What clients wrote into the shadow and did not flush. Without a shadow it is the kernel's. */
int
rpmapy_durable_write_back(struct rpmapy_durable *durable)
{
	int ret = handle_enter(&durable->handle);
	if (ret)
		return ret;
	if (durable->memory != durable->mapping && durable->method != RPMAPY_DURABLE_NONE)
		ret = write_back(durable);
	handle_leave(&durable->handle);
	return ret;
}

/* The errno of the first failure, or 0; after close(), what it was then. */
int
rpmapy_durable_failed(struct rpmapy_durable *durable)
{
	if (handle_enter(&durable->handle))
		return durable->failed;
	int ret = durable_failure(durable);
	handle_leave(&durable->handle);
	return ret;
}
