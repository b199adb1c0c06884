/* SPDX-License-Identifier: BSD-3-Clause */
/* library.c -- the library is loaded, and goes. */
#include "validation.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* As ps(1) shows it. */
static void
log_start(void)
{
	char command[512] = "";
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t length = read(fd, command, sizeof(command) - 1);
		for (ssize_t i = 0; i + 1 < length; i++) {
			if (!command[i])
				command[i] = ' ';
		}
		(void)close(fd);
	}
	log_write(2, "start", "librpma debug build %s over %s: %s", RPMA_DEBUG_VERSION, normal_path,
		  command);
}

static void load(void) __attribute__((constructor));
static void unload(void) __attribute__((destructor));

static void
load(void)
{
	normal_load();
	if (log_init() || objects_init() || librpma_log_init()) {
		(void)fprintf(stderr, "librpma, debug build: out of memory\n");
		_exit(127);
	}
	findings_init();
	if (log_level >= 4)
		inflight_init();
	if (log_level >= 2)
		log_start();
}

static void
unload(void)
{
	if (log_level >= 1)
		objects_report_leaks();
	log_write(2, "end", "exit");
}
