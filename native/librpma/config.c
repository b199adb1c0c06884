/* SPDX-License-Identifier: BSD-3-Clause */
/* config.c -- the configurations: of a peer, of a connection, of a shared receive queue. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* A descriptor of a peer: one byte, whether the direct write to persistent memory is supported. */
#define PEER_DESCRIPTOR_SIZE 1

static const struct rpma_conn_cfg default_conn_cfg = {
	.timeout_ms = RPMA_DEFAULT_TIMEOUT_MS,
	.cq_size = 10,
	.rcq_size = 0,
	.sq_size = 10,
	.rq_size = 10,
	.shared_channel = false,
	.srq = NULL,
};

static const struct rpma_srq_cfg default_srq_cfg = {.rq_size = 100, .rcq_size = 100};

const struct rpma_conn_cfg *
conn_cfg_or_default(const struct rpma_conn_cfg *cfg)
{
	return cfg ? cfg : &default_conn_cfg;
}

const struct rpma_srq_cfg *
srq_cfg_or_default(const struct rpma_srq_cfg *cfg)
{
	return cfg ? cfg : &default_srq_cfg;
}

/* ---- of a peer ---- */

int
rpma_peer_cfg_new(struct rpma_peer_cfg **pcfg_ptr)
{
	if (!pcfg_ptr)
		return invalid("pcfg_ptr must not be NULL");
	struct rpma_peer_cfg *pcfg = calloc(1, sizeof(*pcfg));
	if (!pcfg)
		return RPMA_E_NOMEM;
	*pcfg_ptr = pcfg;
	return 0;
}

int
rpma_peer_cfg_delete(struct rpma_peer_cfg **pcfg_ptr)
{
	if (!pcfg_ptr)
		return invalid("pcfg_ptr must not be NULL");
	free(*pcfg_ptr);
	*pcfg_ptr = NULL;
	return 0;
}

int
rpma_peer_cfg_set_direct_write_to_pmem(struct rpma_peer_cfg *pcfg, bool supported)
{
	if (!pcfg)
		return invalid("pcfg must not be NULL");
	atomic_store(&pcfg->direct_write_to_pmem, supported);
	return 0;
}

int
rpma_peer_cfg_get_direct_write_to_pmem(const struct rpma_peer_cfg *pcfg, bool *supported)
{
	if (!pcfg || !supported)
		return invalid("pcfg and supported must not be NULL");
	*supported = atomic_load(&pcfg->direct_write_to_pmem);
	return 0;
}

int
rpma_peer_cfg_get_descriptor(const struct rpma_peer_cfg *pcfg, void *desc)
{
	if (!pcfg || !desc)
		return invalid("pcfg and desc must not be NULL");
	*(uint8_t *)desc = atomic_load(&pcfg->direct_write_to_pmem);
	return 0;
}

int
rpma_peer_cfg_get_descriptor_size(const struct rpma_peer_cfg *pcfg, size_t *desc_size)
{
	if (!pcfg || !desc_size)
		return invalid("pcfg and desc_size must not be NULL");
	*desc_size = PEER_DESCRIPTOR_SIZE;
	return 0;
}

int
rpma_peer_cfg_from_descriptor(const void *desc, size_t desc_size, struct rpma_peer_cfg **pcfg_ptr)
{
	if (!desc || !pcfg_ptr)
		return invalid("desc and pcfg_ptr must not be NULL");
	if (desc_size < PEER_DESCRIPTOR_SIZE)
		return invalid("a descriptor of a peer has %d byte, not %zu", PEER_DESCRIPTOR_SIZE,
			       desc_size);
	int ret = rpma_peer_cfg_new(pcfg_ptr);
	if (!ret)
		(*pcfg_ptr)->direct_write_to_pmem = *(const uint8_t *)desc != 0;
	return ret;
}

/* ---- of a connection ---- */

