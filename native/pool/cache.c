/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache.c -- what the kernel has cached of a file whose storage may have failed. A page whose
 * write-back has failed counts as clean, and holds what the storage never got; a later msync finds
 * nothing to do and succeeds. So such pages have to go, or to be written again.
 */
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Looked at as one mapping; with 4 KiB pages its residency takes 64 KiB. */
#define LOOK_AT_ONCE ((uint64_t)256 << 20)
#define WRITE_AT_ONCE ((uint64_t)256 << 10)

static int
sync_file(int fd)
{
	while (fsync(fd)) {
		if (errno != EINTR)
			return errno;
	}
	return 0;
}

/* Its content, so that the pages are dirty. */
static int
write_again(int fd, char *buffer, uint64_t offset, uint64_t length)
{
	while (length) {
		ssize_t count = pread(fd, buffer, length < WRITE_AT_ONCE ? length : WRITE_AT_ONCE,
				      (off_t)offset);
		if (count > 0)
			count = pwrite(fd, buffer, (size_t)count, (off_t)offset);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return errno;
		if (count == 0) /* it has become shorter */
			return 0;
		offset += (uint64_t)count;
		length -= (uint64_t)count;
	}
	return 0;
}

/* The pages of a range that are cached. Mapping them alone brings none in. */
static int
write_cached(int fd, char *buffer, uint64_t offset, uint64_t length, uint64_t *written)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), pages = (length + page - 1) / page;
	unsigned char *cached = malloc(pages);
	if (!cached)
		return ENOMEM;
	void *mapping = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
	int ret = mapping == MAP_FAILED || mincore(mapping, length, cached) ? errno : 0;
	if (mapping != MAP_FAILED)
		(void)munmap(mapping, length);
	for (uint64_t first = 0, end; !ret && first < pages; first = end) {
		for (end = first; end < pages && cached[end] & 1; end++)
			;
		uint64_t from = first * page, to = end * page < length ? end * page : length;
		if (end > first)
			ret = write_again(fd, buffer, offset + from, to - from);
		*written += to - from;
		if (end == first)
			end++;
	}
	free(cached);
	return ret;
}

/*
 * Afterwards whatever is read from the file is on its storage. What can be dropped from the cache
 * is dropped; the rest (somebody else has it mapped, say), and all where it cannot be told, is
 * written again. `before` is the errno of what had failed before, `written` the bytes written.
 */
int
rpmapy_cache_renew(int fd, uint64_t size, int *before, uint64_t *written)
{
	*written = 0;
	*before = sync_file(fd); /* what is dirty cannot be dropped */
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	char *buffer = malloc(WRITE_AT_ONCE);
	int ret = buffer ? 0 : ENOMEM;
	for (uint64_t offset = 0; !ret && offset < size; offset += LOOK_AT_ONCE) {
		uint64_t left = size - offset;
		ret = write_cached(fd, buffer, offset, left < LOOK_AT_ONCE ? left : LOOK_AT_ONCE,
				   written);
	}
	free(buffer);
	if (!ret && (*before || *written))
		ret = sync_file(fd);
	return ret;
}
