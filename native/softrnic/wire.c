/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire.c -- the headers of MPA, DDP and RDMAP as bytes, and back.
 *
 * Fields that the RFCs reserve are sent as zero and not looked at when received.
 */
#include "wire.h"

#include <endian.h>
#include <string.h>

/* MPA's flags, in the byte behind the key. */
#define MPA_MARKERS 0x80
#define MPA_CRC 0x40
#define MPA_REJECTED 0x20
#define MPA_ENHANCED 0x10

/* The two words that begin the private data of an enhanced frame: two flags and 14 bits each. */
#define MPA_ENHANCED_SIZE 4
#define MPA_PEER_TO_PEER 0x8000 /* A, with the IRD */
#define MPA_RTR_SEND 0x4000     /* B */
#define MPA_RTR_WRITE 0x8000    /* C, with the ORD */
#define MPA_RTR_READ 0x4000     /* D */

/* DDP's and RDMAP's control bytes. */
#define DDP_TAGGED 0x80
#define DDP_LAST 0x40
#define DDP_VERSION_MASK 0x03
#define DDP_VERSION 0x01
#define RDMAP_VERSION_MASK 0xc0
#define RDMAP_VERSION 0x40
#define RDMAP_OPCODE_MASK 0x0f

#define DDP_TAGGED_HEAD 14
#define DDP_UNTAGGED_HEAD 18

/* The Terminate's third byte. */
#define TERMINATE_CONTROL 4
#define TERMINATE_LENGTH_VALID 0x80 /* M */
#define TERMINATE_DDP_HEAD 0x40     /* D */
#define TERMINATE_RDMAP_HEAD 0x20   /* R */
#define TERMINATE_TAKEN 4           /* in the reserved octet: of so many octets at the end */

static uint8_t *
put16(uint8_t *out, uint16_t value)
{
	value = htobe16(value);
	return (uint8_t *)memcpy(out, &value, sizeof(value)) + sizeof(value);
}

static uint8_t *
put32(uint8_t *out, uint32_t value)
{
	value = htobe32(value);
	return (uint8_t *)memcpy(out, &value, sizeof(value)) + sizeof(value);
}

static uint8_t *
put64(uint8_t *out, uint64_t value)
{
	value = htobe64(value);
	return (uint8_t *)memcpy(out, &value, sizeof(value)) + sizeof(value);
}

static uint16_t
get16(const uint8_t *in)
{
	uint16_t value;
	memcpy(&value, in, sizeof(value));
	return be16toh(value);
}

static uint32_t
get32(const uint8_t *in)
{
	uint32_t value;
	memcpy(&value, in, sizeof(value));
	return be32toh(value);
}

static uint64_t
get64(const uint8_t *in)
{
	uint64_t value;
	memcpy(&value, in, sizeof(value));
	return be64toh(value);
}

/* ---- MPA connection setup ---- */

static const char *
mpa_key(bool is_reply)
{
	return is_reply ? "MPA ID Rep Frame" : "MPA ID Req Frame";
}

#define MPA_KEY_SIZE 16

size_t
mpa_encode(uint8_t *out, const struct mpa_frame *frame)
{
	/* Revision 1 has no enhanced words, and B, C and D mean nothing without A. */
	bool enhanced = frame->enhanced && frame->revision >= 2;
	bool rtr = frame->peer_to_peer;
	size_t size = frame->private_size + (enhanced ? MPA_ENHANCED_SIZE : 0);

	if (size > MPA_PRIVATE_DATA_MAX)
		return 0;
	memcpy(out, mpa_key(frame->is_reply), MPA_KEY_SIZE);
	out[16] = (frame->markers ? MPA_MARKERS : 0) | (frame->crc ? MPA_CRC : 0) |
		  (frame->is_reply && frame->rejected ? MPA_REJECTED : 0) |
		  (enhanced ? MPA_ENHANCED : 0);
	out[17] = frame->revision;
	out = put16(out + 18, (uint16_t)size);
	if (enhanced) {
		out = put16(out, (frame->ird & MPA_RD_MAX) | (rtr ? MPA_PEER_TO_PEER : 0) |
					 (rtr && frame->rtr_send ? MPA_RTR_SEND : 0));
		out = put16(out, (frame->ord & MPA_RD_MAX) |
					 (rtr && frame->rtr_write ? MPA_RTR_WRITE : 0) |
					 (rtr && frame->rtr_read ? MPA_RTR_READ : 0));
	}
	if (frame->private_size)
		memcpy(out, frame->private_data, frame->private_size);
	return MPA_FRAME_HEAD + size;
}

