/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rounds.c -- writers of a file that wait together share the storage's work. Whoever finds nothing
 * under way leads: it flushes in its own thread, at once. Those who come meanwhile wait, and when
 * it is done one of them leads the next round, for all of them. So
 *
 * - a round serves only those who were there before it began, and with them what they had written;
 * - what it finds is for everyone whom it serves, and stays with the pool;
 * - there is one round of a file at a time, since the kernel tells each open file description of a
 *   failed write once: nobody's flush can take the word that was meant for another's. The two that
 *   are used here, the mapping's and one of our own, are used by nobody else;
 * - files do not wait for each other. Where their flushes meet, the kernel sends the disk one.
 *
 * Where it can, a round takes so much of each writer at most, so that a large range does not hold
 * up small ones for longer than that takes; the rest is for the next rounds, and then the flush is.
 */
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

#define AT_ONCE ((uint64_t)8 << 20)

/* How far a writer's ranges have been written. */
struct cursor {
	uint32_t range;
	uint64_t done; /* of that one */
};

/* Who waits; on its own stack. */
struct writer {
	struct writer *next;
	const struct range *ranges;
	uint32_t count;
	struct cursor from, to; /* what the round is to write */
	bool is_served;
	sem_t turn; /* it is served, or leads */
};

/*
 * Whether sync_file_range() with all its flags waits for what was dirty when it was called: before
 * Linux 5.2 it passed over what was being written at the moment.
 */
static bool
waits_for_all(void)
{
	struct utsname found;
	unsigned major = 0, minor = 0;
	return !uname(&found) && sscanf(found.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 5 || (major == 5 && minor >= 2));
}

/*
 * Whether a flush of one range makes durable whatever of the file has been written, so that other
 * ranges need only be written before. On ext4 and xfs it does: where the blocks of a file are is
 * its inode's, which is committed as a whole, and the disk's cache is flushed as a whole. Where it
 * is not known, fdatasync is right, which waits for what others wrote and have not asked for as
 * well.
 */
static bool
flushes_whole(int fd)
{
	struct statfs found;
	return waits_for_all() && !fstatfs(fd, &found) &&
	       (found.f_type == EXT4_SUPER_MAGIC || found.f_type == XFS_SUPER_MAGIC) &&
	       !sync_file_range(fd, 0, 1, 0); /* does nothing; a sandbox may refuse it */
}

/* fd: the file of the mapping, in which it begins at an offset; or negative. */
void
rounds_init(struct rounds *rounds, int fd, uint64_t file_offset)
{
	pthread_mutex_init(&rounds->lock, NULL);
	rounds->last = &rounds->waiting;
	rounds->file_offset = file_offset;
	rounds->fd = -1;
	if (fd < 0)
		return;
	char path[64];
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rounds->fd = open(path, O_RDONLY | O_CLOEXEC); /* dup() would be the same description */
	rounds->flushes_whole = rounds->fd >= 0 && flushes_whole(rounds->fd);
}

/* Nobody waits any more, nor will. */
void
rounds_close(struct rounds *rounds)
{
	if (rounds->fd >= 0)
		close(rounds->fd);
	rounds->fd = -1;
}

void
rounds_end(struct rounds *rounds)
{
	rounds_close(rounds);
	pthread_mutex_destroy(&rounds->lock);
}

/* ---- a round ---- */

/* What is next of a writer's ranges, in so much room. False: none, or there is no room. */
static bool
next_piece(const struct writer *writer, struct cursor *at, uint64_t *room, struct range *piece)
{
	while (at->range < writer->count && at->done == writer->ranges[at->range].length)
		*at = (struct cursor){.range = at->range + 1};
	if (at->range == writer->count || !*room)
		return false;
	const struct range *range = &writer->ranges[at->range];
	uint64_t left = range->length - at->done;
	*piece = (struct range){range->offset + at->done, left < *room ? left : *room};
	at->done += piece->length;
	*room -= piece->length;
	return true;
}

static bool
ends(const struct writer *writer)
{
	return writer->to.range == writer->count;
}

struct plan {
	uint32_t pieces;
	struct range last; /* of the pieces */
	bool ends_some;    /* of the writers: the others have more to be written */
};

/* Of each writer in a round: no part of a range is flushed by itself, it can only be written. */
static uint64_t
room_of_each(const struct rounds *rounds)
{
	return rounds->flushes_whole ? AT_ONCE : UINT64_MAX;
}

static void
plan_round(const struct rounds *rounds, struct writer *writers, struct plan *plan)
{
	*plan = (struct plan){0};
	for (struct writer *writer = writers; writer; writer = writer->next) {
		uint64_t room = room_of_each(rounds);
		writer->to = writer->from;
		while (next_piece(writer, &writer->to, &room, &plan->last))
			plan->pieces++;
		plan->ends_some = plan->ends_some || ends(writer);
	}
}

typedef int (*piece_function)(const struct rpmapy_durable *durable, const struct range *piece);

static int
each_piece(const struct rpmapy_durable *durable, const struct writer *writers, piece_function call)
{
	int ret = 0;
	for (const struct writer *writer = writers; writer && !ret; writer = writer->next) {
		struct cursor at = writer->from;
		struct range piece;
		for (uint64_t room = room_of_each(&durable->rounds);
		     !ret && next_piece(writer, &at, &room, &piece);)
			ret = call(durable, &piece);
	}
	return ret;
}

