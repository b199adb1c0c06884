/* SPDX-License-Identifier: BSD-3-Clause */
/* config.c -- rpma_conn_cfg_* and rpma_srq_cfg_*. */
#include "binding.h"

DELETER(conn_cfg_delete, struct rpma_conn_cfg, rpma_conn_cfg_delete)
DELETER(srq_cfg_delete, struct rpma_srq_cfg, rpma_srq_cfg_delete)

int
rpmapy_conn_cfg_new(struct rpmapy_conn_cfg **out)
{
	struct rpmapy_conn_cfg *cfg = handle_new(sizeof(*cfg), conn_cfg_delete, NULL, NULL);
	if (!cfg)
		return RPMA_E_NOMEM;
	struct rpma_conn_cfg *object = NULL;
	call_begin();
	int ret = rpma_conn_cfg_new(&object);
	if (ret) {
		handle_discard(&cfg->handle);
		return ret;
	}
	cfg->handle.object = object;
	cfg->handle.only_memory = true;
	*out = cfg;
	return 0;
}

int
rpmapy_conn_cfg_set(struct rpmapy_conn_cfg *cfg, int field, uint32_t value)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	struct rpma_conn_cfg *object = cfg->handle.object;
	handle_use(&cfg->handle);
	call_begin();
	switch (field) {
	case RPMAPY_CONN_CFG_TIMEOUT_MS:
		ret = rpma_conn_cfg_set_timeout(object, (int)value);
		break;
	case RPMAPY_CONN_CFG_CQ_SIZE:
		ret = rpma_conn_cfg_set_cq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_RCQ_SIZE:
		ret = rpma_conn_cfg_set_rcq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_SQ_SIZE:
		ret = rpma_conn_cfg_set_sq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_RQ_SIZE:
		ret = rpma_conn_cfg_set_rq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_SHARED_CHANNEL:
		ret = rpma_conn_cfg_set_compl_channel(object, value != 0);
		break;
	default:
		ret = RPMA_E_INVAL;
	}
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}

int
rpmapy_conn_cfg_get(struct rpmapy_conn_cfg *cfg, int field, uint32_t *value)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	struct rpma_conn_cfg *object = cfg->handle.object;
	int timeout_ms = 0;
	bool shared = false;
	handle_read(&cfg->handle);
	call_begin();
	switch (field) {
	case RPMAPY_CONN_CFG_TIMEOUT_MS:
		ret = rpma_conn_cfg_get_timeout(object, &timeout_ms);
		*value = (uint32_t)timeout_ms;
		break;
	case RPMAPY_CONN_CFG_CQ_SIZE:
		ret = rpma_conn_cfg_get_cq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_RCQ_SIZE:
		ret = rpma_conn_cfg_get_rcq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_SQ_SIZE:
		ret = rpma_conn_cfg_get_sq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_RQ_SIZE:
		ret = rpma_conn_cfg_get_rq_size(object, value);
		break;
	case RPMAPY_CONN_CFG_SHARED_CHANNEL:
		ret = rpma_conn_cfg_get_compl_channel(object, &shared);
		*value = shared;
		break;
	default:
		ret = RPMA_E_INVAL;
	}
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}

int
rpmapy_conn_cfg_set_srq(struct rpmapy_conn_cfg *cfg, struct rpmapy_srq *srq)
{
	int ret = handles_enter(&cfg->handle, &srq->handle, NULL);
	if (ret)
		return ret;
	handle_use(&cfg->handle);
	call_begin();
	ret = rpma_conn_cfg_set_srq(cfg->handle.object, srq->handle.object);
	if (!ret)
		cfg->srq = srq;
	handle_done(&cfg->handle);
	handles_leave(&cfg->handle, &srq->handle, NULL);
	return ret;
}

/* The handle of the shared receive queue that librpma's configuration holds; NULL: none. */
int
rpmapy_conn_cfg_get_srq(struct rpmapy_conn_cfg *cfg, struct rpmapy_srq **srq)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	struct rpma_srq *object = NULL;
	handle_read(&cfg->handle);
	call_begin();
	ret = rpma_conn_cfg_get_srq(cfg->handle.object, &object);
	*srq = object ? cfg->srq : NULL;
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}

int
rpmapy_srq_cfg_new(struct rpmapy_srq_cfg **out)
{
	struct rpmapy_srq_cfg *cfg = handle_new(sizeof(*cfg), srq_cfg_delete, NULL, NULL);
	if (!cfg)
		return RPMA_E_NOMEM;
	struct rpma_srq_cfg *object = NULL;
	call_begin();
	int ret = rpma_srq_cfg_new(&object);
	if (ret) {
		handle_discard(&cfg->handle);
		return ret;
	}
	cfg->handle.object = object;
	cfg->handle.only_memory = true;
	*out = cfg;
	return 0;
}

int
rpmapy_srq_cfg_set(struct rpmapy_srq_cfg *cfg, int field, uint32_t value)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	handle_use(&cfg->handle);
	call_begin();
	ret = field == RPMAPY_SRQ_CFG_RQ_SIZE
		      ? rpma_srq_cfg_set_rq_size(cfg->handle.object, value)
		      : rpma_srq_cfg_set_rcq_size(cfg->handle.object, value);
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}

int
rpmapy_srq_cfg_get(struct rpmapy_srq_cfg *cfg, int field, uint32_t *value)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	handle_read(&cfg->handle);
	call_begin();
	ret = field == RPMAPY_SRQ_CFG_RQ_SIZE
		      ? rpma_srq_cfg_get_rq_size(cfg->handle.object, value)
		      : rpma_srq_cfg_get_rcq_size(cfg->handle.object, value);
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}
