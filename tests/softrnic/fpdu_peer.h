/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fpdu_peer.h -- a peer of the device's that is written by hand: a socket, MPA's handshake of
 * revision 1, where CRCs are agreed, and FPDUs.
 */
#ifndef SOFTRNIC_FPDU_PEER_H
#define SOFTRNIC_FPDU_PEER_H

#include "softrnic.h"

#include "device_test.h"
#include "raw_peer.h"

enum { SOURCE = 0, TARGET = 8192, RECEIVED = 16384, WORD = 32768 };

/* Of a peer, in the FPDU that it sends. */
enum mistake { NONE, WRONG_CRC, CHANGED, MISTAKES };

struct peer {
	int fd;
	struct side side; /* the device's */
};

static inline void
peer_init(struct peer *peer)
{
	struct rdma_cm_id *listener = new_listener(new_channel(), "127.0.0.1", 0);
	peer->fd = raw_connect(listener);
	raw_send(peer->fd, REQUEST "40 01 0000");
	accept_side(&peer->side, listener, &(struct options){0});
	RAW_EXPECT(peer->fd, REPLY "40 01 0000");
	EXPECT(peer->side.id, RDMA_CM_EVENT_ESTABLISHED, 0);
	destroy_with_channel(listener);
	fill(peer->side.bytes + SOURCE, 6000, 3);
}

/* ---- FPDUs ---- */

static inline void
send_fpdu(int fd, const struct fpdu_head *head, const void *payload, enum mistake mistake)
{
	uint8_t bytes[FPDU_HEAD_MAX + 6000 + FPDU_TRAILER_MAX];
	size_t size = fpdu_encode(bytes, head);
	memcpy(bytes + size, payload, head->payload);
	size += head->payload;
	size_t padding = fpdu_padding(size - 2);
	memset(bytes + size, 0, padding);
	crc32c_put(bytes + size + padding, crc32c(0, bytes, size + padding));
	if (mistake == WRONG_CRC)
		bytes[size + padding + 3] ^= 0x10;
	if (mistake == CHANGED) /* of the payload or the padding: else nobody would miss it */
		bytes[size + padding - 1] ^= 0x80;
	size += padding + 4;
	CHECK(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

/* The next one, whose CRC has to be right. Returns whether there is one: else the stream is over.
 */
static inline bool
receive_fpdu(int fd, struct fpdu_head *head, uint8_t *payload)
{
	uint8_t bytes[FPDU_HEAD_MAX + 6000 + FPDU_TRAILER_MAX];
	if (raw_receive(fd, bytes, 2) < 2)
		return false;
	size_t size = 2u + (bytes[0] << 8 | bytes[1]);
	size += fpdu_padding(size - 2);
	MUST(size + 4 <= sizeof(bytes) && raw_receive(fd, bytes + 2, size + 2) == size + 2);
	CHECK(crc32c_matches(bytes + size, crc32c(0, bytes, size)), true);
	int head_size = fpdu_decode(bytes, size, head);
	MUST(head_size > 0);
	memcpy(payload, bytes + head_size, head->payload);
	return true;
}

#endif
