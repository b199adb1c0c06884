/* SPDX-License-Identifier: BSD-3-Clause */
/* crc32c_test.c -- crc32c.c against the RFCs' vectors, and its ways to sum against each other. */

/* The source, for the functions of which crc32c() takes the best. */
#include "crc32c.c"

#include "check.h"

/* All ways to sum, by what the processor has. */
static void
check_crc(int line, const void *bytes, size_t size, uint32_t shall_be)
{
	check(line, "crc32c", crc32c(0, bytes, size), shall_be);
	check(line, "crc32c_portable", crc32c_portable(0, bytes, size), shall_be);
#ifdef CRC_TARGET
	if (has_instruction())
		check(line, "crc32c_instruction", crc32c_instruction(0, bytes, size), shall_be);
#endif
}

#define CHECK_CRC(hex, shall_be) check_crc(__LINE__, bytes, parse(bytes, hex), shall_be)

static void
test_crc_vectors(void)
{
	uint8_t bytes[256], out[4];

	/* RFC 3720, appendix B.4. */
	memset(bytes, 0, 32);
	check_crc(__LINE__, bytes, 32, 0x8a9136aa);
	crc32c_put(out, crc32c(0, bytes, 32));
	CHECK_BYTES(out, 4, "aa 36 91 8a");
	CHECK(crc32c_matches(out, 0x8a9136aa), true);
	CHECK(crc32c_matches(out, 0x8a9136ab), false);
	CHECK(crc32c_matches(out, 0x0a9136aa), false);
	memset(bytes, 0xff, 32);
	check_crc(__LINE__, bytes, 32, 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		bytes[i] = (uint8_t)i;
	check_crc(__LINE__, bytes, 32, 0x46dd794e);
	for (int i = 0; i < 32; i++)
		bytes[i] = (uint8_t)(31 - i);
	check_crc(__LINE__, bytes, 32, 0x113fdb5c);
	CHECK_CRC("01 c0 00 00 00 00 00 00 00 00 00 00 00 00 00 00 14 00 00 00 00 00 04 00"
		  "00 00 00 14 00 00 00 18 28 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00",
		  0xd9963a56);
	/* RFC 5044, figures 5 and 6: FPDUs with a marker before them and within. */
	CHECK_CRC("00 00 00 00 00 2a 41 43 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00"
		  "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
		  0x83992352);
	CHECK_CRC("00 2a 41 43 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 14"
		  "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
		  0x98589284);
	check_crc(__LINE__, "123456789", 9, 0xe3069283);
	check_crc(__LINE__, "", 0, 0);
}

/* Bit by bit, as the definition says. */
static uint32_t
crc_slow(const uint8_t *in, size_t size)
{
	uint32_t crc = UINT32_MAX;

	for (; size; size--) {
		crc ^= *in++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void
test_crc_random(void)
{
	const size_t most = 3 * 6144 + 3 * 768 + 64;
	uint8_t *block = malloc(most + 16);

	if (!block)
		abort();
	for (size_t i = 0; i < most + 16; i++)
		block[i] = (uint8_t)rand();
	for (int i = 0; i < 3000; i++) {
		size_t start = (size_t)rand() % 16;
		size_t size = (size_t)rand() % (i % 8 ? 1700 : most);
		const uint8_t *in = block + start;
		uint32_t whole = crc_slow(in, size), crc = 0;

		/* To the last byte of the block, beyond which nothing may be read. */
		if (i % 3 == 0)
			in = block + most + 16 - size, whole = crc_slow(in, size);
		check_crc(__LINE__, in, size, whole);
		for (size_t done = 0, part; done < size; done += part) {
			part = (size_t)rand() % (size / 3 + 2);
			part = part < size - done ? part : size - done;
			crc = crc32c(crc, in + done, part);
		}
		CHECK(crc, whole);
	}
	free(block);
}

int
main(void)
{
	test_crc_vectors();
	test_crc_random();
	return report();
}
