/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * librpma_log.c -- librpma's log functions. The normal library logs through a function of ours,
 * which keeps the last error message of each thread (rpma_errormsg) and writes the debug log; what
 * the program has set, function and thresholds, is kept here and served as the normal library
 * would.
 */
#include "validation.h"
#include "wrapper.h"

#include "../common/default_log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Atomic(rpma_log_function *) program_function;
static _Atomic int thresholds[RPMA_LOG_THRESHOLD_MAX] = {RPMA_LOG_LEVEL_WARNING, RPMA_LOG_DISABLED};

static const char *const level_names[] = {"FATAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"};

/* From which RPMA_LOG_LEVEL a message is logged. */
static int
level_of(enum rpma_log_level level)
{
	switch (level) {
	case RPMA_LOG_LEVEL_NOTICE:
		return 2;
	case RPMA_LOG_LEVEL_INFO:
		return 3;
	case RPMA_LOG_LEVEL_DEBUG:
		return 4;
	default:
		return 1;
	}
}

static bool
ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), end_length = strlen(end);
	return length >= end_length && !strcmp(text + length - end_length, end);
}

/* An event channel that does not block, and has no event: librpma takes that for an error. */
static bool
is_temporary(const struct call *call, const char *message)
{
	char buffer[128];
	size_t id = (size_t)(call->function - functions);
	return (id == FUNCTION_rpma_conn_next_event || id == FUNCTION_rpma_ep_next_conn_req) &&
	       ends_with(message, strerror_r(EAGAIN, buffer, sizeof(buffer)));
}

static void
to_program(enum rpma_log_level level, const char *file, int line, const char *function,
	   const char *message)
{
	struct thread *thread = &this_thread;
	struct call *inner = thread->inner;
	rpma_log_function *program = atomic_load(&program_function);
	if (level > (enum rpma_log_level)atomic_load(&thresholds[RPMA_LOG_THRESHOLD]))
		return;
	/* What the function calls of librpma is not the normal library's call. */
	thread->inner = NULL;
	if (program) {
		program(level, file, line, function, "%s\n", message);
	} else {
		const char *slash = file ? strrchr(file, '/') : NULL;
		default_log(atomic_load(&thresholds[RPMA_LOG_THRESHOLD_AUX]), (int)level,
			    slash ? slash + 1 : file, line, function, message);
	}
	thread->inner = inner;
}

void
librpma_log_tell(enum rpma_log_level level, const char *function, const char *message)
{
	if (atomic_load(&program_function))
		to_program(level, "validation", 0, function, message);
}

static void
from_normal(enum rpma_log_level level, const char *file, const int line, const char *function,
	    const char *format, ...)
{
	if (level < RPMA_LOG_LEVEL_FATAL || level > RPMA_LOG_LEVEL_DEBUG)
		return;
	int saved_errno = errno;
	struct thread *thread = this_thread.id ? &this_thread : thread_init();
	struct call *call = thread->inner;
	char message[MESSAGE_SIZE] = "";
	int wanted = level_of(level);
	va_list arguments;
	va_start(arguments, format);
	(void)vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	message[strcspn(message, "\n")] = '\0';
	if (level <= RPMA_LOG_LEVEL_ERROR) {
		message_set(thread, "%s", message);
		if (call) {
			call->is_heard = true;
			call->is_temporary = is_temporary(call, message);
			if (call->is_temporary)
				wanted = 3;
		}
	}
	if (log_level >= wanted) {
		const char *slash = file ? strrchr(file, '/') : NULL;
		log_write(wanted, "librpma", "%s %s:%d %s: %s", level_names[level],
			  slash ? slash + 1 : (file ? file : "-"), line, function ? function : "-",
			  message);
	}
	to_program(level, file, line, function, message);
	errno = saved_errno;
}

/* Low enough for the program, the debug log, and errors always. */
static int
set_normal_threshold(void)
{
	static const int for_log[] = {RPMA_LOG_LEVEL_ERROR, RPMA_LOG_LEVEL_WARNING,
				      RPMA_LOG_LEVEL_NOTICE, RPMA_LOG_LEVEL_INFO,
				      RPMA_LOG_LEVEL_DEBUG};
	int level = atomic_load(&thresholds[RPMA_LOG_THRESHOLD]);
	int ret;
	if (level < for_log[log_level])
		level = for_log[log_level];
	do {
		ret = normal.rpma_log_set_threshold(RPMA_LOG_THRESHOLD, (enum rpma_log_level)level);
	} while (ret == RPMA_E_AGAIN);
	return ret;
}

int
librpma_log_init(void)
{
	int ret;
	for (int i = 0; i < RPMA_LOG_THRESHOLD_MAX; i++) {
		enum rpma_log_level level;
		if (!normal.rpma_log_get_threshold((enum rpma_log_threshold)i, &level))
			atomic_store(&thresholds[i], (int)level);
	}
	do {
		ret = normal.rpma_log_set_function(from_normal);
	} while (ret == RPMA_E_AGAIN);
	return ret ? ret : set_normal_threshold();
}

int
own_rpma_log_set_function(rpma_log_function *log_function)
{
	atomic_store(&program_function, log_function);
	return 0;
}

int
own_rpma_log_set_threshold(enum rpma_log_threshold threshold, enum rpma_log_level level)
{
	if ((unsigned)threshold >= RPMA_LOG_THRESHOLD_MAX || (int)level < RPMA_LOG_DISABLED ||
	    (int)level > RPMA_LOG_LEVEL_DEBUG)
		return RPMA_E_INVAL;
	atomic_store(&thresholds[threshold], (int)level);
	return threshold == RPMA_LOG_THRESHOLD ? set_normal_threshold() : 0;
}

int
own_rpma_log_get_threshold(enum rpma_log_threshold threshold, enum rpma_log_level *level)
{
	if ((unsigned)threshold >= RPMA_LOG_THRESHOLD_MAX || !level)
		return RPMA_E_INVAL;
	*level = (enum rpma_log_level)atomic_load(&thresholds[threshold]);
	return 0;
}
