/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * first.c -- the initiator's first FPDU: a responder that waits for it must not do so for ever.
 *
 * The socket is the queue pair's by then. All wait equally long: one line and one deadline do.
 */
#include "cm.h"

#include <sys/eventfd.h>
#include <unistd.h>

static struct {
	struct source source;
	bool is_served;
	struct cm_id *first, *last;
} line;

static void
not_ready(struct source *source, uint32_t events)
{
	(void)source, (void)events; /* nobody writes to it */
}

static void
not_released(struct source *source)
{
	(void)source;
}

static void
set_deadline(void)
{
	engine_set_deadline(&line.source, line.first ? line.first->first_deadline : 0);
}

static void
expired(struct source *source)
{
	(void)source;
	pthread_mutex_lock(&cm_lock);
	for (;;) {
		struct cm_id *id = line.first;
		if (!id || id->first_deadline > engine_now())
			break;
		first_forget(id);
		id->first_missed = true;
		stream_end(id);
	}
	set_deadline();
	pthread_mutex_unlock(&cm_lock);
}

static bool
is_served(void)
{
	if (line.is_served)
		return true;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return false;
	source_init(&line.source, fd, not_ready, expired, not_released);
	line.is_served = engine_add(&line.source, EPOLLIN) == 0;
	if (!line.is_served)
		uncancelled_close(fd);
	return line.is_served;
}

void
first_expect(struct cm_id *id)
{
	/* Without one more fd there is no limit: a connection is worth more than it. */
	if (!is_served())
		return;
	id->first_deadline = engine_now() + PROGRAM_FACTOR * handshake_ms() * 1000000;
	id->next_first = NULL;
	id->previous_first = line.last;
	if (line.last)
		line.last->next_first = id;
	else
		line.first = id;
	line.last = id;
	if (line.first == id)
		set_deadline();
}

void
first_forget(struct cm_id *id)
{
	if (!id->first_deadline)
		return;
	if (id->previous_first)
		id->previous_first->next_first = id->next_first;
	else
		line.first = id->next_first;
	if (id->next_first)
		id->next_first->previous_first = id->previous_first;
	else
		line.last = id->previous_first;
	id->first_deadline = 0;
}
