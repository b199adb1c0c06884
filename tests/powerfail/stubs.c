/*
 * stubs.c -- stands between the target and what makes its pools durable: the kernel's calls for it,
 * and libpmem.
 *
 * pmem_persist flushes, and then tells which bytes of which file it has flushed, before it returns.
 * For the pools whose names begin with "control" neither does anything: the target answers, and
 * nothing is durable. The test has to find that out.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What is told is this, the name and the bytes. */
struct told {
	uint32_t magic, name_length;
	uint64_t offset, length;
};

#define MAGIC 0x54534552u

/* A pool that has just been created has a file whose name was .NAME.NUMBER.new then. */
static void
name_of(const char *path, char *name, size_t room)
{
	const char *file = strrchr(path, '/');
	file = !file ? "" : file[1] == '.' ? file + 2 : file + 1;
	snprintf(name, room, "%.*s", (int)strcspn(file, ".\n"), file);
}

/* The pool whose file is mapped at an address, and where. Nothing is kept: mappings come and go. */
static int
find(const void *address, char *name, size_t room, uint64_t *offset)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char *line = NULL;
	size_t size = 0;
	int found = 0;
	while (maps && !found && getline(&line, &size, maps) > 0) {
		unsigned long begin, end, in_file;
		int at = 0;
		if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %n", &begin, &end, &in_file, &at) < 3 ||
		    !at || (uintptr_t)address < begin || (uintptr_t)address >= end)
			continue;
		name_of(line + at, name, room);
		*offset = in_file + ((uintptr_t)address - begin);
		found = 1;
	}
	free(line);
	if (maps)
		fclose(maps);
	return found;
}

static int
is_control(const char *name)
{
	return strncmp(name, "control", strlen("control")) == 0;
}

static int
is_controls(int fd)
{
	char link[64], path[512], name[256];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, path, sizeof(path) - 1);
	path[length > 0 ? length : 0] = '\0';
	name_of(path, name, sizeof(name));
	return is_control(name);
}

static void
write_all(int fd, const void *data, size_t length, uint64_t at)
{
	while (length) {
		ssize_t done = pwrite(fd, data, length, (off_t)at);
		if (done <= 0)
			abort();
		data = (const char *)data + done;
		length -= (size_t)done;
		at += (uint64_t)done;
	}
}

static void
tell(const char *name, uint64_t offset, const void *data, size_t length)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static int fd = -1;
	static uint64_t end;
	struct told told = {MAGIC, (uint32_t)strlen(name), offset, length};
	pthread_mutex_lock(&lock);
	if (fd < 0)
		fd = open(getenv("POWERFAIL_TOLD"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		abort();
	write_all(fd, &told, sizeof(told), end);
	write_all(fd, name, told.name_length, end + sizeof(told));
	write_all(fd, data, length, end + sizeof(told) + told.name_length);
	end += sizeof(told) + told.name_length + length;
	pthread_mutex_unlock(&lock);
}

int
msync(void *address, size_t length, int flags)
{
	char name[256];
	uint64_t offset;
	if (find(address, name, sizeof(name), &offset) && is_control(name))
		return 0;
	return (int)syscall(SYS_msync, address, length, flags);
}

int
sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
	if (is_controls(fd))
		return 0;
	return (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}

int
fdatasync(int fd)
{
	return is_controls(fd) ? 0 : (int)syscall(SYS_fdatasync, fd);
}

void
pmem_persist(const void *address, size_t length)
{
	static void (*persist)(const void *, size_t);
	char name[256];
	uint64_t offset;
	if (!find(address, name, sizeof(name), &offset))
		abort();
	if (is_control(name))
		return;
	if (!persist) {
		void *library = dlopen("libpmem.so.1", RTLD_NOW);
		*(void **)&persist = library ? dlsym(library, "pmem_persist") : NULL;
		if (!persist)
			abort();
	}
	persist(address, length);
	tell(name, offset, address, length);
}