int
mpa_decode(const uint8_t *in, size_t size, bool expect_reply, struct mpa_frame *frame)
{
	size_t private_size;

	if (memcmp(in, mpa_key(expect_reply), size < MPA_KEY_SIZE ? size : MPA_KEY_SIZE))
		return -1;
	if (size > 17 && in[17] != 1 && in[17] != 2)
		return -1;
	if (size > 18 && in[18] > MPA_PRIVATE_DATA_MAX >> 8)
		return -1;
	if (size < MPA_FRAME_HEAD)
		return 0;
	*frame = (struct mpa_frame){
		.is_reply = expect_reply,
		.revision = in[17],
		.markers = in[16] & MPA_MARKERS,
		.crc = in[16] & MPA_CRC,
		.rejected = expect_reply && in[16] & MPA_REJECTED,
		.enhanced = in[17] >= 2 && in[16] & MPA_ENHANCED,
	};
	private_size = get16(in + 18);
	if (private_size > MPA_PRIVATE_DATA_MAX)
		return -1;
	if (frame->enhanced && private_size < MPA_ENHANCED_SIZE)
		return -1;
	if (size < MPA_FRAME_HEAD + private_size)
		return 0;
	frame->private_data = in + MPA_FRAME_HEAD;
	frame->private_size = (uint16_t)private_size;
	if (frame->enhanced) {
		uint16_t ird = get16(in + MPA_FRAME_HEAD);
		uint16_t ord = get16(in + MPA_FRAME_HEAD + 2);

		frame->ird = ird & MPA_RD_MAX;
		frame->ord = ord & MPA_RD_MAX;
		frame->peer_to_peer = ird & MPA_PEER_TO_PEER;
		frame->rtr_send = frame->peer_to_peer && ird & MPA_RTR_SEND;
		frame->rtr_write = frame->peer_to_peer && ord & MPA_RTR_WRITE;
		frame->rtr_read = frame->peer_to_peer && ord & MPA_RTR_READ;
		frame->private_data += MPA_ENHANCED_SIZE;
		frame->private_size -= MPA_ENHANCED_SIZE;
	}
	return (int)(MPA_FRAME_HEAD + private_size);
}

/* ---- FPDUs ---- */

/* What RFC 5040 and RFC 7306 lay down per opcode. */
static const struct kind {
	bool tagged, invalidates;
	uint8_t qn;
	/* Of a message that is only an RDMAP header, and so one segment. 0: any payload. */
	uint8_t least, most;
} kinds[RDMAP_OPCODE_MASK + 1] = {
	[RDMAP_WRITE] = {.tagged = true},
	[RDMAP_READ_REQUEST] = {.qn = QN_READ_REQUEST,
				.least = READ_REQUEST_SIZE,
				.most = READ_REQUEST_SIZE},
	[RDMAP_READ_RESPONSE] = {.tagged = true},
	[RDMAP_SEND] = {.qn = QN_SEND},
	[RDMAP_SEND_INVALIDATE] = {.qn = QN_SEND, .invalidates = true},
	[RDMAP_SEND_SE] = {.qn = QN_SEND},
	[RDMAP_SEND_SE_INVALIDATE] = {.qn = QN_SEND, .invalidates = true},
	[RDMAP_TERMINATE] = {.qn = QN_TERMINATE, .least = TERMINATE_CONTROL, .most = TERMINATE_MAX},
	[RDMAP_IMMEDIATE] = {.qn = QN_SEND, .least = IMMEDIATE_SIZE, .most = IMMEDIATE_SIZE},
	[RDMAP_IMMEDIATE_SE] = {.qn = QN_SEND, .least = IMMEDIATE_SIZE, .most = IMMEDIATE_SIZE},
	[RDMAP_ATOMIC_REQUEST] = {.qn = QN_READ_REQUEST,
				  .least = ATOMIC_REQUEST_SIZE,
				  .most = ATOMIC_REQUEST_SIZE},
	[RDMAP_ATOMIC_RESPONSE] = {.qn = QN_ATOMIC_RESPONSE,
				   .least = ATOMIC_RESPONSE_SIZE,
				   .most = ATOMIC_RESPONSE_SIZE},
};

static size_t
ddp_head_size(bool tagged)
{
	return tagged ? DDP_TAGGED_HEAD : DDP_UNTAGGED_HEAD;
}

