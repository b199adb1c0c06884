/* SPDX-License-Identifier: BSD-3-Clause */
/* pool.h -- what the C files of the pools' target share, beyond what Python calls. */
#ifndef RPMAPY_POOL_H
#define RPMAPY_POOL_H

#include "binding.h"

#include "decl/pool.h"

struct guard;

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
	pthread_mutex_t lock; /* of copying into the mapping, and of msync */
	struct guard *guard;  /* keeps the first failure, too */
	int failed;           /* the same, once closed */
};

/* Where the page of an offset starts, and the first start of a page from there on: in the pool. */
uint64_t durable_page_down(const struct rpmapy_durable *durable, uint64_t offset);
uint64_t durable_page_up(const struct rpmapy_durable *durable, uint64_t offset);

/*
 * The two steps of a flush, for a caller that keeps the handle open and the range within the pool:
 * all of its copies come first, then what makes them durable. 0, or an errno.
 */
int durable_copy(struct rpmapy_durable *durable, uint64_t offset, uint64_t length);
int durable_persist(struct rpmapy_durable *durable, uint64_t offset, uint64_t length);

#endif
