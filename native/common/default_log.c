/* SPDX-License-Identifier: BSD-3-Clause */
#include "default_log.h"

#include <stdio.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

void
default_log(int aux_threshold, int level, const char *file, int line, const char *function,
	    const char *message)
{
	static const char *const names[] = {"*FATAL* ", "*ERROR* ", "*WARN*  ",
					    "*NOTE*  ", "*INFO*  ", "*DEBUG* "};
	static const int severities[] = {LOG_CRIT,   LOG_ERR,  LOG_WARNING,
					 LOG_NOTICE, LOG_INFO, LOG_DEBUG};
	char where[256] = "";
	if (file)
		(void)snprintf(where, sizeof(where), "%s: %3d: %s: ", file, line, function);
	if (level <= aux_threshold) {
		char date[32] = "";
		struct timespec now;
		struct tm local;
		clock_gettime(CLOCK_REALTIME, &now);
		if (localtime_r(&now.tv_sec, &local))
			(void)strftime(date, sizeof(date), "%b %d %H:%M:%S", &local);
		(void)fprintf(stderr, "%s.%06ld [%ld] %s%s%s\n", date, now.tv_nsec / 1000,
			      syscall(SYS_gettid), names[level], where, message);
	}
	syslog(LOG_LOCAL7 | severities[level], "%s%s%s", names[level], where, message);
}
