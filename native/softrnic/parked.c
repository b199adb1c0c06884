/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * parked.c -- what has come while a message waits for a receive.
 *
 * The stream goes on: behind the message may be the answer to a request of this side, and the
 * program may post its receive only when it has got that. So answers pass, all else is kept as it
 * came, up to a limit, and received in order once the message has its receive.
 */
#include "softrnic.h"

#include <stdlib.h>
#include <string.h>

#define PARKED_MIN 8192u
#define PARKED_MAX (256 * 1024u)

static bool
make_room(struct parked *parked, uint32_t size)
{
	if (size <= parked->capacity - parked->end)
		return true;
	uint32_t kept = parked->end - parked->start, capacity = parked->capacity;
	if (size > PARKED_MAX - kept)
		return false;
	if (parked->start)
		memmove(parked->bytes, parked->bytes + parked->start, kept);
	parked->start = 0;
	parked->end = kept;
	if (!capacity)
		capacity = PARKED_MIN;
	while (capacity < kept + size)
		capacity *= 2;
	if (capacity == parked->capacity)
		return true;
	uint8_t *grown = realloc(parked->bytes, capacity);
	if (!grown)
		return false;
	parked->bytes = grown;
	parked->capacity = capacity;
	return true;
}

bool
parked_begin(struct receiver *rx)
{
	uint32_t size = rx->head.tagged ? FPDU_TAGGED_HEAD : FPDU_UNTAGGED_HEAD;
	size += rx->head.payload;
	size += (uint32_t)fpdu_padding(size - 2) + 4;
	if (!rx->parked.skips && !make_room(&rx->parked, size))
		return false;
	rx->parked.left = size;
	rx->state = IN_PARKING;
	return true;
}

void
parked_take(struct receiver *rx)
{
	struct parked *parked = &rx->parked;
	uint32_t size = rx->end - rx->start;
	if (size > parked->left)
		size = parked->left;
	if (!parked->skips) {
		memcpy(parked->bytes + parked->end, rx->buffer + rx->start, size);
		parked->end += size;
	}
	parked->left -= size;
	rx->start += size;
	if (!parked->left)
		rx->state = IN_HEAD;
}

void
parked_enter(struct receiver *rx, struct position *stream)
{
	*stream = rx->position;
	rx->buffer = rx->parked.bytes;
	rx->start = rx->parked.start;
	rx->end = rx->parked.end;
	rx->state = IN_HEAD;
}

void
parked_leave(struct receiver *rx, const struct position *stream, bool stalls)
{
	if (rx->state == IN_OVER) {
		rx->buffer = stream->buffer;
	} else if (stalls) {
		rx->parked.start = rx->start;
		rx->position = *stream;
		return;
	} else if (stream->state == IN_PARKING) {
		/* The last one is not whole: it goes on in the stream, whose buffer is empty. */
		const uint8_t *rest = rx->buffer + rx->start;
		uint32_t size = rx->end - rx->start;
		rx->buffer = stream->buffer;
		memcpy(rx->buffer, rest, size);
		rx->start = 0;
		rx->end = size;
	} else {
		rx->position = *stream;
	}
	parked_free(rx);
}

void
parked_free(struct receiver *rx)
{
	free(rx->parked.bytes);
	rx->parked = (struct parked){0};
}
