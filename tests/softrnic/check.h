/* SPDX-License-Identifier: BSD-3-Clause */
/* check.h -- what the C tests share: checks that print what differs, and exact blocks of bytes. */
#ifndef SOFTRNIC_CHECK_H
#define SOFTRNIC_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

#define CHECK(is, shall_be) check(__LINE__, #is, (long long)(is), (long long)(shall_be))

static void
check(int line, const char *what, long long is, long long shall_be)
{
	if (is == shall_be)
		return;
	failures++;
	if (failures <= 40)
		printf("line %d: %s: is %lld (0x%llx), shall be %lld (0x%llx)\n", line, what, is,
		       (unsigned long long)is, shall_be, (unsigned long long)shall_be);
}

/* Bytes as the RFCs print them, "4d 50 41"; spaces are free. */
static inline size_t
parse(uint8_t *out, const char *hex)
{
	size_t size = 0;
	unsigned byte;
	int used;

	while (sscanf(hex, " %2x%n", &byte, &used) == 1) {
		out[size++] = (uint8_t)byte;
		hex += used;
	}
	return size;
}

#define CHECK_BYTES(is, size, hex) check_bytes(__LINE__, is, size, hex)

static inline void
check_bytes(int line, const uint8_t *is, size_t size, const char *hex)
{
	uint8_t shall_be[1024];
	size_t expected = parse(shall_be, hex);

	check(line, "size", (long long)size, (long long)expected);
	for (size_t i = 0; i < size && i < expected; i++) {
		char what[32];

		snprintf(what, sizeof(what), "byte %zu", i);
		check(line, what, is[i], shall_be[i]);
	}
}

/* A copy that ends where the memory ends. */
static inline uint8_t *
exact(const uint8_t *in, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, in, size);
	return copy;
}

/* For main() to return. */
static inline int
report(void)
{
	printf("%d failures\n", failures);
	return failures != 0;
}

#endif
