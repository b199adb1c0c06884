/* SPDX-License-Identifier: BSD-3-Clause */
/* fabric_side.h -- what the two sides of a benchmark are, whatever they are connected by. */
#ifndef FABRIC_SIDE_H
#define FABRIC_SIDE_H

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* With errno; PROGRAM is the program's name. */
static void
fail(const char *what)
{
	(void)fprintf(stderr, PROGRAM ": %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t
now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* A connection has a descriptor or two. */
static void
raise_file_limit(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files))
		fail("getrlimit");
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files))
		fail("setrlimit");
}

/* Say "ready", and answer each line of the input with a number. */
static void
answer_commands(uint64_t (*command)(const char *line, void *where), void *where)
{
	char line[256];
	(void)puts("ready");
	(void)fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		(void)printf("%" PRIu64 "\n", command(line, where));
		(void)fflush(stdout);
	}
}

#endif
