/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_wire.c -- arbitrary bytes for wire.c's decoders.
 *
 * clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
 *       -Inative/softrnic tests/softrnic/fuzz_wire.c native/softrnic/wire.c -o fuzz_wire
 * ./fuzz_wire -max_len=600 -max_total_time=120
 *
 * The first byte chooses the decoder; the rest is what came from the wire.
 */
#include "fuzz.h"
#include "wire.h"

#include <stdlib.h>
#include <string.h>

/* A decoder that has decided on some bytes decides the same on more of them. */
#define REQUIRE_STEADY(decode, in, size, ret)                                                      \
	do {                                                                                       \
		for (size_t less = 0; less < (size); less++) {                                     \
			int early = decode;                                                        \
			REQUIRE(early == 0 || early == (ret));                                     \
		}                                                                                  \
	} while (0)

static void
fuzz_mpa(const uint8_t *in, size_t size, bool expect_reply)
{
	struct mpa_frame frame, early_frame;
	uint8_t again[MPA_FRAME_MAX];
	int ret = mpa_decode(in, size, expect_reply, &frame);

	REQUIRE(ret >= -1 && ret <= MPA_FRAME_MAX);
	/* A frame is complete or refused by then. */
	REQUIRE(ret || size < MPA_FRAME_MAX);
	REQUIRE_STEADY(mpa_decode(in, less, expect_reply, &early_frame), in, size, ret);
	if (ret <= 0)
		return;
	REQUIRE((size_t)ret <= size);
	REQUIRE(frame.is_reply == expect_reply);
	REQUIRE(frame.private_data + frame.private_size == in + ret);
	REQUIRE(frame.ird <= MPA_RD_MAX && frame.ord <= MPA_RD_MAX);
	REQUIRE(mpa_encode(again, &frame) == (size_t)ret);
	REQUIRE(!memcmp(again, in, 16));
	REQUIRE(!memcmp(again + 17, in + 17, 3));
	/* Without the reserved flags. */
	REQUIRE(!(again[16] & ~in[16]));
	if (frame.enhanced && frame.peer_to_peer)
		REQUIRE(!memcmp(again + 20, in + 20, (size_t)ret - 20));
	else if (!frame.enhanced)
		REQUIRE(!memcmp(again + 20, in + 20, (size_t)ret - 20));
	else
		REQUIRE(!memcmp(again + 24, in + 24, (size_t)ret - 24));
}

static void
fuzz_terminate(const uint8_t *in, size_t size)
{
	struct terminate terminate, back;
	uint8_t again[TERMINATE_MAX], twice[TERMINATE_MAX];
	size_t length;

	if (!terminate_decode(in, size, &terminate)) {
		REQUIRE(size < 4 && terminate.error == ERROR_UNSPECIFIED);
		return;
	}
	REQUIRE(*wire_error_str(terminate.error));
	REQUIRE(size >= 4 + 4u * terminate.has_taken +
				(terminate.has_head ? 2 + 14 + 4 * !terminate.head.tagged : 0) +
				(terminate.has_read ? READ_REQUEST_SIZE : 0));
	/* Not always the same bytes: siw's come out as the RFC's. But then again the same. */
	length = terminate_encode(again, &terminate);
	REQUIRE(length <= sizeof(again));
	/* Without flags, an error that exists only in siw's order is taken for siw's. */
	if (length == 4 && !strcmp(wire_error_str(terminate.error), wire_error_str(0xffff)))
		return;
	/* siw's length of a payload may be more than one with its headers can be. */
	if (terminate.head.payload > UNTAGGED_PAYLOAD_MAX)
		return;
	REQUIRE(terminate_decode(again, length, &back));
	REQUIRE(back.error == terminate.error);
	REQUIRE(back.has_head == terminate.has_head && back.has_read == terminate.has_read);
	REQUIRE(back.has_taken == terminate.has_taken && back.taken == terminate.taken);
	REQUIRE(terminate_encode(twice, &back) == length);
	REQUIRE(!memcmp(twice, again, length));
}