size_t
fpdu_encode(uint8_t *out, const struct fpdu_head *head)
{
	size_t head_size = ddp_head_size(head->tagged);
	uint8_t opcode = head->opcode & RDMAP_OPCODE_MASK;

	out = put16(out, (uint16_t)(head_size + head->payload));
	*out++ = (head->tagged ? DDP_TAGGED : 0) | (head->last ? DDP_LAST : 0) | DDP_VERSION;
	*out++ = RDMAP_VERSION | opcode;
	if (head->tagged) {
		out = put32(out, head->stag);
		put64(out, head->to);
	} else {
		out = put32(out, kinds[opcode].invalidates ? head->stag : 0);
		out = put32(out, head->qn);
		out = put32(out, head->msn);
		put32(out, head->mo);
	}
	return 2 + head_size;
}

/* All of a head but the payload, of which what goes before tells. Nothing is checked. */
static void
ddp_head_decode(const uint8_t *in, struct fpdu_head *head)
{
	*head = (struct fpdu_head){
		.tagged = in[0] & DDP_TAGGED,
		.last = in[0] & DDP_LAST,
		.opcode = in[1] & RDMAP_OPCODE_MASK,
	};
	if (head->tagged) {
		head->stag = get32(in + 2);
		head->to = get64(in + 6);
		return;
	}
	if (kinds[head->opcode].invalidates)
		head->stag = get32(in + 2);
	head->qn = get32(in + 6);
	head->msn = get32(in + 10);
	head->mo = get32(in + 14);
}

/* 0, or what is wrong with the first four bytes, which say how long the head is. */
static int
fpdu_check(const uint8_t *in)
{
	bool tagged = in[2] & DDP_TAGGED;
	uint8_t opcode = in[3] & RDMAP_OPCODE_MASK;
	const struct kind *kind = &kinds[opcode];
	size_t ulpdu = get16(in), payload;

	if ((in[2] & DDP_VERSION_MASK) != DDP_VERSION)
		return tagged ? ERROR_TAGGED_VERSION : ERROR_UNTAGGED_VERSION;
	/* A length that cuts the head off is no error that DDP has a name for. */
	if (ulpdu < ddp_head_size(tagged))
		return ERROR_DDP_CATASTROPHIC;
	if ((in[3] & RDMAP_VERSION_MASK) != RDMAP_VERSION)
		return ERROR_RDMAP_VERSION;
	if (opcode > RDMAP_ATOMIC_RESPONSE || kind->tagged != tagged)
		return ERROR_UNEXPECTED_OPCODE;
	if (!kind->most)
		return 0;
	payload = ulpdu - DDP_UNTAGGED_HEAD;
	if (payload > kind->most || !(in[2] & DDP_LAST))
		return ERROR_UNTAGGED_TOO_LONG;
	return payload < kind->least ? ERROR_STREAM_CATASTROPHIC : 0;
}

int
fpdu_decode(const uint8_t *in, size_t size, struct fpdu_head *head)
{
	size_t head_size;
	bool tagged;
	int error;

	/* A head that is cut off may never be followed by more: say so before it is complete. */
	if (size < 4)
		return 0;
	error = fpdu_check(in);
	if (error)
		return -error;
	tagged = in[2] & DDP_TAGGED;
	if (!tagged && size >= 12 && get32(in + 8) != kinds[in[3] & RDMAP_OPCODE_MASK].qn)
		return -ERROR_UNTAGGED_QN;
	head_size = ddp_head_size(tagged);
	if (size < 2 + head_size)
		return 0;
	ddp_head_decode(in + 2, head);
	head->payload = (uint16_t)(get16(in) - head_size);
	return (int)(2 + head_size);
}

/* ---- RDMAP headers ---- */

void
read_request_encode(uint8_t *out, const struct read_request *request)
{
	out = put32(out, request->sink_stag);
	out = put64(out, request->sink_to);
	out = put32(out, request->size);
	out = put32(out, request->source_stag);
	put64(out, request->source_to);
}

void
read_request_decode(const uint8_t *in, struct read_request *request)
{
	request->sink_stag = get32(in);
	request->sink_to = get64(in + 4);
	request->size = get32(in + 12);
	request->source_stag = get32(in + 16);
	request->source_to = get64(in + 20);
}

void
atomic_request_encode(uint8_t *out, const struct atomic_request *request)
{
	/* RFC 7306, section 5.2.1: what fetch-and-add does not use has these values. */
	bool compares = request->operation == ATOMIC_COMPARE_SWAP;

	out = put32(out, request->operation & 0xf);
	out = put32(out, request->request_id);
	out = put32(out, request->stag);
	out = put64(out, request->to);
	out = put64(out, request->add_swap);
	out = put64(out, request->add_swap_mask);
	out = put64(out, compares ? request->compare : 0);
	put64(out, compares ? request->compare_mask : UINT64_MAX);
}

