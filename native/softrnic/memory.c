/* SPDX-License-Identifier: BSD-3-Clause */
/* memory.c -- protection domains and memory regions: every key, range and right is checked here. */
#include "softrnic.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define ACCESS_SUPPORTED                                                                           \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |               \
	 IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_RELAXED_ORDERING | IBV_ACCESS_HUGETLB)
#define ACCESS_NEEDS_LOCAL_WRITE (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

/* Regions by key. Chains stay short: the table doubles. */
static struct {
	pthread_rwlock_t lock;
	struct mr **chains;
	uint32_t mask, count;
} table = {.lock = PTHREAD_RWLOCK_INITIALIZER};

struct ibv_pd *
ibv_alloc_pd(struct ibv_context *context)
{
	int ret = engine_usable();
	struct pd *pd = ret ? NULL : calloc(1, sizeof(*pd));
	if (!pd) {
		errno = ret ? ret : ENOMEM;
		return NULL;
	}
	static _Atomic uint32_t handles;
	pd->ibv.context = context;
	pd->ibv.handle = atomic_fetch_add(&handles, 1);
	object_count(OBJECT_PD, 1);
	return &pd->ibv;
}

int
ibv_dealloc_pd(struct ibv_pd *ibv_pd)
{
	struct pd *pd = container_of(ibv_pd, struct pd, ibv);
	if (engine_usable())
		return EPERM;
	if (atomic_load(&pd->users))
		return EBUSY;
	free(pd);
	object_count(OBJECT_PD, -1);
	return 0;
}

/* With the lock held for reading. */
static struct mr *
find(uint32_t key)
{
	struct mr *mr = table.chains ? table.chains[key & table.mask] : NULL;
	while (mr && mr->ibv.rkey != key)
		mr = mr->next;
	return mr;
}

static void
insert(struct mr *mr)
{
	struct mr **chain = &table.chains[mr->ibv.rkey & table.mask];
	mr->next = *chain;
	*chain = mr;
}

/* With the lock held for writing. */
static bool
grow(void)
{
	uint32_t old_size = table.chains ? table.mask + 1 : 0;
	if (table.count < old_size)
		return true;
	uint32_t size = old_size ? 2 * old_size : 256;
	struct mr **old = table.chains, **chains = calloc(size, sizeof(struct mr *));
	if (!chains)
		return false;
	table.chains = chains;
	table.mask = size - 1;
	for (uint32_t i = 0; i < old_size; i++) {
		for (struct mr *mr = old[i], *next; mr; mr = next) {
			next = mr->next;
			insert(mr);
		}
	}
	free(old);
	return true;
}

static void
remove_from_table(struct mr *mr)
{
	struct mr **link = &table.chains[mr->ibv.rkey & table.mask];
	while (*link && *link != mr)
		link = &(*link)->next;
	if (*link) { /* else: a registration anew has failed */
		*link = mr->next;
		table.count--;
	}
}

/* Not to be guessed: a key is what the other side shows for its right. 0 or an errno. */
static int
add_with_new_key(struct mr *mr)
{
	int ret = 0;
	pthread_rwlock_wrlock(&table.lock);
	if (!grow())
		ret = ENOMEM;
	for (uint32_t key; !ret;) {
		if (uncancelled_random(&key, sizeof(key)) != sizeof(key)) {
			ret = errno == EINTR ? 0 : errno;
			continue;
		}
		/* Programs take 0 for none. */
		if (key && !find(key)) {
			mr->ibv.lkey = mr->ibv.rkey = key;
			insert(mr);
			table.count++;
			break;
		}
	}
	pthread_rwlock_unlock(&table.lock);
	return ret;
}

/* Wait for the copies under way to end: each is one system call that does not wait, or a memcpy. */
static void
wait_for_users(struct mr *mr)
{
	while (atomic_load_explicit(&mr->users, memory_order_acquire))
		sched_yield();
}

