/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire.h -- iWARP on the wire: MPA (RFC 5044, 6581), DDP (RFC 5041), RDMAP (RFC 5040, 7306).
 *
 * Encoding and decoding are pure functions of bytes: no sockets, no state, no allocation. All
 * lengths are in bytes. What a decoder takes may come from anybody.
 */
#ifndef SOFTRNIC_WIRE_H
#define SOFTRNIC_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- MPA connection setup (RFC 5044 section 7.1, RFC 6581 sections 6 and 9) ---- */

#define MPA_PRIVATE_DATA_MAX 512
#define MPA_FRAME_HEAD 20 /* key, flags, revision, length of the private data */
#define MPA_FRAME_MAX (MPA_FRAME_HEAD + MPA_PRIVATE_DATA_MAX)
#define MPA_RD_MAX 0x3fff /* IRD and ORD have 14 bits; this value means "not negotiated" */

struct mpa_frame {
	bool is_reply;
	uint8_t revision;  /* 1 or 2 */
	bool markers;      /* M */
	bool crc;          /* C */
	bool rejected;     /* R, in a reply */
	bool enhanced;     /* S, revision 2: ird, ord and what follows are there */
	bool peer_to_peer; /* A, in IRD's field; without it B to D are neither sent nor taken */
	bool rtr_send;     /* B, in IRD's field: a zero-length FPDU/send as ready-to-receive */
	bool rtr_write;    /* C, in ORD's field: a zero-length RDMA Write */
	bool rtr_read;     /* D, in ORD's field: a zero-length RDMA Read */
	uint16_t ird, ord;
	uint16_t private_size;       /* of the consumer's: without the enhanced words */
	const uint8_t *private_data; /* decoded: into the bytes given */
};

/*
 * Whether all three kinds of ready-to-receive are named. Nobody else is known to do that, so the
 * soft RNIC knows its own by it: Linux's siw has all but the Send, and answers with one.
 */
static inline bool
mpa_has_all_rtr(const struct mpa_frame *frame)
{
	return frame->enhanced && frame->peer_to_peer && frame->rtr_send && frame->rtr_write &&
	       frame->rtr_read;
}

/* Bytes written, at most MPA_FRAME_MAX; 0: more private data than fits. */
size_t mpa_encode(uint8_t *out, const struct mpa_frame *frame);
/*
 * Bytes of the frame when it is complete, 0 when more are needed, -1 when these are none: wrong
 * key, unknown revision, more private data than allowed, or S without the enhanced words. Decides
 * as early as the bytes allow.
 */
int mpa_decode(const uint8_t *in, size_t size, bool expect_reply, struct mpa_frame *frame);

/* ---- FPDUs ---- */

enum rdmap_opcode {
	RDMAP_WRITE = 0x0,
	RDMAP_READ_REQUEST = 0x1,
	RDMAP_READ_RESPONSE = 0x2,
	RDMAP_SEND = 0x3,
	RDMAP_SEND_INVALIDATE = 0x4,
	RDMAP_SEND_SE = 0x5,
	RDMAP_SEND_SE_INVALIDATE = 0x6,
	RDMAP_TERMINATE = 0x7,
	RDMAP_IMMEDIATE = 0x8,
	RDMAP_IMMEDIATE_SE = 0x9,
	RDMAP_ATOMIC_REQUEST = 0xa,
	RDMAP_ATOMIC_RESPONSE = 0xb,
};

/* DDP queue numbers of untagged messages. Atomic requests share the read requests' queue. */
enum { QN_SEND = 0, QN_READ_REQUEST = 1, QN_TERMINATE = 2, QN_ATOMIC_RESPONSE = 3 };

#define FPDU_TAGGED_HEAD 16   /* ULPDU length, DDP and RDMAP control, STag, TO */
#define FPDU_UNTAGGED_HEAD 20 /* ULPDU length, controls, RsvdULP word, QN, MSN, MO */
#define FPDU_HEAD_MAX 20
#define FPDU_TRAILER_MAX 7 /* up to 3 bytes of padding and the CRC */
#define ULPDU_MAX 65535
#define TAGGED_PAYLOAD_MAX (ULPDU_MAX - 14)
#define UNTAGGED_PAYLOAD_MAX (ULPDU_MAX - 18)

#define READ_REQUEST_SIZE 28
#define ATOMIC_REQUEST_SIZE 52
#define ATOMIC_RESPONSE_SIZE 12
#define IMMEDIATE_SIZE 8
#define TERMINATE_MAX 64 /* control word, DDP length, the offender's headers, what is taken */

struct fpdu_head {
	bool tagged;
	bool last;
	uint8_t opcode;   /* enum rdmap_opcode */
	uint16_t payload; /* bytes behind the headers, without padding and CRC */
	uint32_t stag;    /* tagged: the data sink's; SEND_*_INVALIDATE: the one to invalidate */
	uint64_t to;      /* tagged */
	uint32_t qn, msn, mo; /* untagged */
};

/* Bytes written: FPDU_TAGGED_HEAD or FPDU_UNTAGGED_HEAD. */
size_t fpdu_encode(uint8_t *out, const struct fpdu_head *head);
/*
 * Bytes of the head when it is complete, 0 when more are needed (never asks for more than
 * FPDU_HEAD_MAX), or minus an enum wire_error, from the fourth byte on. Checks lengths, versions,
 * reserved opcodes, the tagged flag and the queue number against the opcode; not MSN, MO, STag or
 * TO. A message that is only an RDMAP header has exactly its size (a Terminate at most
 * TERMINATE_MAX) and the last flag.
 */
