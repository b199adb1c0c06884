/* SPDX-License-Identifier: BSD-3-Clause */
/* side.h -- what either side of a connection does, for programs that do nothing wrong. */
#ifndef SIDE_H
#define SIDE_H

#include "pair.h"

#include <stdint.h>

#define ALWAYS RPMA_F_COMPLETION_ALWAYS
#define ON_ERROR RPMA_F_COMPLETION_ON_ERROR

#define EXPECT(condition)                                                                          \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
			exit(3);                                                                   \
		}                                                                                  \
	} while (0)

/* What a side says of itself in the private data: 28 bytes, less than any transport carries. */
struct offer {
	uint16_t offset;
	uint8_t mr_size, pcfg_size;
	char descriptors[24];
};

static inline struct offer
offer_of(const struct rpma_mr_local *mr, const struct rpma_peer_cfg *pcfg)
{
	struct offer offer = {0};
	size_t size;
	must(rpma_mr_get_descriptor_size(mr, &size));
	must(rpma_mr_get_descriptor(mr, offer.descriptors));
	offer.mr_size = (uint8_t)size;
	if (pcfg) {
		must(rpma_peer_cfg_get_descriptor_size(pcfg, &size));
		must(rpma_peer_cfg_get_descriptor(pcfg, offer.descriptors + offer.mr_size));
		offer.pcfg_size = (uint8_t)size;
	}
	return offer;
}

static inline const struct offer *
offer_from(const struct rpma_conn *conn)
{
	struct rpma_conn_private_data pdata;
	must(rpma_conn_get_private_data(conn, &pdata));
	EXPECT(pdata.ptr && pdata.len >= sizeof(struct offer));
	return pdata.ptr;
}

static inline struct rpma_mr_remote *
region_from(const struct rpma_conn *conn)
{
	const struct offer *offer = offer_from(conn);
	struct rpma_mr_remote *remote;
	must(rpma_mr_remote_from_descriptor(offer->descriptors, offer->mr_size, &remote));
	return remote;
}

static inline struct rpma_mr_local *
region(struct rpma_peer *peer, void *ptr, int usage)
{
	struct rpma_mr_local *mr;
	must(rpma_mr_reg(peer, ptr, SIZE, usage, &mr));
	return mr;
}

static inline struct rpma_ep *
listening(struct rpma_peer *peer)
{
	struct rpma_ep *ep;
	must(rpma_ep_listen(peer, address(), port(), &ep));
	return ep;
}

static inline struct rpma_conn *
established(struct rpma_conn_req *req, const void *data, size_t len)
{
	struct rpma_conn_private_data pdata = {.ptr = (void *)(uintptr_t)data, .len = (uint8_t)len};
	struct rpma_conn *conn;
	must(rpma_conn_req_connect(&req, data ? &pdata : NULL, &conn));
	expect_event(conn, RPMA_CONN_ESTABLISHED);
	return conn;
}

static inline struct rpma_conn_req *
next_request(struct rpma_ep *ep, const struct rpma_conn_cfg *cfg)
{
	struct rpma_conn_req *req;
	must(rpma_ep_next_conn_req(ep, cfg, &req));
	return req;
}

static inline struct rpma_conn_req *
new_request(struct rpma_peer *peer, const struct rpma_conn_cfg *cfg)
{
	struct rpma_conn_req *req;
	must(rpma_conn_req_new(peer, address(), port(), cfg, &req));
	return req;
}

static inline struct rpma_cq *
cq_of(const struct rpma_conn *conn)
{
	struct rpma_cq *cq;
	must(rpma_conn_get_cq(conn, &cq));
	return cq;
}

static inline struct rpma_cq *
rcq_of(const struct rpma_conn *conn)
{
	struct rpma_cq *rcq;
	must(rpma_conn_get_rcq(conn, &rcq));
	return rcq;
}

/* The next completion, which has to be this one. */
static inline struct ibv_wc
completed(struct rpma_cq *cq, enum ibv_wc_opcode opcode)
{
	struct ibv_wc wc = completion(cq);
	EXPECT(wc.status == IBV_WC_SUCCESS && wc.opcode == opcode);
	return wc;
}

/* End a connection as the first of its sides, or as the other one. */
static inline void
end_first(struct rpma_conn **conn)
{
	must(rpma_conn_disconnect(*conn));
	expect_event(*conn, RPMA_CONN_CLOSED);
	must(rpma_conn_delete(conn));
}

static inline void
end_second(struct rpma_conn **conn)
{
	expect_event(*conn, RPMA_CONN_CLOSED);
	must(rpma_conn_disconnect(*conn));
	must(rpma_conn_delete(conn));
}

#endif
