/* SPDX-License-Identifier: BSD-3-Clause */
/* device_crc_test.c -- a peer whose CRCs are wrong, on each kind of FPDU, where CRCs were agreed.
 */
#include "fpdu_peer.h"

struct kind {
	const char *name;
	uint8_t opcode;
	uint16_t payload;
	bool waits; /* for its receive */
};

static const struct kind kinds[] = {
	{"write", RDMAP_WRITE, 100, false},
	{"long write", RDMAP_WRITE, 5001, false},
	{"write of nothing", RDMAP_WRITE, 0, false},
	{"send", RDMAP_SEND, 100, false},
	{"long send", RDMAP_SEND, 5002, false},
	{"send of nothing", RDMAP_SEND, 0, false},
	{"solicited send", RDMAP_SEND_SE, 33, false},
	{"send that waits", RDMAP_SEND, 100, true},
	{"immediate data", RDMAP_IMMEDIATE, IMMEDIATE_SIZE, false},
	{"read request", RDMAP_READ_REQUEST, READ_REQUEST_SIZE, false},
	{"read response", RDMAP_READ_RESPONSE, 100, false},
	{"long read response", RDMAP_READ_RESPONSE, 5003, false},
	{"atomic request", RDMAP_ATOMIC_REQUEST, ATOMIC_REQUEST_SIZE, false},
	{"atomic response", RDMAP_ATOMIC_RESPONSE, ATOMIC_RESPONSE_SIZE, false},
	{"terminate", RDMAP_TERMINATE, 4, false},
};

/* ---- what the peer sends ---- */

/* Of the kind, as it is right but for its CRC; what goes before it has been done. */
static void
send_kind(struct peer *peer, const struct kind *kind, enum mistake mistake)
{
	struct side *side = &peer->side;
	uint8_t payload[6000];
	uint64_t remote = (uintptr_t)side->bytes;
	struct fpdu_head head = {
		.last = true, .opcode = kind->opcode, .payload = kind->payload, .msn = 1};
	fill(payload, sizeof(payload), 9);
	switch (kind->opcode) {
	case RDMAP_WRITE:
		head.tagged = true;
		head.stag = side->mr->rkey;
		head.to = remote + TARGET;
		break;
	case RDMAP_READ_RESPONSE:
		head.tagged = true;
		head.stag = side->mr->lkey;
		head.to = remote + TARGET;
		break;
	case RDMAP_READ_REQUEST:
		head.qn = QN_READ_REQUEST;
		read_request_encode(payload, &(struct read_request){.size = 8,
								    .source_stag = side->mr->rkey,
								    .source_to = remote + SOURCE});
		break;
	case RDMAP_ATOMIC_REQUEST:
		head.qn = QN_READ_REQUEST;
		atomic_request_encode(payload, &(struct atomic_request){
						       .operation = ATOMIC_FETCH_ADD,
						       .stag = side->mr->rkey,
						       .to = remote + WORD,
						       .add_swap = 1,
					       });
		break;
	case RDMAP_ATOMIC_RESPONSE:
		head.qn = QN_ATOMIC_RESPONSE;
		atomic_response_encode(payload, 0, 77);
		break;
	case RDMAP_TERMINATE:
		head.qn = QN_TERMINATE;
		(void)terminate_encode(payload, &(struct terminate){.error = ERROR_UNSPECIFIED});
		break;
	default:
		break;
	}
	send_fpdu(peer->fd, &head, payload, mistake);
}

/* What an answer answers. */
static void
ask(struct peer *peer, const struct kind *kind)
{
	struct side *side = &peer->side;
	struct fpdu_head head;
	uint8_t payload[6000];
	bool reads = kind->opcode == RDMAP_READ_RESPONSE;
	struct ibv_sge sge = sge_of(side, TARGET, reads ? kind->payload : 8);
	struct ibv_send_wr wr = wr_of(reads ? IBV_WR_RDMA_READ : IBV_WR_ATOMIC_FETCH_AND_ADD, 5,
				      &sge, 1, side, SOURCE);
	CHECK(post(side, &wr), 0);
	MUST(receive_fpdu(peer->fd, &head, payload));
	CHECK(head.opcode, reads ? RDMAP_READ_REQUEST : RDMAP_ATOMIC_REQUEST);
}