bool
atomic_request_decode(const uint8_t *in, struct atomic_request *request)
{
	request->operation = in[3] & 0xf;
	request->request_id = get32(in + 4);
	request->stag = get32(in + 8);
	request->to = get64(in + 12);
	request->add_swap = get64(in + 20);
	request->add_swap_mask = get64(in + 28);
	request->compare = get64(in + 36);
	request->compare_mask = get64(in + 44);
	return request->operation == ATOMIC_FETCH_ADD || request->operation == ATOMIC_COMPARE_SWAP;
}

void
atomic_response_encode(uint8_t *out, uint32_t request_id, uint64_t original)
{
	put64(put32(out, request_id), original);
}

void
atomic_response_decode(const uint8_t *in, uint32_t *request_id, uint64_t *original)
{
	*request_id = get32(in);
	*original = get64(in + 4);
}

/* ---- Terminate ---- */

#define PROTECTION "(RDMAP, remote protection error)"
#define OPERATION "(RDMAP, remote operation error)"
#define TAGGED "(DDP, tagged buffer error)"
#define UNTAGGED "(DDP, untagged buffer error)"

static const struct {
	uint16_t error;
	const char *text;
} errors[] = {
	{ERROR_LOCAL_CATASTROPHIC, "a catastrophic error of the sender's own (RDMAP)"},
	{ERROR_INVALID_STAG, "the STag is invalid " PROTECTION},
	{ERROR_BASE_BOUNDS, "outside the region " PROTECTION},
	{ERROR_ACCESS, "no right to this access " PROTECTION},
	{ERROR_STAG_NOT_ASSOCIATED, "the STag is not for this connection " PROTECTION},
	{ERROR_TO_WRAP, "the tagged offset wraps " PROTECTION},
	{ERROR_STAG_NOT_INVALIDATED, "the STag cannot be invalidated " PROTECTION},
	{ERROR_REMOTE_PROTECTION, "unspecified " PROTECTION},
	{ERROR_RDMAP_VERSION, "an invalid RDMAP version " OPERATION},
	{ERROR_UNEXPECTED_OPCODE, "an unexpected opcode " OPERATION},
	{ERROR_STREAM_CATASTROPHIC, "catastrophic for the connection " OPERATION},
	{ERROR_GLOBAL_CATASTROPHIC, "catastrophic for the device " OPERATION},
	{ERROR_OPERATION_NOT_INVALIDATED, "the STag cannot be invalidated " OPERATION},
	{ERROR_UNSPECIFIED, "unspecified " OPERATION},
	{ERROR_DDP_CATASTROPHIC, "a catastrophic error of the sender's own (DDP)"},
	{ERROR_TAGGED_INVALID_STAG, "the STag is invalid " TAGGED},
	{ERROR_TAGGED_BOUNDS, "outside the region " TAGGED},
	{ERROR_TAGGED_NOT_ASSOCIATED, "the STag is not for this connection " TAGGED},
	{ERROR_TAGGED_WRAP, "the tagged offset wraps " TAGGED},
	{ERROR_TAGGED_VERSION, "an invalid DDP version " TAGGED},
	{ERROR_UNTAGGED_QN, "an invalid queue number " UNTAGGED},
	{ERROR_UNTAGGED_NO_BUFFER, "no buffer for the message " UNTAGGED},
	{ERROR_UNTAGGED_MSN_RANGE, "the message sequence number is out of range " UNTAGGED},
	{ERROR_UNTAGGED_MO, "an invalid message offset " UNTAGGED},
	{ERROR_UNTAGGED_TOO_LONG, "the message is too long for its buffer " UNTAGGED},
	{ERROR_UNTAGGED_VERSION, "an invalid DDP version " UNTAGGED},
	{ERROR_MPA_CLOSED, "the TCP connection is closed or lost (MPA)"},
	{ERROR_MPA_CRC, "the CRC does not match (MPA)"},
	{ERROR_MPA_MARKER, "marker and length disagree (MPA)"},
	{ERROR_MPA_INVALID_REQUEST, "an invalid MPA request or reply (MPA)"},
	{ERROR_MPA_LOCAL_CATASTROPHIC, "a catastrophic error of the sender's own (MPA)"},
	{ERROR_MPA_INSUFFICIENT_IRD, "not enough inbound reads (MPA)"},
	{ERROR_MPA_NO_RTR, "no ready-to-receive that both sides know (MPA)"},
};