int fpdu_decode(const uint8_t *in, size_t size, struct fpdu_head *head);

static inline size_t
fpdu_padding(size_t ulpdu_length)
{
	return -(ulpdu_length + 2) & 3;
}

struct read_request {
	uint32_t sink_stag;
	uint64_t sink_to;
	uint32_t size;
	uint32_t source_stag;
	uint64_t source_to;
};

void read_request_encode(uint8_t *out, const struct read_request *request);
void read_request_decode(const uint8_t *in, struct read_request *request);

enum atomic_operation { ATOMIC_FETCH_ADD = 0, ATOMIC_COMPARE_SWAP = 2 };

/* All big-endian on the wire, also the values. The mask of a plain 64-bit addition is 0. */
struct atomic_request {
	uint8_t operation;
	uint32_t request_id;
	uint32_t stag;
	uint64_t to;
	uint64_t add_swap, add_swap_mask;
	uint64_t compare, compare_mask; /* ATOMIC_COMPARE_SWAP only: else not sent */
};

void atomic_request_encode(uint8_t *out, const struct atomic_request *request);
/* False: a reserved operation. */
bool atomic_request_decode(const uint8_t *in, struct atomic_request *request);
void atomic_response_encode(uint8_t *out, uint32_t request_id, uint64_t original);
void atomic_response_decode(const uint8_t *in, uint32_t *request_id, uint64_t *original);

/* ---- Terminate (RFC 5040 sections 4.8 and 7.2, RFC 5041 7.2, RFC 5044 8, RFC 6581 8) ---- */

/* Layer, error type and error code, as layer << 12 | type << 8 | code. */
enum wire_error {
	ERROR_LOCAL_CATASTROPHIC = 0x0000,
	ERROR_INVALID_STAG = 0x0100, /* RDMAP remote protection errors */
	ERROR_BASE_BOUNDS = 0x0101,
	ERROR_ACCESS = 0x0102,
	ERROR_STAG_NOT_ASSOCIATED = 0x0103,
	ERROR_TO_WRAP = 0x0104,
	ERROR_STAG_NOT_INVALIDATED = 0x0109,
	ERROR_REMOTE_PROTECTION = 0x01ff,
	ERROR_RDMAP_VERSION = 0x0205, /* RDMAP remote operation errors */
	ERROR_UNEXPECTED_OPCODE = 0x0206,
	ERROR_STREAM_CATASTROPHIC = 0x0207,
	ERROR_GLOBAL_CATASTROPHIC = 0x0208,
	ERROR_OPERATION_NOT_INVALIDATED = 0x0209,
	ERROR_UNSPECIFIED = 0x02ff,
	ERROR_DDP_CATASTROPHIC = 0x1000,
	ERROR_TAGGED_INVALID_STAG = 0x1100, /* DDP tagged buffer errors */
	ERROR_TAGGED_BOUNDS = 0x1101,
	ERROR_TAGGED_NOT_ASSOCIATED = 0x1102,
	ERROR_TAGGED_WRAP = 0x1103,
	ERROR_TAGGED_VERSION = 0x1104,
	ERROR_UNTAGGED_QN = 0x1201, /* DDP untagged buffer errors */
	ERROR_UNTAGGED_NO_BUFFER = 0x1202,
	ERROR_UNTAGGED_MSN_RANGE = 0x1203,
	ERROR_UNTAGGED_MO = 0x1204,
	ERROR_UNTAGGED_TOO_LONG = 0x1205,
	ERROR_UNTAGGED_VERSION = 0x1206,
	ERROR_MPA_CLOSED = 0x2001, /* LLP: MPA errors */
	ERROR_MPA_CRC = 0x2002,
	ERROR_MPA_MARKER = 0x2003,
	ERROR_MPA_INVALID_REQUEST = 0x2004,
	ERROR_MPA_LOCAL_CATASTROPHIC = 0x2005,
	ERROR_MPA_INSUFFICIENT_IRD = 0x2006,
	ERROR_MPA_NO_RTR = 0x2007,
};

struct terminate {
	uint16_t error; /* enum wire_error */
	/* The offending message, as far as the Terminate tells. */
	bool has_head;
	struct fpdu_head head;
	bool has_read;
	struct read_request read;
	/*
	 * Between soft RNICs, behind what the RFC has: how many of the receiver's FPDUs, answers
	 * not counted, the sender has taken.
	 */
	bool has_taken;
	uint32_t taken;
};

/* The payload of a Terminate. At most TERMINATE_MAX bytes; returns how many. */
size_t terminate_encode(uint8_t *out, const struct terminate *terminate);
/*
 * False: not to be understood; the error is then ERROR_UNSPECIFIED. Nothing about the offender is
 * checked, and one that is cut off is left out. Also takes the bit order that Linux's siw sends.
 */
bool terminate_decode(const uint8_t *in, size_t size, struct terminate *terminate);
/* For people: "the STag is invalid (DDP, tagged buffer error)". */
const char *wire_error_str(uint16_t error);

/* ---- CRC32C (crc32c.c) ---- */

/* The CRC over all bytes so far; begin with 0. Goes onto the wire little-endian: see crc32c_put. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t size);
void crc32c_put(uint8_t *out, uint32_t crc);
bool crc32c_matches(const uint8_t *in, uint32_t crc);

#endif