static int
check(const void *address, size_t length, uint64_t iova, int access)
{
	/* Optional flags ask for a favour only. */
	access &= ~IBV_ACCESS_OPTIONAL_RANGE;
	if (access & IBV_ACCESS_ON_DEMAND)
		return EOPNOTSUPP;
	if (access & ~ACCESS_SUPPORTED)
		return access & (IBV_ACCESS_ZERO_BASED | IBV_ACCESS_MW_BIND) ? EOPNOTSUPP : EINVAL;
	if (access & ACCESS_NEEDS_LOCAL_WRITE && !(access & IBV_ACCESS_LOCAL_WRITE))
		return EINVAL;
	if ((uintptr_t)address + length < (uintptr_t)address || iova + length < iova)
		return EINVAL;
	return 0;
}

static struct ibv_mr *
reg(struct ibv_pd *pd, void *address, size_t length, uint64_t iova, int access)
{
	int ret = engine_usable();
	if (!ret)
		ret = check(address, length, iova, access);
	struct mr *mr = ret ? NULL : calloc(1, sizeof(*mr));
	if (!ret && !mr)
		ret = ENOMEM;
	if (!ret) {
		mr->ibv.context = pd->context;
		mr->ibv.pd = pd;
		mr->ibv.addr = address;
		mr->ibv.length = length;
		mr->iova = iova;
		mr->access = (unsigned)access;
		ret = add_with_new_key(mr);
	}
	if (ret) {
		free(mr);
		errno = ret;
		return NULL;
	}
	mr->ibv.handle = mr->ibv.lkey;
	atomic_fetch_add(&container_of(pd, struct pd, ibv)->users, 1);
	object_count(OBJECT_MR, 1);
	return &mr->ibv;
}

#undef ibv_reg_mr
struct ibv_mr *
ibv_reg_mr(struct ibv_pd *pd, void *address, size_t length, int access)
{
	return reg(pd, address, length, (uintptr_t)address, access);
}

#undef ibv_reg_mr_iova
struct ibv_mr *
ibv_reg_mr_iova(struct ibv_pd *pd, void *address, size_t length, uint64_t iova, int access)
{
	return reg(pd, address, length, iova, access);
}

struct ibv_mr *
ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t length, uint64_t iova,
		 unsigned int access)
{
	return reg(pd, address, length, iova, (int)access);
}

int
ibv_dereg_mr(struct ibv_mr *ibv_mr)
{
	struct mr *mr = container_of(ibv_mr, struct mr, ibv);
	if (engine_usable())
		return EPERM;
	pthread_rwlock_wrlock(&table.lock);
	remove_from_table(mr);
	pthread_rwlock_unlock(&table.lock);
	wait_for_users(mr);
	atomic_fetch_sub(&container_of(mr->ibv.pd, struct pd, ibv)->users, 1);
	free(mr);
	object_count(OBJECT_MR, -1);
	return 0;
}

/* As libibverbs has it: enum ibv_rereg_mr_err_code, with errno. The keys change. */
int
ibv_rereg_mr(struct ibv_mr *ibv_mr, int flags, struct ibv_pd *pd, void *address, size_t length,
	     int access)
{
	struct mr *mr = container_of(ibv_mr, struct mr, ibv);
	if (engine_usable()) {
		errno = EPERM;
		return IBV_REREG_MR_ERR_INPUT;
	}
	if (!flags || flags & ~IBV_REREG_MR_FLAGS_SUPPORTED ||
	    (flags & IBV_REREG_MR_CHANGE_PD && !pd) ||
	    (flags & IBV_REREG_MR_CHANGE_TRANSLATION && (!address || !length))) {
		errno = EINVAL;
		return IBV_REREG_MR_ERR_INPUT;
	}
	if (!(flags & IBV_REREG_MR_CHANGE_TRANSLATION)) {
		address = mr->ibv.addr;
		length = mr->ibv.length;
	}
	if (!(flags & IBV_REREG_MR_CHANGE_ACCESS))
		access = (int)mr->access;
	int ret = check(address, length, (uintptr_t)address, access);
	if (ret) {
		errno = ret;
		return IBV_REREG_MR_ERR_INPUT;
	}
	pthread_rwlock_wrlock(&table.lock);
	remove_from_table(mr);
	pthread_rwlock_unlock(&table.lock);
	wait_for_users(mr);
	if (flags & IBV_REREG_MR_CHANGE_TRANSLATION)
		mr->iova = (uintptr_t)address;
	mr->ibv.addr = address;
	mr->ibv.length = length;
	mr->access = (unsigned)access;
	mr->invalidated = false;
	if (flags & IBV_REREG_MR_CHANGE_PD) {
		atomic_fetch_sub(&container_of(mr->ibv.pd, struct pd, ibv)->users, 1);
		mr->ibv.pd = pd;
		atomic_fetch_add(&container_of(pd, struct pd, ibv)->users, 1);
	}
	ret = add_with_new_key(mr);
	if (ret) {
		errno = ret;
		return IBV_REREG_MR_ERR_CMD;
	}
	return 0;
}

