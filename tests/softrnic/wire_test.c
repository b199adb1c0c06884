/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire_test.c -- wire.c against the RFCs' figures.
 *
 * tests/unit/test_softrnic_wire.py compiles it with sanitizers and runs it. Every piece of input is
 * in a block of its exact size, so that they see a read beyond it.
 */
#include "wire.h"

#include "check.h"

/* ---- MPA ---- */

#define REQUEST_KEY "4D 50 41 20 49 44 20 52 65 71 20 46 72 61 6D 65 "
#define REPLY_KEY "4D 50 41 20 49 44 20 52 65 70 20 46 72 61 6D 65 "

static int
mpa_try(const uint8_t *in, size_t size, bool expect_reply, struct mpa_frame *frame)
{
	uint8_t *copy = exact(in, size);
	int ret = mpa_decode(copy, size, expect_reply, frame);

	if (ret > 0)
		frame->private_data = in + (frame->private_data - copy);
	free(copy);
	return ret;
}

static int
mpa_try_hex(const char *hex, bool expect_reply, struct mpa_frame *frame)
{
	uint8_t bytes[1024];
	return mpa_try(bytes, parse(bytes, hex), expect_reply, frame);
}

static void
test_mpa_bytes(void)
{
	uint8_t out[MPA_FRAME_MAX];
	struct mpa_frame frame = {.revision = 1, .crc = true};

	CHECK_BYTES(out, mpa_encode(out, &frame), REQUEST_KEY "40 01 00 00");
	frame = (struct mpa_frame){.revision = 1,
				   .is_reply = true,
				   .markers = true,
				   .rejected = true,
				   .private_size = 3,
				   .private_data = (const uint8_t *)"abc"};
	CHECK_BYTES(out, mpa_encode(out, &frame), REPLY_KEY "a0 01 00 03 61 62 63");
	/* RFC 6581, section 9: A, B and the IRD; C, D and the ORD. */
	frame = (struct mpa_frame){.revision = 2,
				   .crc = true,
				   .enhanced = true,
				   .peer_to_peer = true,
				   .rtr_send = true,
				   .ird = 0x1234,
				   .ord = 0x0001,
				   .private_size = 2,
				   .private_data = (const uint8_t *)"hi"};
	CHECK_BYTES(out, mpa_encode(out, &frame), REQUEST_KEY "50 02 00 06 d2 34 00 01 68 69");
	frame.rtr_send = false;
	frame.rtr_write = true;
	CHECK_BYTES(out, mpa_encode(out, &frame), REQUEST_KEY "50 02 00 06 92 34 80 01 68 69");
	frame.rtr_write = false;
	frame.rtr_read = true;
	frame.ord = MPA_RD_MAX;
	CHECK_BYTES(out, mpa_encode(out, &frame), REQUEST_KEY "50 02 00 06 92 34 7f ff 68 69");
	frame.peer_to_peer = false;
	CHECK_BYTES(out, mpa_encode(out, &frame), REQUEST_KEY "50 02 00 06 12 34 3f ff 68 69");
	/* A request is not rejected, and revision 1 is not enhanced. */
	frame.rejected = true;
	frame.revision = 1;
	CHECK_BYTES(out, mpa_encode(out, &frame), REQUEST_KEY "40 01 00 02 68 69");
}

