/* SPDX-License-Identifier: BSD-3-Clause */
/* default_log.h -- what librpma does with messages when the program has set no function for them.
 */
#ifndef RPMA_DEFAULT_LOG_H
#define RPMA_DEFAULT_LOG_H

/*
 * librpma keeps its default function to itself: whoever sets a function of his own has to do the
 * same. The message goes to syslog and, up to the auxiliary threshold, to stderr. file: its base
 * name, or NULL.
 */
void default_log(int aux_threshold, int level, const char *file, int line, const char *function,
		 const char *message);

#endif
