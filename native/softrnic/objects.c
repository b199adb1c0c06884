/* SPDX-License-Identifier: BSD-3-Clause */
/* objects.c -- how many objects this process has: who looks for leaks asks, as `rdma resource`. */
#include "softrnic.h"

#include <string.h>

static const char *const names[] = {"pd", "cq", "qp", "mr", "srq", "channel"};
static _Atomic int counts[sizeof(names) / sizeof(*names)];

void
object_count(enum object kind, int change)
{
	atomic_fetch_add_explicit(&counts[kind], change, memory_order_relaxed);
}

/* -1: there is no such kind. */
int softrnic_count(const char *kind);

SOFTRNIC_EXPORT int
softrnic_count(const char *kind)
{
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (!strcmp(kind, names[i]))
			return atomic_load(&counts[i]);
	}
	return -1;
}
