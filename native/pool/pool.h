/* SPDX-License-Identifier: BSD-3-Clause */
/* pool.h -- what the C files of the pools' target share, beyond what Python calls. */
#ifndef RPMAPY_POOL_H
#define RPMAPY_POOL_H

#include "binding.h"

#include "decl/pool.h"

struct guard;
struct writer;

/* A part of a pool. */
struct range {
	uint64_t offset, length;
};

/* Of those who have ranges of a mapped file made durable. */
struct rounds {
	pthread_mutex_t lock;
	struct writer *waiting, **last; /* for the next round, by when they came */
	bool is_led;                    /* by the thread of one of them */
	int fd;                         /* the file, opened for this alone; or -1 */
	bool flushes_whole;             /* msync of a range does for all that has been written */
	uint64_t file_offset;           /* of the mapping */
};

/*
 * A pool's memory, by the address of its byte 0: as registered with the RNIC, and in the mapping of
 * its file. Where the two differ, the registered one is a shadow in DRAM, of which a flush copies
 * the range into the mapping.
 */
struct rpmapy_durable {
	struct handle handle; /* an answering that has the pool is a child of it */
	char *memory, *mapping;
	uint64_t size;
	int method;
	pthread_mutex_t lock; /* of copying into the mapping */
	struct rounds rounds; /* by msync */
	struct guard *guard;  /* keeps the first failure, too */
	int failed;           /* the same, once closed */
};

uintptr_t page_size(void);

/* Where the page of an offset starts, and the first start of a page from there on: in the pool. */
uint64_t durable_page_down(const struct rpmapy_durable *durable, uint64_t offset);
uint64_t durable_page_up(const struct rpmapy_durable *durable, uint64_t offset);

/*
 * The two steps of a flush, for a caller that keeps the handle open and the ranges within the pool:
 * all of its copies come first, then what makes them durable. 0, or an errno.
 */
int durable_copy(struct rpmapy_durable *durable, uint64_t offset, uint64_t length);
int durable_persist(struct rpmapy_durable *durable, const struct range *ranges, uint32_t count);

/* The errno of the first failure, or 0; and to note one, where there is none yet. */
int durable_failure(const struct rpmapy_durable *durable);
void durable_fail(struct rpmapy_durable *durable, int failure);

/* ---- rounds.c ---- */

void rounds_init(struct rounds *rounds, int fd, uint64_t file_offset);
void rounds_close(struct rounds *rounds);
void rounds_end(struct rounds *rounds);
void rounds_persist(struct rpmapy_durable *durable, const struct range *ranges, uint32_t count);
void rounds_begin(struct rpmapy_durable *durable, const struct range *ranges, uint32_t count);

#endif
