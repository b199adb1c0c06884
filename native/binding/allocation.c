/* SPDX-License-Identifier: BSD-3-Clause */
/* allocation.c -- what rpma.allocation needs of the system, without the GIL. */
#include "binding.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

int
rpmapy_msync(uintptr_t address, size_t length)
{
	return msync((void *)address, length, MS_SYNC) ? errno : 0;
}

/* Have all pages now. An older kernel has them when they are touched. */
int
rpmapy_populate(uintptr_t address, size_t length)
{
	if (!madvise((void *)address, length, MADV_POPULATE_WRITE) || errno == EINVAL)
		return 0;
	return errno;
}

/* The magic number of the file system that a file is on, or -1. */
long
rpmapy_file_system_magic(int fd)
{
	struct statfs info;
	return fstatfs(fd, &info) ? -1 : (long)info.f_type;
}