static void
test_mpa_round_trip(void)
{
	static uint8_t data[MPA_PRIVATE_DATA_MAX];

	for (unsigned bits = 0; bits < 1 << 11; bits++) {
		struct mpa_frame in = {.is_reply = bits & 1,
				       .revision = bits & 2 ? 2 : 1,
				       .markers = bits & 4,
				       .crc = bits & 8,
				       .rejected = bits & 1 && bits & 16,
				       .private_size = bits % 97,
				       .private_data = data};
		struct mpa_frame back;
		uint8_t out[MPA_FRAME_MAX], again[MPA_FRAME_MAX];
		size_t size;

		if (in.revision == 2 && bits & 32) {
			in.enhanced = true;
			in.peer_to_peer = bits & 64;
			in.rtr_send = in.peer_to_peer && bits & 128;
			in.rtr_write = in.peer_to_peer && bits & 256;
			in.rtr_read = in.peer_to_peer && bits & 512;
			in.ird = bits & 1024 ? MPA_RD_MAX : (uint16_t)bits;
			in.ord = (uint16_t)(bits * 7 % MPA_RD_MAX);
		}
		for (size_t i = 0; i < in.private_size; i++)
			data[i] = (uint8_t)rand();
		size = mpa_encode(out, &in);
		CHECK(mpa_try(out, size, in.is_reply, &back), size);
		/* The bytes are checked above: what gives the same bytes again is the same frame.
		 */
		CHECK(mpa_encode(again, &back), size);
		CHECK(memcmp(again, out, size), 0);
		for (size_t less = 0; less < size; less++)
			CHECK(mpa_try(out, less, in.is_reply, &back), 0);
		/* The other key differs in its tenth byte. */
		CHECK(mpa_try(out, 9, !in.is_reply, &back), 0);
		CHECK(mpa_try(out, 10, !in.is_reply, &back), -1);
	}
}

static void
test_mpa_refuses(void)
{
	static uint8_t data[MPA_PRIVATE_DATA_MAX + 1];
	struct mpa_frame frame = {.revision = 2, .private_size = 512, .private_data = data}, back;
	uint8_t out[MPA_FRAME_MAX + 8] = {0}, wrong[MPA_FRAME_MAX];

	CHECK(mpa_encode(out, &frame), 532);
	CHECK(mpa_try(out, 540, false, &back), 532);
	CHECK(back.private_size, 512);
	frame.private_size = 513;
	CHECK(mpa_encode(out, &frame), 0);
	frame.enhanced = true;
	frame.private_size = 509;
	CHECK(mpa_encode(out, &frame), 0);
	frame.private_size = 508;
	CHECK(mpa_encode(out, &frame), 532);

	for (size_t i = 0; i < 16; i++) {
		memcpy(wrong, out, sizeof(wrong));
		wrong[i] ^= 0x20;
		CHECK(mpa_try(wrong, i, false, &back), 0);
		CHECK(mpa_try(wrong, i + 1, false, &back), -1);
	}
	for (unsigned revision = 0; revision < 256; revision++) {
		memcpy(wrong, out, sizeof(wrong));
		wrong[17] = (uint8_t)revision;
		CHECK(mpa_try(wrong, 17, false, &back), 0);
		CHECK(mpa_try(wrong, 18, false, &back), revision == 1 || revision == 2 ? 0 : -1);
	}
	for (unsigned size = 0; size < 1 << 16; size++) {
		memcpy(wrong, out, sizeof(wrong));
		wrong[16] = 0;
		wrong[18] = (uint8_t)(size >> 8);
		wrong[19] = (uint8_t)size;
		CHECK(mpa_try(wrong, 19, false, &back), size >> 8 > 2 ? -1 : 0);
		CHECK(mpa_try(wrong, 20, false, &back), size > 512 ? -1 : size ? 0 : 20);
	}
	/* S, but too little for the enhanced words. */
	CHECK(mpa_try_hex(REQUEST_KEY "10 02 00 00", false, &back), -1);
	CHECK(mpa_try_hex(REQUEST_KEY "10 02 00 03", false, &back), -1);
	CHECK(mpa_try_hex(REQUEST_KEY "10 02 00 04 00 00 00 00", false, &back), 24);
	CHECK(back.private_size, 0);
	/* Reserved: the last flags, S in revision 1, R in a request, and B to D without A. */
	CHECK(mpa_try_hex(REQUEST_KEY "3f 01 00 02 68 69", false, &back), 22);
	CHECK(back.enhanced || back.rejected || back.markers || back.crc, false);
	CHECK(back.private_size, 2);
	CHECK(mpa_try_hex(REPLY_KEY "30 02 00 04 40 07 c0 09", true, &back), 24);
	CHECK(back.rejected && back.enhanced, true);
	CHECK(back.peer_to_peer || back.rtr_send || back.rtr_write || back.rtr_read, false);
	CHECK(back.ird, 7);
	CHECK(back.ord, 9);
}

