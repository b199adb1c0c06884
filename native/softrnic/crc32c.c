/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crc32c.c -- CRC32C (RFC 3720, section 12.1), with the processor's instruction if it has one.
 *
 * That instruction can begin every cycle, but its result takes three: so three streams are summed
 * at once, and their sums joined. Bits are reflected all along: bit 0 is the highest power of x.
 */
#include "wire.h"

#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#define CRC_TARGET __attribute__((target("sse4.2,pclmul")))
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#define CRC_TARGET __attribute__((target("+crc")))
#endif

static uint64_t
load(const uint8_t *in)
{
	uint64_t word;
	memcpy(&word, in, sizeof(word));
	return le64toh(word);
}

/* ---- any processor: eight bytes at a time, each with a table for its place ---- */

#define POLYNOMIAL 0x82f63b78

static uint32_t tables[8][256];

static void
fill_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
		tables[0][i] = crc;
	}
	for (int place = 1; place < 8; place++)
		for (int i = 0; i < 256; i++) {
			uint32_t before = tables[place - 1][i];
			tables[place][i] = before >> 8 ^ tables[0][before & 0xff];
		}
}

static uint32_t
crc32c_portable(uint32_t crc, const void *bytes, size_t size)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const uint8_t *in = bytes;

	pthread_once(&once, fill_tables);
	crc = ~crc;
	for (; size >= 8; size -= 8, in += 8) {
		uint64_t word = load(in) ^ crc;

		crc = tables[7][word & 0xff] ^ tables[6][word >> 8 & 0xff] ^
		      tables[5][word >> 16 & 0xff] ^ tables[4][word >> 24 & 0xff] ^
		      tables[3][word >> 32 & 0xff] ^ tables[2][word >> 40 & 0xff] ^
		      tables[1][word >> 48 & 0xff] ^ tables[0][word >> 56];
	}
	for (; size; size--)
		crc = crc >> 8 ^ tables[0][(crc ^ *in++) & 0xff];
	return ~crc;
}

/* ---- processors with an instruction ---- */

#ifdef CRC_TARGET

#if defined(__x86_64__)

static bool
has_instruction(void)
{
	return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

static inline CRC_TARGET uint64_t
step(uint64_t crc, uint64_t word)
{
	return _mm_crc32_u64(crc, word);
}

static inline CRC_TARGET uint64_t
step_byte(uint64_t crc, uint8_t byte)
{
	return _mm_crc32_u8((uint32_t)crc, byte);
}

static inline CRC_TARGET uint64_t
multiply(uint64_t a, uint32_t b)
{
	__m128i product =
		_mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), _mm_cvtsi32_si128((int)b), 0);
	return (uint64_t)_mm_cvtsi128_si64(product);
}

#else

#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif

static bool
has_instruction(void)
{
	return getauxval(AT_HWCAP) & HWCAP_CRC32;
}

static inline CRC_TARGET uint64_t
step(uint64_t crc, uint64_t word)
{
	return __crc32cd((uint32_t)crc, word);
}

static inline CRC_TARGET uint64_t
step_byte(uint64_t crc, uint8_t byte)
{
	return __crc32cb((uint32_t)crc, byte);
}

/* Not every one that sums can multiply. b is a constant: this becomes an XOR per bit set. */
static inline __attribute__((always_inline)) uint64_t
multiply(uint64_t a, uint32_t b)
{
	uint64_t product = 0;
#pragma GCC unroll 32
	for (int bit = 0; bit < 32; bit++)
		if (b >> bit & 1)
			product ^= a << bit;
	return product;
}

#endif

/*
 * Long and short streams. To sum n bytes of anything behind a stream is to multiply its sum by
 * x^8n; the instruction that takes the product modulo the polynomial multiplies by x^32, and
 * reflection by x. So each constant is x^(8n - 33), n being what its name says.
 */
#define LONG 2048
#define SHORT 256
#define BEHIND_4096 0x82f89c77
#define BEHIND_2048 0xa51b6135
#define BEHIND_512 0xdd7e3b0c
#define BEHIND_256 0xb9e02b86

static inline __attribute__((always_inline)) CRC_TARGET uint64_t
three_streams(uint64_t crc, const uint8_t *in, size_t size, uint32_t behind_two,
	      uint32_t behind_one)
{
	uint64_t second = 0, third = 0;

	for (const uint8_t *end = in + size; in < end; in += 8) {
		crc = step(crc, load(in));
		second = step(second, load(in + size));
		third = step(third, load(in + 2 * size));
	}
	return step(0, multiply(crc, behind_two) ^ multiply(second, behind_one)) ^ third;
}

static CRC_TARGET uint32_t
crc32c_instruction(uint32_t before, const void *bytes, size_t size)
{
	const uint8_t *in = bytes;
	uint64_t crc = ~before;

	for (; size >= 3 * LONG; size -= 3 * LONG, in += 3 * LONG)
		crc = three_streams(crc, in, LONG, BEHIND_4096, BEHIND_2048);
	for (; size >= 3 * SHORT; size -= 3 * SHORT, in += 3 * SHORT)
		crc = three_streams(crc, in, SHORT, BEHIND_512, BEHIND_256);
	for (; size >= 8; size -= 8, in += 8)
		crc = step(crc, load(in));
	for (; size; size--)
		crc = step_byte(crc, *in++);
	return ~(uint32_t)crc;
}

#endif

/* ---- which one ---- */

static uint32_t crc32c_first(uint32_t crc, const void *bytes, size_t size);

static uint32_t (*_Atomic crc32c_best)(uint32_t, const void *, size_t) = crc32c_first;

static uint32_t
crc32c_first(uint32_t crc, const void *bytes, size_t size)
{
	uint32_t (*best)(uint32_t, const void *, size_t) = crc32c_portable;

#ifdef CRC_TARGET
	if (has_instruction())
		best = crc32c_instruction;
#endif
	atomic_store_explicit(&crc32c_best, best, memory_order_relaxed);
	return best(crc, bytes, size);
}

uint32_t
crc32c(uint32_t crc, const void *bytes, size_t size)
{
	return atomic_load_explicit(&crc32c_best, memory_order_relaxed)(crc, bytes, size);
}

void
crc32c_put(uint8_t *out, uint32_t crc)
{
	crc = htole32(crc);
	memcpy(out, &crc, sizeof(crc));
}

bool
crc32c_matches(const uint8_t *in, uint32_t crc)
{
	uint8_t expected[4];

	crc32c_put(expected, crc);
	return !memcmp(in, expected, sizeof(expected));
}
