/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log.c -- the log that RPMA_LOG_LEVEL and RPMA_LOG_FILE ask for (librpma(7), DEBUGGING AND ERROR
 * HANDLING). A line goes out by one write(2) to a file opened for appending, so that the lines of
 * threads, and of processes that share the file, never mix.
 */
#include "line.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NANOSECONDS 1000000000u

int log_level;

static int log_fd = STDERR_FILENO;
static char log_name[PATH_MAX]; /* "" for stderr */
static bool has_pid_in_name;
static char process[16];
static uint64_t epoch; /* the time of day at the monotonic clock's zero, ns */

/* The text of the second that a thread last wrote a line in. */
static __thread uint64_t line_second __attribute__((tls_model("initial-exec")));
static __thread char line_date[24] __attribute__((tls_model("initial-exec")));

uint64_t
log_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

static void
log_open(void)
{
	(void)snprintf(process, sizeof(process), "%d", (int)getpid());
	if (!log_name[0])
		return;
	char name[PATH_MAX + 16];
	(void)snprintf(name, sizeof(name), "%s%s", log_name, has_pid_in_name ? process : "");
	int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0666);
	if (fd < 0) {
		(void)fprintf(stderr,
			      "librpma: RPMA_LOG_FILE=%s: %s: %s. The log goes to stderr.\n",
			      log_name, name, strerror(errno));
		fd = STDERR_FILENO;
		log_name[0] = '\0';
	}
	log_fd = fd;
}

/* A child has the parent's file, and its name where that has no PID. */
static void
child_after_fork(void)
{
	if (log_name[0] && has_pid_in_name) {
		if (log_fd != STDERR_FILENO)
			(void)close(log_fd);
		log_open();
	} else {
		(void)snprintf(process, sizeof(process), "%d", (int)getpid());
	}
	this_thread.id = 0;
}

int
log_init(void)
{
	/* A program with the rights of another user writes no file of this one's choice. */
	const char *level = secure_getenv("RPMA_LOG_LEVEL");
	const char *name = secure_getenv("RPMA_LOG_FILE");
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	epoch = (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec - log_now();
	if (level) {
		char *end;
		long value = strtol(level, &end, 10);
		if (end == level || *end || value < 0 || value > 4)
			(void)fprintf(stderr,
				      "librpma: RPMA_LOG_LEVEL=%s is not one of 0, 1, 2, 3, 4: "
				      "nothing is logged.\n",
				      level);
		else
			log_level = (int)value;
	}
	if (name && name[0]) {
		if (strlen(name) < sizeof(log_name)) {
			strcpy(log_name, name);
			has_pid_in_name = name[strlen(name) - 1] == '-';
		} else {
			(void)fprintf(stderr, "librpma: RPMA_LOG_FILE is too long. "
					      "The log goes to stderr.\n");
		}
	}
	log_open();
	return pthread_atfork(NULL, NULL, child_after_fork);
}

static void
put_time(struct line *line, uint64_t time)
{
	uint64_t second = time / NANOSECONDS;
	if (second != line_second) {
		time_t seconds = (time_t)second;
		struct tm utc;
		(void)gmtime_r(&seconds, &utc);
		(void)strftime(line_date, sizeof(line_date), "%Y-%m-%dT%H:%M:%S.", &utc);
		line_second = second;
	}
	memcpy(line->text, line_date, 20);
	uint32_t rest = (uint32_t)(time % NANOSECONDS);
	for (unsigned i = 28; i >= 20; i--, rest /= 10)
		line->text[i] = (char)('0' + rest % 10);
	line->text[29] = 'Z';
	line->length = 30;
}

uint64_t
log_line_begin(struct line *line, int level, const char *kind)
{
	uint64_t now = log_now();
	struct thread *thread = this_thread.id ? &this_thread : thread_init();
	char start[] = {' ', (char)('0' + level), ' ', '\0'};
	put_time(line, epoch + now);
	line_raw(line, " [");
	line_raw(line, process);
	line_raw(line, "/");
	line_decimal(line, (uint64_t)thread->id);
	line_raw(line, "]");
	line_raw(line, start);
	line_raw(line, kind);
	return now;
}

static void
write_all(int fd, const char *text, size_t length)
{
	ssize_t written;
	do {
		written = write(fd, text, length);
	} while (written < 0 && errno == EINTR);
}

void
log_line_out(struct line *line)
{
	int saved_errno = errno;
	if (line->length > LINE_SIZE - 1)
		line->length = LINE_SIZE - 1;
	line->text[line->length++] = '\n';
	write_all(log_fd, line->text, line->length);
	errno = saved_errno;
}

static void
format_line(struct line *line, int level, const char *kind, const char *format, va_list arguments)
{
	char text[MESSAGE_SIZE + 256];
	(void)vsnprintf(text, sizeof(text), format, arguments);
	for (char *end = text; (end = strpbrk(end, "\r\n"));)
		*end = ' '; /* one line whatever it says */
	(void)log_line_begin(line, level, kind);
	line_raw(line, " ");
	line_raw(line, text);
}

void
log_write(int level, const char *kind, const char *format, ...)
{
	if (log_level < level)
		return;
	struct line line;
	va_list arguments;
	va_start(arguments, format);
	format_line(&line, level, kind, format, arguments);
	va_end(arguments);
	log_line_out(&line);
}

void
log_loudly(int level, const char *kind, const char *format, ...)
{
	struct line line;
	va_list arguments;
	va_start(arguments, format);
	format_line(&line, level, kind, format, arguments);
	va_end(arguments);
	if (log_level >= level)
		log_line_out(&line);
	if (log_level < level || log_fd != STDERR_FILENO) {
		va_start(arguments, format);
		(void)fprintf(stderr, "librpma: %s%s", strcmp(kind, "where") ? kind : "  ",
			      strcmp(kind, "where") ? ": " : "");
		(void)vfprintf(stderr, format, arguments);
		(void)fputc('\n', stderr);
		va_end(arguments);
	}
}