/* ---- FPDUs ---- */

static int
fpdu_try(const uint8_t *in, size_t size, struct fpdu_head *head)
{
	uint8_t *copy = exact(in, size);
	int ret = fpdu_decode(copy, size, head);

	free(copy);
	return ret;
}

/* RFC 5040, figures 4 and 5, and RFC 7306, figures 2 and 3. */
static const struct {
	int tagged; /* -1: reserved */
	uint32_t qn;
	unsigned least, most;
	bool invalidates;
} rfc[16] = {
	{1, 0, 0, 65521, false}, /* RDMA Write */
	{0, 1, 28, 28, false},   /* Read Request */
	{1, 0, 0, 65521, false}, /* Read Response */
	{0, 0, 0, 65517, false}, /* Send */
	{0, 0, 0, 65517, true},  /* with Invalidate */
	{0, 0, 0, 65517, false}, /* with Solicited Event */
	{0, 0, 0, 65517, true},  /* with both */
	{0, 2, 4, 64, false},    /* Terminate */
	{0, 0, 8, 8, false},     /* Immediate Data */
	{0, 0, 8, 8, false},     /* with Solicited Event */
	{0, 1, 52, 52, false},   /* Atomic Request */
	{0, 3, 12, 12, false},   /* Atomic Response */
	{-1, 0, 0, 0, false},    {-1, 0, 0, 0, false}, {-1, 0, 0, 0, false}, {-1, 0, 0, 0, false},
};

static void
test_fpdu_bytes(void)
{
	uint8_t out[FPDU_HEAD_MAX];
	struct fpdu_head head = {
		.tagged = true,
		.opcode = RDMAP_WRITE,
		.payload = 0x1000,
		.stag = 0xa1a2a3a4,
		.to = 0x0102030405060708,
	};

	CHECK_BYTES(out, fpdu_encode(out, &head),
		    "10 0e 81 40 a1 a2 a3 a4 01 02 03 04 05 06 07 08");
	head.opcode = RDMAP_READ_RESPONSE;
	head.last = true;
	head.payload = TAGGED_PAYLOAD_MAX;
	CHECK_BYTES(out, fpdu_encode(out, &head),
		    "ff ff c1 42 a1 a2 a3 a4 01 02 03 04 05 06 07 08");
	head = (struct fpdu_head){
		.opcode = RDMAP_SEND_SE_INVALIDATE,
		.payload = UNTAGGED_PAYLOAD_MAX,
		.stag = 0xa1a2a3a4,
		.msn = 0xffffffff,
		.mo = 0x10203040,
	};
	CHECK_BYTES(out, fpdu_encode(out, &head),
		    "ff ff 01 46 a1 a2 a3 a4 00 00 00 00 ff ff ff ff 10 20 30 40");
	/* Only what invalidates sends an STag. */
	head = (struct fpdu_head){
		.last = true,
		.opcode = RDMAP_ATOMIC_RESPONSE,
		.payload = ATOMIC_RESPONSE_SIZE,
		.stag = 0xa1a2a3a4,
		.qn = QN_ATOMIC_RESPONSE,
		.msn = 1,
	};
	CHECK_BYTES(out, fpdu_encode(out, &head),
		    "00 1e 41 4b 00 00 00 00 00 00 00 03 00 00 00 01 00 00 00 00");
	for (size_t ulpdu = 0; ulpdu < 16; ulpdu++)
		CHECK((2 + ulpdu + fpdu_padding(ulpdu)) % 4 + fpdu_padding(ulpdu) / 4, 0);
}