struct mr *
mr_get(struct ibv_pd *pd, uint32_t key, uint64_t address, uint64_t size, unsigned access,
       uint16_t *error)
{
	const unsigned remote =
		IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
	*error = 0;
	pthread_rwlock_rdlock(&table.lock);
	struct mr *mr = find(key);
	if (!mr || (mr->invalidated && access & remote))
		*error = ERROR_INVALID_STAG;
	else if (mr->ibv.pd != pd)
		*error = ERROR_STAG_NOT_ASSOCIATED;
	else if (address + size < address)
		*error = ERROR_TO_WRAP;
	else if (address < mr->iova || size > mr->ibv.length ||
		 address - mr->iova > mr->ibv.length - size)
		*error = ERROR_BASE_BOUNDS;
	else if ((mr->access & access) != access)
		*error = ERROR_ACCESS;
	else
		atomic_fetch_add_explicit(&mr->users, 1, memory_order_relaxed);
	pthread_rwlock_unlock(&table.lock);
	return *error ? NULL : mr;
}

void
mr_put(struct mr *mr)
{
	atomic_fetch_sub_explicit(&mr->users, 1, memory_order_release);
}

uint16_t
mr_invalidate(struct ibv_pd *pd, uint32_t key)
{
	uint16_t error = 0;
	pthread_rwlock_wrlock(&table.lock);
	struct mr *mr = find(key);
	if (!mr)
		error = ERROR_STAG_NOT_INVALIDATED;
	else if (mr->ibv.pd != pd)
		error = ERROR_STAG_NOT_ASSOCIATED;
	else
		mr->invalidated = true;
	pthread_rwlock_unlock(&table.lock);
	return error;
}

bool
sges_ok(struct ibv_pd *pd, const struct ibv_sge *sges, unsigned count, unsigned access)
{
	for (unsigned i = 0; i < count; i++) {
		uint16_t error;
		if (!sges[i].length)
			continue;
		struct mr *mr =
			mr_get(pd, sges[i].lkey, sges[i].addr, sges[i].length, access, &error);
		if (!mr)
			return false;
		mr_put(mr);
	}
	return true;
}

bool
piece_get(struct ibv_pd *pd, uint32_t key, uint64_t address, uint32_t length, unsigned access,
	  struct piece *piece, uint16_t *error)
{
	struct mr *mr = mr_get(pd, key, address, length, access, error);
	if (!mr)
		return false;
	*piece = (struct piece){
		.mr = mr, .bytes = (char *)mr->ibv.addr + (address - mr->iova), .length = length};
	memory_touch(piece->bytes, length, true);
	return true;
}

int
sge_pieces(struct ibv_pd *pd, const struct ibv_sge *sges, unsigned sge_count, uint32_t offset,
	   uint32_t size, unsigned access, struct piece *pieces, unsigned count, uint32_t *covered)
{
	unsigned used = 0;
	*covered = 0;
	for (unsigned i = 0; i < sge_count && used < count && *covered < size; i++) {
		if (offset >= sges[i].length) {
			offset -= sges[i].length;
			continue;
		}
		uint32_t length = sges[i].length - offset;
		if (length > size - *covered)
			length = size - *covered;
		uint16_t error;
		if (!piece_get(pd, sges[i].lkey, sges[i].addr + offset, length, access,
			       &pieces[used], &error)) {
			pieces_put(pieces, used);
			return -1;
		}
		used++;
		*covered += length;
		offset = 0;
	}
	return (int)used;
}

_Atomic(memory_watcher *) memory_watched_by;

void softrnic_watch_memory(memory_watcher *watcher);

/* The debug build of librpma keeps programs from memory that is to be written, until it is. */
SOFTRNIC_EXPORT void
softrnic_watch_memory(memory_watcher *watcher)
{
	atomic_store(&memory_watched_by, watcher);
}

