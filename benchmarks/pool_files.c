/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pool_files.c -- what storage makes of many writers with a file each, without a network between:
 * a thread for each, which changes a record of its mapping and waits for msync. For
 * benchmarks/pool_disk.py.
 *
 * usage: pool_files SECONDS RECORD_SIZE FILE...
 *
 * Prints the records a second, and the microseconds of processor that each took.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct writer {
	pthread_t thread;
	char *mapping;
	size_t size;
	unsigned chance;
	unsigned long done;
};

static size_t record;
static _Atomic int is_over;

static void
must(const char *what, int fails)
{
	if (fails) {
		perror(what);
		exit(1);
	}
}

static double
seconds(struct timespec time)
{
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double
clock_of(clockid_t clock)
{
	struct timespec now;
	must("clock_gettime", clock_gettime(clock, &now));
	return seconds(now);
}

static void *
run(void *opaque)
{
	struct writer *writer = opaque;
	while (!atomic_load(&is_over)) {
		size_t number = (size_t)rand_r(&writer->chance) % (writer->size / record);
		char *at = writer->mapping + number * record;
		memset(at, (int)writer->done, record);
		must("msync", msync(at, record, MS_SYNC));
		writer->done++;
	}
	return NULL;
}

static void
map(struct writer *writer, const char *path)
{
	struct stat found;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	must(path, fd < 0 || fstat(fd, &found));
	writer->size = (size_t)found.st_size;
	writer->mapping = mmap(NULL, writer->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must("mmap", writer->mapping == MAP_FAILED);
	close(fd);
}

int
main(int count, char **arguments)
{
	if (count < 4)
		return 2;
	double length = atof(arguments[1]);
	record = strtoul(arguments[2], NULL, 10);
	count -= 3;
	struct writer *writers = calloc((size_t)count, sizeof(*writers));
	must("calloc", !writers);
	for (int i = 0; i < count; i++) {
		writers[i].chance = (unsigned)i + 1;
		map(&writers[i], arguments[3 + i]);
	}
	double began = clock_of(CLOCK_MONOTONIC), used = clock_of(CLOCK_PROCESS_CPUTIME_ID);
	for (int i = 0; i < count; i++)
		must("pthread_create", pthread_create(&writers[i].thread, NULL, run, &writers[i]));
	struct timespec pause = {.tv_sec = (time_t)length};
	pause.tv_nsec = (long)((length - (double)pause.tv_sec) * 1e9);
	(void)nanosleep(&pause, NULL);
	atomic_store(&is_over, 1);
	unsigned long done = 0;
	for (int i = 0; i < count; i++) {
		pthread_join(writers[i].thread, NULL);
		done += writers[i].done;
	}
	began = clock_of(CLOCK_MONOTONIC) - began;
	used = clock_of(CLOCK_PROCESS_CPUTIME_ID) - used;
	printf("%.1f %.3f\n", (double)done / began, used / (double)done * 1e6);
	return 0;
}
