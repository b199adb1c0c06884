/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * say.h -- what an errno alone does not tell, for the user to read.
 *
 * A line to stderr, or to the file that rdma-core's VERBS_LOG_FILE names, once per process and
 * reason; nothing where its VERBS_LOG_LEVEL is 0.
 */
#ifndef SOFTRNIC_SAY_H
#define SOFTRNIC_SAY_H

#include <stdatomic.h>
#include <stdbool.h>

void say_once(_Atomic bool *is_said, const char *text);

#define SAY_ONCE(text)                                                                             \
	do {                                                                                       \
		static _Atomic bool is_said;                                                       \
		say_once(&is_said, text);                                                          \
	} while (0)

#endif
