/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log.c -- the function that librpma logs through. It keeps the last error message of each thread
 * (rpma_errormsg), and hands messages on: to a listener in Python through a ring that one Python
 * thread empties, so that a thread inside librpma never waits for the interpreter; otherwise as
 * librpma's own default function does, to syslog and, by the auxiliary threshold, to stderr.
 */
#include "binding.h"
#include "../common/default_log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RING 256

static __thread char last_error[RPMAPY_MESSAGE_SIZE];
static __thread bool logged_in_call;
static __thread int quiet;

static _Atomic int main_threshold = RPMA_LOG_LEVEL_WARNING;
static _Atomic int aux_threshold = RPMA_LOG_DISABLED;
static _Atomic bool listening;

static struct {
	pthread_mutex_t lock;
	pthread_cond_t filled;
	struct rpmapy_log_record records[RING];
	unsigned head, length, dropped;
	bool delivering;
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER};

extern const char *rpma_errormsg(void) __attribute__((weak));

void
call_begin(void)
{
	logged_in_call = false;
}

void
log_quiet_begin(void)
{
	quiet++;
}

void
log_quiet_end(void)
{
	quiet--;
}

/* librpma says "...: strerror(errno)" at the end of a message and keeps the number to itself. */
bool
call_failed_with(int errno_value)
{
	char buffer[128];
	const char *reason = strerror_r(errno_value, buffer, sizeof(buffer));
	size_t length = strlen(last_error), tail = strlen(reason);
	return logged_in_call && length >= tail && !strcmp(last_error + length - tail, reason);
}

const char *
rpmapy_errormsg(void)
{
	return rpma_errormsg ? rpma_errormsg() : last_error;
}

/* The message that the last call of this thread logged, or ""; the debug build knows more of it. */
const char *
rpmapy_call_message(void)
{
	return logged_in_call ? rpmapy_errormsg() : "";
}

static void
push(int level, const char *file, int line, const char *function, const char *message)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	pthread_mutex_lock(&ring.lock);
	if (ring.length == RING) {
		ring.dropped++;
	} else {
		struct rpmapy_log_record *record = &ring.records[(ring.head + ring.length) % RING];
		record->level = level;
		record->line = line;
		record->thread = (int)syscall(SYS_gettid);
		record->dropped = ring.dropped;
		record->when = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
		(void)snprintf(record->file, sizeof(record->file), "%s", file ? file : "");
		(void)snprintf(record->function, sizeof(record->function), "%s",
			       function ? function : "");
		(void)snprintf(record->message, sizeof(record->message), "%s", message);
		ring.dropped = 0;
		ring.length++;
		pthread_cond_signal(&ring.filled);
	}
	pthread_mutex_unlock(&ring.lock);
}

static void
log_hook(enum rpma_log_level level, const char *file, const int line, const char *function,
	 const char *format, ...)
{
	if (level < RPMA_LOG_LEVEL_FATAL || level > RPMA_LOG_LEVEL_DEBUG)
		return;
	int saved_errno = errno;
	char message[RPMAPY_MESSAGE_SIZE] = "";
	va_list arguments;
	va_start(arguments, format);
	(void)vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	message[strcspn(message, "\n")] = '\0';
	if (level <= RPMA_LOG_LEVEL_ERROR) {
		memcpy(last_error, message, sizeof(last_error));
		logged_in_call = true;
	}
	if (!quiet && level <= (enum rpma_log_level)atomic_load(&main_threshold)) {
		const char *slash = file ? strrchr(file, '/') : NULL;
		const char *name = slash ? slash + 1 : file;
		if (atomic_load(&listening))
			push(level, name, line, function, message);
		else
			default_log(atomic_load(&aux_threshold), level, name, line, function,
				    message);
	}
	errno = saved_errno;
}

/* A message of the binding's own, on the way that librpma's take. */
void
rpmapy_log_message(int level, const char *message)
{
	log_hook((enum rpma_log_level)level, NULL, 0, NULL, "%s", message);
}