static void
test_fpdu_round_trip(void)
{
	for (uint8_t opcode = 0; opcode < 12; opcode++) {
		bool tagged = rfc[opcode].tagged;
		size_t size = tagged ? 16 : 20;
		struct fpdu_head in = {.tagged = tagged, .last = true, .opcode = opcode}, back;
		uint8_t out[FPDU_HEAD_MAX], again[FPDU_HEAD_MAX];

		in.payload = (uint16_t)rfc[opcode].most;
		if (tagged || rfc[opcode].invalidates)
			in.stag = 0xfedcba98;
		if (tagged) {
			in.to = UINT64_MAX - 1;
		} else {
			in.qn = rfc[opcode].qn;
			in.msn = 0x80000001;
			in.mo = 0x7fffffff;
		}
		CHECK(fpdu_encode(out, &in), size);
		for (size_t less = 0; less < size; less++)
			CHECK(fpdu_try(out, less, &back), 0);
		CHECK(fpdu_try(out, size, &back), size);
		CHECK(fpdu_encode(again, &back), size);
		CHECK(memcmp(again, out, size), 0);
		/* Reserved bits, and an STag that means nothing, are not looked at. */
		out[2] |= 0x3c;
		out[3] |= 0x30;
		if (!tagged && !rfc[opcode].invalidates)
			memset(out + 4, 0xff, 4);
		CHECK(fpdu_try(out, size, &back), size);
		CHECK(back.stag, in.stag);
	}
}

/* The first check that fails, or 0. */
static int
expected_error(unsigned control, unsigned ulpdu)
{
	unsigned opcode = control & 15, head = control & 0x8000 ? 14 : 18;
	bool tagged = control & 0x8000, last = control & 0x4000;

	if ((control >> 8 & 3) != 1)
		return tagged ? 0x1104 : 0x1206;
	if (ulpdu < head)
		return 0x1000;
	if ((control >> 6 & 3) != 1)
		return 0x0205;
	if (rfc[opcode].tagged != tagged)
		return 0x0206;
	if (ulpdu - head > rfc[opcode].most)
		return 0x1205;
	if (rfc[opcode].least && !last)
		return 0x1205;
	return ulpdu - head < rfc[opcode].least ? 0x0207 : 0;
}

static void
test_fpdu_refuses(void)
{
	static const uint32_t queues[] = {0, 1, 2, 3, 4, 0x100, 0x1000000, UINT32_MAX};
	struct fpdu_head head;

	for (unsigned control = 0; control < 1 << 16; control++)
		for (unsigned ulpdu = 0; ulpdu < 90; ulpdu++) {
			uint8_t in[20] = {0, (uint8_t)ulpdu, (uint8_t)(control >> 8),
					  (uint8_t)control};
			int error = expected_error(control, ulpdu);

			if (!(control & 0x8000))
				in[11] = (uint8_t)rfc[control & 15].qn;
			CHECK(fpdu_decode(in, 4, &head), -error);
			if (!error)
				CHECK(fpdu_decode(in, 20, &head), control & 0x8000 ? 16 : 20);
			else
				CHECK(fpdu_decode(in, 20, &head), -error);
		}
	for (uint8_t opcode = 0; opcode < 12; opcode++)
		for (size_t i = 0; i < sizeof(queues) / sizeof(*queues); i++) {
			struct fpdu_head in = {.last = true, .opcode = opcode, .qn = queues[i]};
			bool wrong = queues[i] != rfc[opcode].qn;
			uint8_t out[FPDU_HEAD_MAX];

			if (rfc[opcode].tagged)
				continue;
			in.payload = (uint16_t)rfc[opcode].most;
			fpdu_encode(out, &in);
			CHECK(fpdu_try(out, 11, &head), 0);
			CHECK(fpdu_try(out, 12, &head), wrong ? -0x1201 : 0);
			CHECK(fpdu_try(out, 20, &head), wrong ? -0x1201 : 20);
		}
}

/* ---- RDMAP headers ---- */