/* NULL: not in the registries of RFC 6580. */
static const char *
find_error(uint16_t error)
{
	/* Local catastrophic errors have no code: any may stand there. */
	if (error >> 8 == ERROR_LOCAL_CATASTROPHIC >> 8)
		error = ERROR_LOCAL_CATASTROPHIC;
	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		if (errors[i].error == error)
			return errors[i].text;
	return NULL;
}

const char *
wire_error_str(uint16_t error)
{
	const char *text = find_error(error);
	return text ? text : "an unknown error";
}

size_t
terminate_encode(uint8_t *out, const struct terminate *terminate)
{
	uint8_t *end = put16(out, terminate->error);

	*end++ = (terminate->has_head ? TERMINATE_LENGTH_VALID | TERMINATE_DDP_HEAD : 0) |
		 (terminate->has_read ? TERMINATE_RDMAP_HEAD : 0);
	*end++ = terminate->has_taken ? TERMINATE_TAKEN : 0;
	/* The length and the DDP header are, in this order, how the FPDU began. */
	if (terminate->has_head)
		end += fpdu_encode(end, &terminate->head);
	if (terminate->has_read) {
		read_request_encode(end, &terminate->read);
		end += READ_REQUEST_SIZE;
	}
	if (terminate->has_taken)
		end = put32(end, terminate->taken);
	return (size_t)(end - out);
}

/*
 * Linux's siw on a little-endian machine sends the control word's bit fields in that machine's
 * order: error type before layer, and R, D, M as the last bits of their byte, which RFC 5040
 * reserves. Bring those to where they belong; true if they were not. Where a word without flags can
 * be read both ways, the RFC's way wins.
 */
static bool
undo_siw_order(uint16_t *error, uint8_t *flags, size_t size)
{
	uint16_t swapped =
		(uint16_t)((*error & 0xff) | (*error & 0xf00) << 4 | (*error >> 4 & 0xf00));

	if (*flags & (TERMINATE_LENGTH_VALID | TERMINATE_DDP_HEAD | TERMINATE_RDMAP_HEAD))
		return false;
	if (size > TERMINATE_CONTROL && *flags & 7)
		*flags = (*flags & 1 ? TERMINATE_LENGTH_VALID : 0) |
			 (*flags & 2 ? TERMINATE_DDP_HEAD : 0) |
			 (*flags & 4 ? TERMINATE_RDMAP_HEAD : 0);
	else if (find_error(*error) || !find_error(swapped))
		return false;
	*error = swapped;
	return true;
}

bool
terminate_decode(const uint8_t *in, size_t size, struct terminate *terminate)
{
	const uint8_t *end = in + size;
	uint16_t length = 0;
	uint8_t flags;
	bool siw;

	*terminate = (struct terminate){.error = ERROR_UNSPECIFIED};
	if (size < TERMINATE_CONTROL)
		return false;
	terminate->error = get16(in);
	flags = in[2];
	/* siw, as the RFC, has nothing in the last octet. */
	siw = in[3] != TERMINATE_TAKEN && undo_siw_order(&terminate->error, &flags, size);
	if (in[3] == TERMINATE_TAKEN && size >= TERMINATE_CONTROL + 4) {
		end -= 4;
		terminate->has_taken = true;
		terminate->taken = get32(end);
	}
	in += TERMINATE_CONTROL;
	/* An offender that is cut off takes nothing from the error that is told. */
	if (flags & (TERMINATE_LENGTH_VALID | TERMINATE_DDP_HEAD)) {
		if (end - in < 2)
			return true;
		if (flags & TERMINATE_LENGTH_VALID)
			length = get16(in);
		in += 2;
	}
	if (flags & TERMINATE_DDP_HEAD) {
		size_t head_size;

		if (in == end)
			return true;
		head_size = ddp_head_size(in[0] & DDP_TAGGED);
		if ((size_t)(end - in) < head_size)
			return true;
		ddp_head_decode(in, &terminate->head);
		terminate->has_head = true;
		/* siw leaves the headers out of the length. */
		if (siw)
			terminate->head.payload = length;
		else if (length >= head_size)
			terminate->head.payload = (uint16_t)(length - head_size);
		in += head_size;
		/* siw sets R for any message, but has an RDMAP header only for this one. */
		if (terminate->head.opcode != RDMAP_READ_REQUEST)
			return true;
	}
	if (flags & TERMINATE_RDMAP_HEAD && end - in >= READ_REQUEST_SIZE) {
		read_request_decode(in, &terminate->read);
		terminate->has_read = true;
	}
	return true;
}