/* ---- what the device makes of it ---- */

static bool
is_answer(uint8_t opcode)
{
	return opcode == RDMAP_READ_RESPONSE || opcode == RDMAP_ATOMIC_RESPONSE;
}

static bool
is_received(uint8_t opcode)
{
	return opcode == RDMAP_SEND || opcode == RDMAP_SEND_SE || opcode == RDMAP_IMMEDIATE;
}

static void
expect_taken(struct peer *peer, const struct kind *kind)
{
	struct side *side = &peer->side;
	struct fpdu_head head;
	uint8_t payload[6000];
	if (is_answer(kind->opcode))
		TAKE_THIS(side->send_cq, 5, IBV_WC_SUCCESS);
	if (is_received(kind->opcode))
		TAKE_THIS(side->recv_cq, 6, IBV_WC_SUCCESS);
	if (kind->opcode == RDMAP_TERMINATE) {
		CHECK(receive_fpdu(peer->fd, &head, payload), false);
		return;
	}
	if (kind->opcode == RDMAP_READ_REQUEST || kind->opcode == RDMAP_ATOMIC_REQUEST) {
		MUST(receive_fpdu(peer->fd, &head, payload));
		CHECK(is_answer(head.opcode), true);
	}
	/* And the next one is. */
	uint32_t msn = 1;
	msn += kind->opcode == RDMAP_READ_REQUEST || kind->opcode == RDMAP_ATOMIC_REQUEST;
	head = (struct fpdu_head){.last = true,
				  .opcode = RDMAP_READ_REQUEST,
				  .payload = READ_REQUEST_SIZE,
				  .qn = QN_READ_REQUEST,
				  .msn = msn};
	memset(payload, 0, sizeof(payload));
	send_fpdu(peer->fd, &head, payload, NONE);
	MUST(receive_fpdu(peer->fd, &head, payload));
	CHECK(head.opcode, RDMAP_READ_RESPONSE);
}

static void
expect_refused(struct peer *peer, const struct kind *kind)
{
	struct side *side = &peer->side;
	struct fpdu_head head = {0};
	uint8_t payload[6000];
	struct terminate terminate = {0};
	if (receive_fpdu(peer->fd, &head, payload) && head.opcode == RDMAP_TERMINATE)
		(void)terminate_decode(payload, head.payload, &terminate);
	CHECK(head.opcode, RDMAP_TERMINATE);
	CHECK(terminate.error, ERROR_MPA_CRC);
	CHECK(receive_fpdu(peer->fd, &head, payload), false);
	CHECK(state_of(side->id), IBV_QPS_ERR);
	TAKE_THIS(side->recv_cq, 6, IBV_WC_WR_FLUSH_ERR);
	if (is_answer(kind->opcode))
		TAKE_THIS(side->send_cq, 5, IBV_WC_WR_FLUSH_ERR);
	if (kind->opcode == RDMAP_ATOMIC_REQUEST)
		CHECK(*(uint64_t *)(side->bytes + WORD), 0);
}

static void
test_each_kind_of_fpdu_with_a_wrong_crc(void)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		const struct kind *kind = &kinds[i];
		for (enum mistake mistake = NONE; mistake < MISTAKES; mistake++) {
			struct peer peer;
			int before = failures;
			if (mistake == CHANGED && !kind->payload)
				continue;
			peer_init(&peer);
			if (is_answer(kind->opcode))
				ask(&peer, kind);
			if (!kind->waits)
				CHECK(post_receive(&peer.side, 6, RECEIVED, 6000), 0);
			send_kind(&peer, kind, mistake);
			if (kind->waits) {
				sleep_ms(20);
				CHECK(post_receive(&peer.side, 6, RECEIVED, 6000), 0);
			}
			if (mistake == NONE)
				expect_taken(&peer, kind);
			else
				expect_refused(&peer, kind);
			close(peer.fd);
			EXPECT(peer.side.id, RDMA_CM_EVENT_DISCONNECTED, 0);
			side_end(&peer.side);
			if (failures != before)
				printf("%s, mistake %d\n", kind->name, mistake);
		}
	}
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_each_kind_of_fpdu_with_a_wrong_crc);
	return report();
}