static void
test_rdmap_headers(void)
{
	struct read_request read = {.sink_stag = 0xa1a2a3a4,
				    .sink_to = 0x0102030405060708,
				    .size = 0xb1b2b3b4,
				    .source_stag = 0xc1c2c3c4,
				    .source_to = 0x1112131415161718},
			    read_back;
	struct atomic_request atomic = {.operation = ATOMIC_COMPARE_SWAP,
					.request_id = 0xa1a2a3a4,
					.stag = 0xb1b2b3b4,
					.to = 0x0102030405060708,
					.add_swap = 0x1112131415161718,
					.add_swap_mask = 0x2122232425262728,
					.compare = 0x3132333435363738,
					.compare_mask = 0x4142434445464748},
			      back;
	uint8_t out[ATOMIC_REQUEST_SIZE];
	uint64_t original;
	uint32_t id;

	read_request_encode(out, &read);
	CHECK_BYTES(out, READ_REQUEST_SIZE,
		    "a1 a2 a3 a4 01 02 03 04 05 06 07 08 b1 b2 b3 b4"
		    "c1 c2 c3 c4 11 12 13 14 15 16 17 18");
	read_request_decode(out, &read_back);
	CHECK(read_back.sink_stag, read.sink_stag);
	CHECK(read_back.sink_to, read.sink_to);
	CHECK(read_back.size, read.size);
	CHECK(read_back.source_stag, read.source_stag);
	CHECK(read_back.source_to, read.source_to);

	atomic_request_encode(out, &atomic);
	CHECK_BYTES(out, ATOMIC_REQUEST_SIZE,
		    "00 00 00 02 a1 a2 a3 a4 b1 b2 b3 b4 01 02 03 04 05 06 07 08"
		    "11 12 13 14 15 16 17 18 21 22 23 24 25 26 27 28"
		    "31 32 33 34 35 36 37 38 41 42 43 44 45 46 47 48");
	CHECK(atomic_request_decode(out, &back), true);
	CHECK(back.operation, ATOMIC_COMPARE_SWAP);
	CHECK(back.request_id, atomic.request_id);
	CHECK(back.stag, atomic.stag);
	CHECK(back.to, atomic.to);
	CHECK(back.add_swap, atomic.add_swap);
	CHECK(back.add_swap_mask, atomic.add_swap_mask);
	CHECK(back.compare, atomic.compare);
	CHECK(back.compare_mask, atomic.compare_mask);
	atomic.operation = ATOMIC_FETCH_ADD;
	atomic_request_encode(out, &atomic);
	CHECK_BYTES(out, ATOMIC_REQUEST_SIZE,
		    "00 00 00 00 a1 a2 a3 a4 b1 b2 b3 b4 01 02 03 04 05 06 07 08"
		    "11 12 13 14 15 16 17 18 21 22 23 24 25 26 27 28"
		    "00 00 00 00 00 00 00 00 ff ff ff ff ff ff ff ff");
	for (unsigned operation = 0; operation < 256; operation++) {
		memset(out, 0xff, 3);
		out[3] = (uint8_t)operation;
		CHECK(atomic_request_decode(out, &back), !(operation & 13));
	}

	atomic_response_encode(out, 0xa1a2a3a4, 0x0102030405060708);
	CHECK_BYTES(out, ATOMIC_RESPONSE_SIZE, "a1 a2 a3 a4 01 02 03 04 05 06 07 08");
	atomic_response_decode(out, &id, &original);
	CHECK(id, 0xa1a2a3a4);
	CHECK(original, 0x0102030405060708);
}

/* ---- Terminate ---- */

#define READ_HEAD "41 41 00 00 00 00 00 00 00 01 00 00 00 05 00 00 00 00"
#define READ_BODY                                                                                  \
	"00 00 00 01 00 00 00 00 00 00 00 02 00 00 00 03 00 00 00 04 00 00 00 00 00 00 00 05"

static bool
terminate_try(const char *hex, struct terminate *terminate)
{
	uint8_t bytes[256], *copy;
	size_t size = parse(bytes, hex);
	bool ret;

	copy = exact(bytes, size);
	ret = terminate_decode(copy, size, terminate);
	free(copy);
	return ret;
}