static void
fuzz_payload(const uint8_t *in, size_t size, const struct fpdu_head *head)
{
	uint8_t *payload, again[ATOMIC_REQUEST_SIZE];
	struct read_request read;
	struct atomic_request atomic;
	uint64_t original;
	uint32_t id;

	if (size < head->payload)
		return;
	/* The decoders take these sizes for granted. */
	payload = malloc(head->payload);
	REQUIRE(payload);
	memcpy(payload, in, head->payload);
	switch (head->opcode) {
	case RDMAP_READ_REQUEST:
		read_request_decode(payload, &read);
		read_request_encode(again, &read);
		REQUIRE(!memcmp(again, payload, READ_REQUEST_SIZE));
		break;
	case RDMAP_ATOMIC_REQUEST:
		if (atomic_request_decode(payload, &atomic)) {
			atomic_request_encode(again, &atomic);
			REQUIRE(again[3] == (payload[3] & 0xf));
			/* Fetch-and-add leaves the comparison out. */
			REQUIRE(!memcmp(again + 4, payload + 4, again[3] ? 48 : 32));
		}
		break;
	case RDMAP_ATOMIC_RESPONSE:
		atomic_response_decode(payload, &id, &original);
		atomic_response_encode(again, id, original);
		REQUIRE(!memcmp(again, payload, ATOMIC_RESPONSE_SIZE));
		break;
	case RDMAP_TERMINATE:
		REQUIRE(head->payload <= TERMINATE_MAX);
		fuzz_terminate(payload, head->payload);
		break;
	case RDMAP_IMMEDIATE:
	case RDMAP_IMMEDIATE_SE:
		REQUIRE(head->payload == IMMEDIATE_SIZE);
		break;
	}
	free(payload);
}

static void
fuzz_fpdu(const uint8_t *in, size_t size)
{
	struct fpdu_head head, early_head;
	uint8_t again[FPDU_HEAD_MAX];
	int ret = fpdu_decode(in, size, &head);

	REQUIRE(ret || size < FPDU_HEAD_MAX);
	REQUIRE_STEADY(fpdu_decode(in, less, &early_head), in, size < 24 ? size : 24, ret);
	if (ret < 0) {
		/* Each error has a name, and so a place in a Terminate. */
		REQUIRE(strcmp(wire_error_str((uint16_t)-ret), wire_error_str(0xffff)) != 0);
		return;
	}
	if (!ret)
		return;
	REQUIRE(ret == (head.tagged ? FPDU_TAGGED_HEAD : FPDU_UNTAGGED_HEAD));
	REQUIRE((size_t)ret <= size);
	REQUIRE(fpdu_encode(again, &head) == (size_t)ret);
	REQUIRE(again[0] == in[0] && again[1] == in[1]);
	REQUIRE(again[2] == (in[2] & 0xc3) && again[3] == (in[3] & 0xcf));
	if (head.tagged || head.opcode == RDMAP_SEND_INVALIDATE ||
	    head.opcode == RDMAP_SEND_SE_INVALIDATE)
		REQUIRE(!memcmp(again + 4, in + 4, 4));
	else
		REQUIRE(!head.stag);
	REQUIRE(!memcmp(again + 8, in + 8, (size_t)ret - 8));
	fuzz_payload(in + ret, size - (size_t)ret, &head);
}

/* A head that fits a message of only an RDMAP header, which random bytes seldom have. */
static void
fuzz_message(const uint8_t *in, size_t size)
{
	static const struct {
		uint8_t opcode, qn, size;
	} kinds[] = {
		{RDMAP_READ_REQUEST, QN_READ_REQUEST, READ_REQUEST_SIZE},
		{RDMAP_ATOMIC_REQUEST, QN_READ_REQUEST, ATOMIC_REQUEST_SIZE},
		{RDMAP_ATOMIC_RESPONSE, QN_ATOMIC_RESPONSE, ATOMIC_RESPONSE_SIZE},
		{RDMAP_IMMEDIATE_SE, QN_SEND, IMMEDIATE_SIZE},
		{RDMAP_TERMINATE, QN_TERMINATE, 0},
	};
	uint8_t whole[FPDU_HEAD_MAX + TERMINATE_MAX];
	struct fpdu_head head = {.last = true};
	size_t length;

	if (!size)
		return;
	head.opcode = kinds[in[0] % 5].opcode;
	head.qn = kinds[in[0] % 5].qn;
	head.payload = kinds[in[0] % 5].size ? kinds[in[0] % 5].size : (uint16_t)(size - 1);
	if (size - 1 < head.payload || head.payload > TERMINATE_MAX)
		return;
	length = fpdu_encode(whole, &head);
	memcpy(whole + length, in + 1, head.payload);
	fuzz_fpdu(whole, length + head.payload);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *in;

	if (!size)
		return 0;
	in = malloc(size - 1);
	REQUIRE(in);
	memcpy(in, data + 1, size - 1);
	size--;
	switch (data[0] % 5) {
	case 0:
		fuzz_mpa(in, size, false);
		break;
	case 1:
		fuzz_mpa(in, size, true);
		break;
	case 2:
		fuzz_fpdu(in, size);
		break;
	case 3:
		fuzz_terminate(in, size);
		break;
	case 4:
		fuzz_message(in, size);
		break;
	}
	free(in);
	return 0;
}
