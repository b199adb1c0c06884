/* SPDX-License-Identifier: BSD-3-Clause */
/* fuzz.h -- what libFuzzer's targets share. */
#ifndef SOFTRNIC_FUZZ_H
#define SOFTRNIC_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition))                                                                  \
			__builtin_trap();                                                          \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