static void
test_terminate_bytes(void)
{
	uint8_t out[TERMINATE_MAX];
	struct terminate terminate = {.error = ERROR_MPA_CRC}, back;

	CHECK_BYTES(out, terminate_encode(out, &terminate), "20 02 00 00");
	terminate = (struct terminate){.error = ERROR_TAGGED_BOUNDS,
				       .has_head = true,
				       .head = {.tagged = true,
						.last = true,
						.opcode = RDMAP_WRITE,
						.payload = 0x1000,
						.stag = 0xa1a2a3a4,
						.to = 0x0102030405060708}};
	CHECK_BYTES(out, terminate_encode(out, &terminate),
		    "11 01 c0 00 10 0e c1 40 a1 a2 a3 a4 01 02 03 04 05 06 07 08");
	terminate = (struct terminate){
		.error = ERROR_ACCESS,
		.has_head = true,
		.head = {.last = true,
			 .opcode = RDMAP_READ_REQUEST,
			 .payload = READ_REQUEST_SIZE,
			 .qn = QN_READ_REQUEST,
			 .msn = 5},
		.has_read = true,
		.read = {
			.sink_stag = 1, .sink_to = 2, .size = 3, .source_stag = 4, .source_to = 5}};
	CHECK_BYTES(out, terminate_encode(out, &terminate),
		    "01 02 e0 00 00 2e" READ_HEAD READ_BODY);
	CHECK(terminate_try("01 02 e0 00 00 2e" READ_HEAD READ_BODY, &back), true);
	CHECK(back.error, ERROR_ACCESS);
	CHECK(back.has_head && back.has_read, true);
	CHECK(back.head.tagged, false);
	CHECK(back.head.last, true);
	CHECK(back.head.opcode, RDMAP_READ_REQUEST);
	CHECK(back.head.payload, READ_REQUEST_SIZE);
	CHECK(back.head.qn, QN_READ_REQUEST);
	CHECK(back.head.msn, 5);
	CHECK(back.read.sink_stag, 1);
	CHECK(back.read.sink_to, 2);
	CHECK(back.read.size, 3);
	CHECK(back.read.source_stag, 4);
	CHECK(back.read.source_to, 5);
	/* Only the RDMAP header; only the length; a length that is not valid; reserved bits. */
	CHECK(terminate_try("01 02 20 00" READ_BODY, &back), true);
	CHECK(back.has_head, false);
	CHECK(back.has_read && back.read.size == 3, true);
	CHECK(terminate_try("01 02 80 00 00 2e", &back), true);
	CHECK(back.has_head || back.has_read, false);
	CHECK(terminate_try("01 02 60 00 ff ff" READ_HEAD READ_BODY, &back), true);
	CHECK(back.has_head && back.has_read, true);
	CHECK(back.head.payload, 0);
	CHECK(terminate_try("01 02 ff ff 00 2e" READ_HEAD READ_BODY, &back), true);
	CHECK(back.has_head && back.has_read, true);
	CHECK(back.error, ERROR_ACCESS);
	CHECK(back.has_taken, false);
	/* What is taken, behind whatever there is; cut off, or a reserved octet: nothing. */
	terminate.has_taken = true;
	terminate.taken = 0xfffffffe;
	CHECK_BYTES(out, terminate_encode(out, &terminate),
		    "01 02 e0 04 00 2e" READ_HEAD READ_BODY "ff ff ff fe");
	CHECK(terminate_try("01 02 e0 04 00 2e" READ_HEAD READ_BODY "ff ff ff fe", &back), true);
	CHECK(back.has_head && back.has_read && back.has_taken, true);
	CHECK(back.taken, 0xfffffffe);
	terminate = (struct terminate){.error = ERROR_MPA_CLOSED, .has_taken = true, .taken = 7};
	CHECK_BYTES(out, terminate_encode(out, &terminate), "20 01 00 04 00 00 00 07");
	CHECK(terminate_try("20 01 00 04 00 00 00 07", &back), true);
	CHECK(back.error, ERROR_MPA_CLOSED);
	CHECK(back.has_taken && !back.has_head && back.taken == 7, true);
	CHECK(terminate_try("20 01 00 04 00 00 00", &back), true);
	CHECK(back.has_taken, false);
	CHECK(terminate_try("20 01 00 05 00 00 00 07", &back), true);
	CHECK(back.has_taken, false);
}