bool
memory_mend(const struct msghdr *message)
{
	struct sigaction action;
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	if (sigaction(SIGBUS, NULL, &action) ||
	    (!(action.sa_flags & SA_SIGINFO) &&
	     (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)))
		return false;
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		uintptr_t at = (uintptr_t)message->msg_iov[i].iov_base;
		uintptr_t end = at + message->msg_iov[i].iov_len;
		for (; at < end; at = (at | (page - 1)) + 1) {
			/* What has been unmapped is no handler's affair. */
			if (mincore((void *)(at & ~(page - 1)), 1, &(unsigned char){0}))
				return false;
			(void)*(volatile const char *)at;
		}
	}
	return true;
}

void
pieces_put(const struct piece *pieces, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		memory_touch(pieces[i].bytes, pieces[i].length, false);
		mr_put(pieces[i].mr);
	}
}

/* ---- prefetching ---- */

/* 0, or what ibv_advise_mr(3) has for it. Into *memory: where a segment is. */
static int
check_advice(struct ibv_pd *pd, const struct ibv_sge *sge, unsigned access, void **memory)
{
	uint16_t error;
	struct mr *mr = mr_get(pd, sge->lkey, sge->addr, sge->length, access, &error);
	if (mr) {
		*memory = (char *)mr->ibv.addr + (sge->addr - mr->iova);
		mr_put(mr);
		return 0;
	}
	switch (error) {
	case ERROR_INVALID_STAG:
		return ENOENT;
	case ERROR_STAG_NOT_ASSOCIATED:
	case ERROR_ACCESS:
		return EPERM;
	default:
		return EFAULT;
	}
}

/* The pages that it touches. 0 or an errno. */
static int
prefetch(void *memory, size_t length, int how)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t begin = (uintptr_t)memory & ~(page - 1);
	size_t size = (uintptr_t)memory + length - begin;
	/* Before Linux 5.14, or in device memory, only the file system can be told. */
	if (madvise((void *)begin, size, how) == 0 ||
	    (errno == EINVAL && madvise((void *)begin, size, MADV_WILLNEED) == 0))
		return 0;
	switch (errno) {
	case EFAULT: /* beyond a file's end */
	case EHWPOISON:
		return EFAULT;
	case ENOMEM: /* a hole, or no memory */
		return mincore((void *)begin, 1, &(unsigned char){0}) ? EFAULT : ENOMEM;
	default:
		return 0; /* the kernel knows nothing to do: it is advice */
	}
}

int
advise_mr(struct ibv_pd *pd, enum ibv_advise_mr_advice advice, uint32_t flags, struct ibv_sge *sges,
	  uint32_t count)
{
	unsigned access = 0;
	int how = flags & IBV_ADVISE_MR_FLAG_FLUSH ? MADV_POPULATE_READ : MADV_WILLNEED;
	int ret = engine_usable();
	if (ret)
		return ret;
	switch (advice) {
	case IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE:
		access = IBV_ACCESS_LOCAL_WRITE;
		if (flags & IBV_ADVISE_MR_FLAG_FLUSH)
			how = MADV_POPULATE_WRITE;
		break;
	case IBV_ADVISE_MR_ADVICE_PREFETCH:
	case IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT:
		break;
	default:
		return EOPNOTSUPP;
	}
	if (flags & ~(uint32_t)IBV_ADVISE_MR_FLAG_FLUSH || !count)
		return EINVAL;
	void *memory;
	for (uint32_t i = 0; !ret && i < count; i++)
		ret = check_advice(pd, &sges[i], access, &memory);
	if (advice == IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT)
		return ret; /* what the processor has, the device has */
	for (uint32_t i = 0; !ret && i < count; i++) {
		ret = check_advice(pd, &sges[i], access, &memory);
		if (!ret && sges[i].length)
			ret = prefetch(memory, sges[i].length, how);
	}
	return ret;
}

/* ---- what this device does not have ---- */

struct ibv_mr *
ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd,
		  int access)
{
	(void)pd, (void)offset, (void)length, (void)iova, (void)fd, (void)access;
	errno = EOPNOTSUPP;
	return NULL;
}
