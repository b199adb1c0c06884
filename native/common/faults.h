/* SPDX-License-Identifier: BSD-3-Clause */
/* faults.h -- signals that tell of what a thread has done itself. */
#ifndef RPMA_FAULTS_H
#define RPMA_FAULTS_H

#include <signal.h>
#include <stdbool.h>

static inline bool
is_fault_signal(int number)
{
	return number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL ||
	       number == SIGTRAP || number == SIGSYS || number == SIGABRT;
}

/*
 * What a thread blocks for which signals are not meant: all but these. Blocked, a fault ends the
 * process at once, past the handler of whoever could say where it was, or mend it.
 */
static inline sigset_t
all_but_faults(void)
{
	sigset_t set;
	(void)sigemptyset(&set);
	for (int number = 1; number < NSIG; number++) {
		if (!is_fault_signal(number))
			(void)sigaddset(&set, number);
	}
	return set;
}

#endif