static void
test_terminate_truncated(void)
{
	uint8_t bytes[256];
	size_t size = parse(bytes, "01 02 e0 00 00 2e" READ_HEAD READ_BODY);

	for (size_t less = 0; less <= size + 4; less++) {
		struct terminate back;
		uint8_t *copy = exact(bytes, less);

		CHECK(terminate_decode(copy, less, &back), less >= 4);
		CHECK(back.error, less >= 4 ? ERROR_ACCESS : ERROR_UNSPECIFIED);
		CHECK(back.has_head, less >= 24);
		CHECK(back.has_read, less >= 52);
		free(copy);
	}
}

/* As siw_send_terminate() lays them out on a little-endian machine. */
static void
test_terminate_of_siw(void)
{
	struct terminate back;

	CHECK(terminate_try("10 01 07 00 00 00" READ_HEAD READ_BODY, &back), true);
	CHECK(back.error, ERROR_BASE_BOUNDS);
	CHECK(back.has_head && back.has_read, true);
	CHECK(back.read.source_stag, 4);
	/* The payload's length, and the first of the payload taken for a header. */
	CHECK(terminate_try(
		      "10 02 07 00 10 00 c1 40 a1 a2 a3 a4 01 02 03 04 05 06 07 08 ff ff ff ff",
		      &back),
	      true);
	CHECK(back.error, ERROR_ACCESS);
	CHECK(back.has_head, true);
	CHECK(back.has_read, false);
	CHECK(back.head.stag, 0xa1a2a3a4);
	CHECK(back.head.payload, 0x1000);
	CHECK(terminate_try("21 02 03 00 00 05" READ_HEAD, &back), true);
	CHECK(back.error, ERROR_UNTAGGED_NO_BUFFER);
	CHECK(back.head.payload, 5);
	/* Without flags: what exists only the other way round. */
	CHECK(terminate_try("02 02 00 00", &back), true);
	CHECK(back.error, ERROR_MPA_CRC);
	CHECK(terminate_try("02 06 00 00", &back), true);
	CHECK(back.error, ERROR_UNEXPECTED_OPCODE);
	CHECK(terminate_try("21 06 00 00", &back), true);
	CHECK(back.error, ERROR_UNTAGGED_VERSION);
	CHECK(terminate_try("77 06 00 00", &back), true);
	CHECK(back.error, 0x7706);
}

static void
test_errors_have_names(void)
{
	int named = 0;

	for (unsigned error = 0x100; error < 1 << 16; error++)
		named += strcmp(wire_error_str((uint16_t)error), wire_error_str(0xffff)) != 0;
	/* The registries of RFC 6580 with what RFC 6581 adds, less the local catastrophic errors.
	 */
	CHECK(named, 13 + 12 + 7);
	for (unsigned code = 1; code < 256; code++)
		CHECK(strcmp(wire_error_str((uint16_t)code), wire_error_str(0)), 0);
	CHECK(strcmp(wire_error_str(ERROR_TAGGED_INVALID_STAG),
		     "the STag is invalid (DDP, tagged buffer error)"),
	      0);
}

int
main(void)
{
	test_mpa_bytes();
	test_mpa_round_trip();
	test_mpa_refuses();
	test_fpdu_bytes();
	test_fpdu_round_trip();
	test_fpdu_refuses();
	test_rdmap_headers();
	test_terminate_bytes();
	test_terminate_truncated();
	test_terminate_of_siw();
	test_errors_have_names();
	return report();
}
