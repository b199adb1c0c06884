/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device_refusals_test.c -- FPDUs that are whole and mean what a peer may not do: each is refused
 * with the error that the RFCs have for it, before a byte is placed.
 */
#include "fpdu_peer.h"

enum { ASKED = 100 };

struct refusal {
	const char *name;
	struct fpdu_head head; /* key and place: added to what is right */
	uint16_t error;
	bool reads;        /* a read of ASKED bytes is under way */
	uint32_t receives; /* a receive of so many bytes is posted; 0: of ASKED */
};

#define RESPONSE .tagged = true, .opcode = RDMAP_READ_RESPONSE
#define WRITE .tagged = true, .opcode = RDMAP_WRITE
#define SEND .opcode = RDMAP_SEND, .qn = QN_SEND

static const struct refusal refusals[] = {
	{"response that nobody asked for",
	 {RESPONSE, .last = true, .payload = ASKED},
	 .error = ERROR_UNEXPECTED_OPCODE},
	{"response longer than its read",
	 {RESPONSE, .last = true, .payload = ASKED + 1},
	 .error = ERROR_TAGGED_BOUNDS,
	 .reads = true},
	{"longer response, not the last",
	 {RESPONSE, .payload = ASKED + 1},
	 .error = ERROR_TAGGED_BOUNDS,
	 .reads = true},
	{"response that ends early",
	 {RESPONSE, .last = true, .payload = ASKED - 1},
	 .error = ERROR_TAGGED_BOUNDS,
	 .reads = true},
	{"response that does not end",
	 {RESPONSE, .payload = ASKED},
	 .error = ERROR_TAGGED_BOUNDS,
	 .reads = true},
	{"response of nothing",
	 {RESPONSE, .last = true},
	 .error = ERROR_TAGGED_BOUNDS,
	 .reads = true},
	{"response to another key",
	 {RESPONSE, .last = true, .payload = ASKED, .stag = 1},
	 .error = ERROR_TAGGED_INVALID_STAG,
	 .reads = true},
	{"response to another place",
	 {RESPONSE, .last = true, .payload = ASKED, .to = 8},
	 .error = ERROR_TAGGED_BOUNDS,
	 .reads = true},
	{"send before its turn",
	 {SEND, .last = true, .payload = ASKED, .msn = 2},
	 .error = ERROR_UNTAGGED_MSN_RANGE},
	{"send once more",
	 {SEND, .last = true, .payload = ASKED},
	 .error = ERROR_UNTAGGED_MSN_RANGE},
	{"send that begins in the middle",
	 {SEND, .last = true, .payload = 8, .msn = 1, .mo = 8},
	 .error = ERROR_UNTAGGED_MO},
	{"send longer than its receive",
	 {SEND, .last = true, .payload = ASKED + 1, .msn = 1},
	 .error = ERROR_UNTAGGED_TOO_LONG},
	{"send longer by an octet",
	 {SEND, .last = true, .payload = ASKED, .msn = 1},
	 .error = ERROR_UNTAGGED_TOO_LONG,
	 .receives = ASKED - 1},
	{"write to another key",
	 {WRITE, .last = true, .payload = ASKED, .stag = 1},
	 .error = ERROR_TAGGED_INVALID_STAG},
	{"write before the region",
	 {WRITE, .last = true, .payload = ASKED, .to = -TARGET - 1},
	 .error = ERROR_TAGGED_BOUNDS},
	{"write that wraps",
	 {WRITE, .last = true, .payload = ASKED, .to = UINT64_MAX},
	 .error = ERROR_TAGGED_WRAP},
};

static void
ask(struct peer *peer)
{
	struct fpdu_head head;
	uint8_t payload[6000];
	struct ibv_sge sge = sge_of(&peer->side, TARGET, ASKED);
	struct ibv_send_wr wr = wr_of(IBV_WR_RDMA_READ, 5, &sge, 1, &peer->side, SOURCE);
	CHECK(post(&peer->side, &wr), 0);
	MUST(receive_fpdu(peer->fd, &head, payload));
	CHECK(head.opcode, RDMAP_READ_REQUEST);
}

static void
refuse(const struct refusal *refusal)
{
	struct peer peer;
	struct side *side = &peer.side;
	struct fpdu_head head = refusal->head, answer = {0};
	struct terminate terminate = {0};
	uint8_t payload[6000] = {0};
	static const uint8_t untouched[2 * ASKED];
	peer_init(&peer);
	uint32_t receives = refusal->receives ? refusal->receives : ASKED;
	CHECK(post_receive(side, 6, RECEIVED, receives), 0);
	if (refusal->reads)
		ask(&peer);
	if (head.tagged) {
		uint64_t right = (uintptr_t)side->bytes + TARGET;
		head.stag += head.opcode == RDMAP_WRITE ? side->mr->rkey : side->mr->lkey;
		head.to = head.to == UINT64_MAX ? head.to - ASKED / 2 : head.to + right;
	}
	fill(payload, ASKED + 1, 9);
	send_fpdu(peer.fd, &head, payload, NONE);
	while (receive_fpdu(peer.fd, &answer, payload) && answer.opcode != RDMAP_TERMINATE)
		;
	CHECK(answer.opcode, RDMAP_TERMINATE);
	(void)terminate_decode(payload, answer.payload, &terminate);
	CHECK(terminate.error, refusal->error);
	CHECK(receive_fpdu(peer.fd, &answer, payload), false);
	CHECK(state_of(side->id), IBV_QPS_ERR);
	CHECK(memcmp(side->bytes + TARGET, untouched, sizeof(untouched)), 0);
	CHECK(memcmp(side->bytes + RECEIVED, untouched, sizeof(untouched)), 0);
	if (refusal->reads)
		TAKE_THIS(side->send_cq, 5, IBV_WC_WR_FLUSH_ERR);
	TAKE_THIS(side->recv_cq, 6,
		  refusal->error == ERROR_UNTAGGED_TOO_LONG ? IBV_WC_LOC_LEN_ERR
							    : IBV_WC_WR_FLUSH_ERR);
	close(peer.fd);
	EXPECT(side->id, RDMA_CM_EVENT_DISCONNECTED, 0);
	side_end(side);
}

static void
test_what_a_peer_may_not_do_is_refused_as_the_rfcs_say(void)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(*refusals); i++) {
		int before = failures;
		refuse(&refusals[i]);
		if (failures != before)
			printf("%s\n", refusals[i].name);
	}
}

int
main(void)
{
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_what_a_peer_may_not_do_is_refused_as_the_rfcs_say);
	return report();
}