int
rpma_conn_cfg_new(struct rpma_conn_cfg **cfg_ptr)
{
	if (!cfg_ptr)
		return invalid("cfg_ptr must not be NULL");
	struct rpma_conn_cfg *cfg = malloc(sizeof(*cfg));
	if (!cfg)
		return RPMA_E_NOMEM;
	memcpy(cfg, &default_conn_cfg, sizeof(*cfg));
	*cfg_ptr = cfg;
	return 0;
}

int
rpma_conn_cfg_delete(struct rpma_conn_cfg **cfg_ptr)
{
	if (!cfg_ptr)
		return invalid("cfg_ptr must not be NULL");
	free(*cfg_ptr);
	*cfg_ptr = NULL;
	return 0;
}

#define FIELD(OBJECT, FIELD_TYPE, NAME, FIELD_NAME)                                                \
	int OBJECT##_set_##NAME(struct OBJECT *cfg, FIELD_TYPE NAME)                               \
	{                                                                                          \
		if (!cfg)                                                                          \
			return invalid("cfg must not be NULL");                                    \
		atomic_store(&cfg->FIELD_NAME, NAME);                                              \
		return 0;                                                                          \
	}                                                                                          \
                                                                                                   \
	int OBJECT##_get_##NAME(const struct OBJECT *cfg, FIELD_TYPE *NAME)                        \
	{                                                                                          \
		if (!cfg || !NAME)                                                                 \
			return invalid("cfg and the pointer to the value must not be NULL");       \
		*NAME = atomic_load(&cfg->FIELD_NAME);                                             \
		return 0;                                                                          \
	}

FIELD(rpma_conn_cfg, uint32_t, cq_size, cq_size)
FIELD(rpma_conn_cfg, uint32_t, rcq_size, rcq_size)
FIELD(rpma_conn_cfg, uint32_t, sq_size, sq_size)
FIELD(rpma_conn_cfg, uint32_t, rq_size, rq_size)
FIELD(rpma_conn_cfg, bool, compl_channel, shared_channel)
FIELD(rpma_srq_cfg, uint32_t, rq_size, rq_size)
FIELD(rpma_srq_cfg, uint32_t, rcq_size, rcq_size)

int
rpma_conn_cfg_set_timeout(struct rpma_conn_cfg *cfg, int timeout_ms)
{
	if (!cfg || timeout_ms < 0)
		return invalid("cfg must not be NULL, timeout_ms 0 or more");
	atomic_store(&cfg->timeout_ms, timeout_ms);
	return 0;
}

int
rpma_conn_cfg_get_timeout(const struct rpma_conn_cfg *cfg, int *timeout_ms)
{
	if (!cfg || !timeout_ms)
		return invalid("cfg and timeout_ms must not be NULL");
	*timeout_ms = atomic_load(&cfg->timeout_ms);
	return 0;
}

int
rpma_conn_cfg_set_srq(struct rpma_conn_cfg *cfg, struct rpma_srq *srq)
{
	if (!cfg)
		return invalid("cfg must not be NULL");
	atomic_store(&cfg->srq, srq);
	return 0;
}

int
rpma_conn_cfg_get_srq(const struct rpma_conn_cfg *cfg, struct rpma_srq **srq_ptr)
{
	if (!cfg || !srq_ptr)
		return invalid("cfg and srq_ptr must not be NULL");
	*srq_ptr = atomic_load(&cfg->srq);
	return 0;
}

/* ---- of a shared receive queue ---- */

int
rpma_srq_cfg_new(struct rpma_srq_cfg **cfg_ptr)
{
	if (!cfg_ptr)
		return invalid("cfg_ptr must not be NULL");
	struct rpma_srq_cfg *cfg = malloc(sizeof(*cfg));
	if (!cfg)
		return RPMA_E_NOMEM;
	memcpy(cfg, &default_srq_cfg, sizeof(*cfg));
	*cfg_ptr = cfg;
	return 0;
}

int
rpma_srq_cfg_delete(struct rpma_srq_cfg **cfg_ptr)
{
	if (!cfg_ptr)
		return invalid("cfg_ptr must not be NULL");
	free(*cfg_ptr);
	*cfg_ptr = NULL;
	return 0;
}