/* The thread that empties the ring does not exist in a forked child, and its lock may be taken. */
static void
child_after_fork(void)
{
	pthread_mutex_init(&ring.lock, NULL);
	pthread_cond_init(&ring.filled, NULL);
	ring.head = ring.length = ring.dropped = 0;
	ring.delivering = false;
	atomic_store(&listening, false);
}

/*
 * Errors reach the hook whatever the threshold, for rpmapy_errormsg(); the hook then keeps to the
 * threshold that was set.
 */
static int
apply_main_threshold(int level)
{
	int floor = level < RPMA_LOG_LEVEL_ERROR ? RPMA_LOG_LEVEL_ERROR : level;
	int ret;
	do {
		ret = rpma_log_set_threshold(RPMA_LOG_THRESHOLD, (enum rpma_log_level)floor);
	} while (ret == RPMA_E_AGAIN);
	return ret;
}

int
log_init(void)
{
	enum rpma_log_level level;
	int ret;
	if (!rpma_log_get_threshold(RPMA_LOG_THRESHOLD, &level))
		atomic_store(&main_threshold, level);
	if (!rpma_log_get_threshold(RPMA_LOG_THRESHOLD_AUX, &level))
		atomic_store(&aux_threshold, level);
	do {
		ret = rpma_log_set_function(log_hook);
	} while (ret == RPMA_E_AGAIN);
	if (ret)
		return ret;
	ret = apply_main_threshold(atomic_load(&main_threshold));
	if (ret)
		return ret;
	return pthread_atfork(NULL, NULL, child_after_fork);
}

int
rpmapy_log_set_threshold(int threshold, int level)
{
	call_begin();
	if (level < RPMA_LOG_DISABLED || level > RPMA_LOG_LEVEL_DEBUG)
		return RPMA_E_INVAL;
	int ret;
	if (threshold == RPMA_LOG_THRESHOLD) {
		ret = apply_main_threshold(level);
		if (!ret)
			atomic_store(&main_threshold, level);
		return ret;
	}
	do {
		ret = rpma_log_set_threshold((enum rpma_log_threshold)threshold,
					     (enum rpma_log_level)level);
	} while (ret == RPMA_E_AGAIN);
	if (!ret)
		atomic_store(&aux_threshold, level);
	return ret;
}

int
rpmapy_log_get_threshold(int threshold, int *level)
{
	call_begin();
	if (threshold == RPMA_LOG_THRESHOLD) {
		*level = atomic_load(&main_threshold);
		return 0;
	}
	enum rpma_log_level got = RPMA_LOG_DISABLED;
	int ret = rpma_log_get_threshold((enum rpma_log_threshold)threshold, &got);
	*level = got;
	return ret;
}

void
rpmapy_log_listen(bool on)
{
	atomic_store(&listening, on);
	pthread_mutex_lock(&ring.lock);
	pthread_cond_broadcast(&ring.filled);
	pthread_mutex_unlock(&ring.lock);
}

/* For the delivering thread: 0 with the next record, or RPMAPY_E_CLOSED once nobody listens. */
int
rpmapy_log_next(struct rpmapy_log_record *record)
{
	int ret = 0;
	pthread_mutex_lock(&ring.lock);
	ring.delivering = false;
	while (!ring.length && atomic_load(&listening))
		pthread_cond_wait(&ring.filled, &ring.lock);
	if (ring.length) {
		*record = ring.records[ring.head];
		ring.head = (ring.head + 1) % RING;
		ring.length--;
		ring.delivering = true;
	} else {
		ret = RPMAPY_E_CLOSED;
	}
	pthread_mutex_unlock(&ring.lock);
	return ret;
}

void
rpmapy_log_delivered(void)
{
	pthread_mutex_lock(&ring.lock);
	ring.delivering = false;
	pthread_mutex_unlock(&ring.lock);
}

bool
rpmapy_log_drained(void)
{
	pthread_mutex_lock(&ring.lock);
	bool drained = !ring.length && !ring.delivering;
	pthread_mutex_unlock(&ring.lock);
	return drained;
}
