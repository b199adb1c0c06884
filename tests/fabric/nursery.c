/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nursery.c -- stands for a process that nursery.py forks: nursery SOCKET NAME ARGUMENT... It hands
 * over its files, folder, environment and arguments, passes signals on, and ends as that one does.
 * When it is killed, nursery.py kills that one, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static volatile sig_atomic_t child;

static void
pass_on(int number)
{
	if (child > 0)
		kill(child, number);
}

static void
die(const char *what)
{
	perror(what);
	_exit(125);
}

static void
put(FILE *out, const char *text)
{
	fwrite(text, 1, strlen(text) + 1, out);
}

/* All in one message: a length, then counted lists of texts that end with a zero. */
static void
hand_over(int connection, int argc, char **argv)
{
	char *text, folder[4096], room[CMSG_SPACE(3 * sizeof(int))] = {0};
	size_t size;
	struct rlimit limit;
	FILE *out = open_memstream(&text, &size);
	if (!out || !getcwd(folder, sizeof(folder)) || getrlimit(RLIMIT_FSIZE, &limit))
		die("nursery");
	fprintf(out, "%lld", limit.rlim_cur == RLIM_INFINITY ? -1LL : (long long)limit.rlim_cur);
	fputc(0, out);
	put(out, folder);
	fprintf(out, "%d", argc - 2);
	fputc(0, out);
	for (int i = 2; i < argc; i++)
		put(out, argv[i]);
	for (char **variable = environ; *variable; variable++)
		put(out, *variable);
	fclose(out);
	uint32_t length = (uint32_t)size;
	struct iovec iov[] = {{&length, sizeof(length)}, {text, size}};
	struct msghdr message = {.msg_iov = iov,
				 .msg_iovlen = 2,
				 .msg_control = room,
				 .msg_controllen = sizeof(room)};
	struct cmsghdr *files = CMSG_FIRSTHDR(&message);
	int fds[] = {0, 1, 2};
	files->cmsg_level = SOL_SOCKET;
	files->cmsg_type = SCM_RIGHTS;
	files->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(files), fds, sizeof(fds));
	if (sendmsg(connection, &message, 0) != (ssize_t)(sizeof(length) + size))
		die("nursery");
	free(text);
}

static int32_t
next_number(int connection)
{
	int32_t number;
	ssize_t got;
	while ((got = recv(connection, &number, sizeof(number), MSG_WAITALL)) < 0 && errno == EINTR)
		;
	if (got != sizeof(number)) {
		fputs("nursery: the one who forks is gone\n", stderr);
		_exit(125);
	}
	return number;
}

int
main(int argc, char **argv)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (argc < 3 || strlen(argv[1]) >= sizeof(address.sun_path))
		return 125;
	strcpy(address.sun_path, argv[1]);
	int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	sigset_t held, before;
	sigemptyset(&held);
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++) {
		signal(signals[i], pass_on);
		sigaddset(&held, signals[i]);
	}
	/* One that comes early waits until there is somebody to pass it on to. */
	sigprocmask(SIG_BLOCK, &held, &before);
	if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof(address)))
		die("nursery");
	hand_over(connection, argc, argv);
	child = next_number(connection);
	/* The files are that one's alone from now on: whoever waits for their end sees it. */
	int nothing = open("/dev/null", O_RDWR);
	for (int fd = 0; fd < 3; fd++)
		dup2(nothing, fd);
	sigprocmask(SIG_SETMASK, &before, NULL);
	int32_t code = next_number(connection);
	if (code >= 0)
		_exit(code);
	signal(-code, SIG_DFL);
	kill(getpid(), -code);
	_exit(125);
}
