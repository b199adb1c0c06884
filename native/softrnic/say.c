/* SPDX-License-Identifier: BSD-3-Clause */
/* say.c -- what an errno alone does not tell, for the user to read. */
#include "say.h"

#include "uncancelled.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
say_once(_Atomic bool *is_said, const char *text)
{
	char line[512];
	const char *level = secure_getenv("VERBS_LOG_LEVEL");
	const char *path = secure_getenv("VERBS_LOG_FILE");
	int failure = errno, fd = STDERR_FILENO;
	if (atomic_exchange(is_said, true) || (level && !strcmp(level, "0")))
		return;
	int length = snprintf(line, sizeof(line), "softrnic: %s\n", text);
	if (path && *path)
		fd = uncancelled_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC);
	if (fd >= 0)
		uncancelled_write(fd, line, (size_t)length);
	if (fd > STDERR_FILENO)
		uncancelled_close(fd);
	errno = failure;
}
