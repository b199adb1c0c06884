/* SPDX-License-Identifier: BSD-3-Clause */
/* manual.c -- what librpma(7) says of versions, messages and logs, without a device. */
#include <librpma.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Only the debug build has them; <librpma.h> declares neither. */
extern const char *rpma_check_version(unsigned major, unsigned minor) __attribute__((weak));
extern const char *rpma_errormsg(void) __attribute__((weak));

static int
short_descriptor(size_t size)
{
	struct rpma_mr_remote *mr;
	return rpma_mr_remote_from_descriptor("0123456789", size, &mr);
}

static void
succeed(void)
{
	struct rpma_conn_cfg *cfg;
	if (rpma_conn_cfg_new(&cfg) || rpma_conn_cfg_set_sq_size(cfg, 20) ||
	    rpma_conn_cfg_delete(&cfg))
		exit(3);
}

static void
version(const char *major, const char *minor)
{
	const char *reason = rpma_check_version((unsigned)strtoul(major, NULL, 10),
						(unsigned)strtoul(minor, NULL, 10));
	const char *copy = reason ? strdup(reason) : NULL;
	/* Static: another failure leaves it as it is. */
	(void)rpma_check_version(7, 7);
	puts(reason ? reason : "none");
	if (reason && strcmp(reason, copy) != 0)
		exit(3);
}

static void *
fail_in_thread(void *size)
{
	(void)short_descriptor((size_t)(uintptr_t)size);
	return strdup(rpma_errormsg());
}

static void
threads(void)
{
	pthread_t other;
	void *said;
	(void)short_descriptor(3);
	pthread_create(&other, NULL, fail_in_thread, (void *)5);
	pthread_join(other, &said);
	printf("%s\n%s\n", rpma_errormsg(), (char *)said);
	free(said);
}

static void
kept(void)
{
	(void)short_descriptor(3);
	const char *first = rpma_errormsg();
	succeed();
	printf("%s\n", rpma_errormsg());
	(void)short_descriptor(5);
	printf("%s\n%s\n", rpma_errormsg(), first == rpma_errormsg() ? "same buffer" : "another");
}

static void *
many_in_thread(void *unused)
{
	for (int i = 0; i < 500; i++) {
		succeed();
		(void)short_descriptor(3);
	}
	return unused;
}

static void
many(void)
{
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, many_in_thread, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

static void
forks(void)
{
	(void)short_descriptor(3);
	pid_t child = fork();
	if (!child) {
		(void)short_descriptor(5);
		exit(0);
	}
	waitpid(child, NULL, 0);
	printf("%d %d\n", (int)getpid(), (int)child);
}

static void
own_function(enum rpma_log_level level, const char *file, const int line, const char *function,
	     const char *format, ...)
{
	enum rpma_log_level threshold = RPMA_LOG_DISABLED;
	(void)line, (void)format;
	/* librpma's functions may be called from here. */
	if (rpma_log_get_threshold(RPMA_LOG_THRESHOLD, &threshold))
		exit(3);
	printf("%d %s %s %d\n", (int)level, file, function, (int)threshold);
}

static void
function(void)
{
	if (rpma_log_set_function(own_function) ||
	    rpma_log_set_threshold(RPMA_LOG_THRESHOLD, RPMA_LOG_LEVEL_ERROR))
		exit(3);
	(void)short_descriptor(3);
	(void)rpma_conn_cfg_new(NULL);
	if (rpma_log_set_threshold(RPMA_LOG_THRESHOLD, RPMA_LOG_DISABLED))
		exit(3);
	(void)short_descriptor(3);
	if (rpma_log_set_function(RPMA_LOG_USE_DEFAULT_FUNCTION) ||
	    rpma_log_set_threshold(RPMA_LOG_THRESHOLD, RPMA_LOG_LEVEL_ERROR) ||
	    rpma_log_set_threshold(RPMA_LOG_THRESHOLD_AUX, RPMA_LOG_LEVEL_ERROR))
		exit(3);
	(void)short_descriptor(3);
}

static void
asserts(void)
{
	struct rpma_conn_cfg *cfg, *copy;
	if (rpma_conn_cfg_new(&cfg))
		exit(3);
	copy = cfg;
	if (rpma_conn_cfg_delete(&cfg))
		exit(3);
	printf("%d\n", rpma_conn_cfg_set_sq_size(copy, 20));
}

int
main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "version") && argc == 4)
		version(argv[2], argv[3]);
	else if (!strcmp(what, "error"))
		printf("%d %s\n", short_descriptor(3), rpma_errormsg ? rpma_errormsg() : "-");
	else if (!strcmp(what, "threads"))
		threads();
	else if (!strcmp(what, "kept"))
		kept();
	else if (!strcmp(what, "many"))
		many();
	else if (!strcmp(what, "forks"))
		forks();
	else if (!strcmp(what, "function"))
		function();
	else if (!strcmp(what, "asserts"))
		asserts();
	else if (!strcmp(what, "succeed"))
		succeed();
	else
		return 2;
	return 0;
}