static int
flush_piece(const struct rpmapy_durable *durable, const struct range *piece)
{
	uintptr_t begin = (uintptr_t)durable->mapping + piece->offset;
	uintptr_t before = begin & (page_size() - 1);
	int ret;
	do
		ret = msync((void *)(begin - before), piece->length + before, MS_SYNC);
	while (ret && errno == EINTR);
	return ret ? errno : 0;
}

static int
write_piece(const struct rpmapy_durable *durable, const struct range *piece, unsigned flags)
{
	const struct rounds *rounds = &durable->rounds;
	off_t offset = (off_t)(rounds->file_offset + piece->offset);
	int ret;
	do
		ret = sync_file_range(rounds->fd, offset, (off_t)piece->length, flags);
	while (ret && errno == EINTR);
	return ret ? errno : 0;
}

/* Leaves out what is being written at the moment, perhaps in an older state. */
static int
begin_piece(const struct rpmapy_durable *durable, const struct range *piece)
{
	return write_piece(durable, piece, SYNC_FILE_RANGE_WRITE);
}

static int
finish_piece(const struct rpmapy_durable *durable, const struct range *piece)
{
	return write_piece(durable, piece,
			   SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
				   SYNC_FILE_RANGE_WAIT_AFTER);
}

static int
flush_file(const struct rpmapy_durable *durable)
{
	int ret;
	do
		ret = fdatasync(durable->rounds.fd);
	while (ret && errno == EINTR);
	return ret ? errno : 0;
}

/*
 * Their pieces are written; and durable, where a writer ends with its own. 0, or an errno: then
 * none of them is served, as the kernel does not say which pages it could not write.
 */
static int
serve(const struct rpmapy_durable *durable, struct writer *writers)
{
	const struct rounds *rounds = &durable->rounds;
	struct plan plan;
	plan_round(rounds, writers, &plan);
	int ret = durable_failure(durable); /* it may have become known since they came */
	if (ret)
		return ret;
	if (rounds->fd < 0 || (plan.pieces == 1 && plan.ends_some))
		return each_piece(durable, writers, flush_piece);
	if (!rounds->flushes_whole)
		return flush_file(durable);
	ret = each_piece(durable, writers, begin_piece);
	if (!ret)
		ret = each_piece(durable, writers, finish_piece);
	if (!ret && plan.ends_some)
		ret = flush_piece(durable, &plan.last);
	return ret;
}

/* ---- who leads ---- */

static void
add(struct rounds *rounds, struct writer *writer)
{
	writer->next = NULL;
	*rounds->last = writer;
	rounds->last = &writer->next;
}

/* Serve those who wait, of whom the caller is one. Unless it has to go on, another leads then. */
static void
lead(struct rpmapy_durable *durable, struct writer *own)
{
	struct rounds *rounds = &durable->rounds;
	pthread_mutex_lock(&rounds->lock);
	struct writer *writers = rounds->waiting, *served = NULL, *heir = NULL;
	rounds->waiting = NULL;
	rounds->last = &rounds->waiting;
	pthread_mutex_unlock(&rounds->lock);

	int ret = serve(durable, writers);
	if (ret)
		durable_fail(durable, ret); /* before anybody goes on */

	pthread_mutex_lock(&rounds->lock);
	for (struct writer *writer = writers, *next; writer; writer = next) {
		next = writer->next;
		writer->from = writer->to;
		writer->is_served = ret || ends(writer);
		if (!writer->is_served) {
			add(rounds, writer);
		} else if (writer != own) {
			writer->next = served;
			served = writer;
		}
	}
	if (own->is_served)
		heir = rounds->waiting;
	rounds->is_led = heir || !own->is_served;
	pthread_mutex_unlock(&rounds->lock);

	/* Each may be gone as soon as it is told. */
	if (heir)
		sem_post(&heir->turn);
	for (struct writer *next; served; served = next) {
		next = served->next;
		sem_post(&served->turn);
	}
}

/*
 * Make ranges durable, of at least a byte each. They are if the pool has not failed by the time
 * that this returns: the caller looks.
 */
void
rounds_persist(struct rpmapy_durable *durable, const struct range *ranges, uint32_t count)
{
	struct rounds *rounds = &durable->rounds;
	struct writer own = {.ranges = ranges, .count = count};
	sem_init(&own.turn, 0, 0);
	pthread_mutex_lock(&rounds->lock);
	add(rounds, &own);
	bool leads = !rounds->is_led;
	rounds->is_led = true;
	pthread_mutex_unlock(&rounds->lock);
	while (!leads && sem_wait(&own.turn))
		; /* interrupted */
	while (!own.is_served)
		lead(durable, &own);
	sem_destroy(&own.turn);
}

/* So that the files of several pools are written at the same time. */
void
rounds_begin(struct rpmapy_durable *durable, const struct range *ranges, uint32_t count)
{
	int ret = 0;
	for (uint32_t i = 0; !ret && i < count && durable->rounds.flushes_whole; i++)
		ret = begin_piece(durable, &ranges[i]);
	if (ret)
		durable_fail(durable, ret);
}
