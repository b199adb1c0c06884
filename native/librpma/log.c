/* SPDX-License-Identifier: BSD-3-Clause */
/* log.c -- messages, and who gets them. */
#include "internal.h"

#include "../common/default_log.h"

#include <stdarg.h>
#include <string.h>

/* librpma(7): thread-local, and never cleared. */
static __thread char last_error[1024];

static _Atomic(rpma_log_function *) program_function;
static _Atomic int thresholds[RPMA_LOG_THRESHOLD_MAX] = {RPMA_LOG_LEVEL_WARNING, RPMA_LOG_DISABLED};

const char *
rpma_errormsg(void)
{
	return last_error;
}

void
message(enum rpma_log_level level, const char *file, int line, const char *function,
	const char *format, ...)
{
	bool is_error = level <= RPMA_LOG_LEVEL_ERROR;
	bool is_logged = (int)level <= atomic_load(&thresholds[RPMA_LOG_THRESHOLD]);
	char text[sizeof(last_error)];
	va_list arguments;
	if (!is_error && !is_logged)
		return;
	va_start(arguments, format);
	(void)vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (is_error)
		memcpy(last_error, text, sizeof(text));
	if (!is_logged)
		return;
	rpma_log_function *program = atomic_load(&program_function);
	if (program)
		program(level, file, line, function, "%s\n", text);
	else
		default_log(atomic_load(&thresholds[RPMA_LOG_THRESHOLD_AUX]), (int)level, file,
			    line, function, text);
}

int
provider_error(const char *file, int line, const char *function, const char *call, int error)
{
	char buffer[128];
	message(RPMA_LOG_LEVEL_ERROR, file, line, function, "%s failed: %s", call,
		error ? strerror_r(error, buffer, sizeof(buffer)) : "it does not say why");
	return error == ENOMEM ? RPMA_E_NOMEM : RPMA_E_PROVIDER;
}

int
rpma_log_set_function(rpma_log_function *log_function)
{
	atomic_store(&program_function, log_function);
	return 0;
}

int
rpma_log_set_threshold(enum rpma_log_threshold threshold, enum rpma_log_level level)
{
	if ((int)threshold < 0 || threshold >= RPMA_LOG_THRESHOLD_MAX)
		return RPMA_E_INVAL;
	if ((int)level < RPMA_LOG_DISABLED || level > RPMA_LOG_LEVEL_DEBUG)
		return RPMA_E_INVAL;
	atomic_store(&thresholds[threshold], (int)level);
	return 0;
}

int
rpma_log_get_threshold(enum rpma_log_threshold threshold, enum rpma_log_level *level)
{
	if ((int)threshold < 0 || threshold >= RPMA_LOG_THRESHOLD_MAX || !level)
		return RPMA_E_INVAL;
	*level = (enum rpma_log_level)atomic_load(&thresholds[threshold]);
	return 0;
}
