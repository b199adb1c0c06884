/* SPDX-License-Identifier: BSD-3-Clause */
/* peer.c -- rpma_peer_* and rpma_peer_cfg_*. */
#include "binding.h"

DELETER(peer_delete, struct rpma_peer, rpma_peer_delete)
DELETER(peer_cfg_delete, struct rpma_peer_cfg, rpma_peer_cfg_delete)

int
rpmapy_peer_new(struct ibv_context *context, struct rpmapy_peer **out)
{
	int ret = device_usable();
	if (ret)
		return ret;
	struct rpmapy_peer *peer = handle_new(sizeof(*peer), peer_delete, NULL, NULL);
	if (!peer)
		return RPMA_E_NOMEM;
	struct rpma_peer *object = NULL;
	call_begin();
	ret = rpma_peer_new(context, &object);
	if (ret) {
		handle_discard(&peer->handle);
		return ret;
	}
	peer->handle.object = object;
	*out = peer;
	return 0;
}

static int
peer_cfg_wrap(int ret, struct rpma_peer_cfg *object, struct rpmapy_peer_cfg **out)
{
	if (ret)
		return ret;
	struct rpmapy_peer_cfg *cfg = handle_new(sizeof(*cfg), peer_cfg_delete, NULL, NULL);
	if (!cfg) {
		(void)rpma_peer_cfg_delete(&object);
		return RPMA_E_NOMEM;
	}
	cfg->handle.object = object;
	cfg->handle.only_memory = true;
	*out = cfg;
	return 0;
}

int
rpmapy_peer_cfg_new(struct rpmapy_peer_cfg **out)
{
	struct rpma_peer_cfg *object = NULL;
	call_begin();
	int ret = rpma_peer_cfg_new(&object); /* before `object` is read as an argument */
	return peer_cfg_wrap(ret, object, out);
}

int
rpmapy_peer_cfg_from_descriptor(const void *descriptor, size_t size, struct rpmapy_peer_cfg **out)
{
	struct rpma_peer_cfg *object = NULL;
	call_begin();
	int ret = rpma_peer_cfg_from_descriptor(descriptor, size, &object);
	return peer_cfg_wrap(ret, object, out);
}

int
rpmapy_peer_cfg_set_direct_write_to_pmem(struct rpmapy_peer_cfg *cfg, bool supported)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	handle_use(&cfg->handle);
	call_begin();
	ret = rpma_peer_cfg_set_direct_write_to_pmem(cfg->handle.object, supported);
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}

int
rpmapy_peer_cfg_get_direct_write_to_pmem(struct rpmapy_peer_cfg *cfg, bool *supported)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	handle_read(&cfg->handle);
	call_begin();
	ret = rpma_peer_cfg_get_direct_write_to_pmem(cfg->handle.object, supported);
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}

/* size: in, what the buffer holds; out, what the descriptor takes. */
int
rpmapy_peer_cfg_get_descriptor(struct rpmapy_peer_cfg *cfg, void *descriptor, size_t *size)
{
	int ret = handle_enter(&cfg->handle);
	if (ret)
		return ret;
	size_t needed = 0;
	handle_read(&cfg->handle);
	call_begin();
	ret = rpma_peer_cfg_get_descriptor_size(cfg->handle.object, &needed);
	if (!ret && needed > *size)
		ret = RPMA_E_NOMEM;
	if (!ret)
		ret = rpma_peer_cfg_get_descriptor(cfg->handle.object, descriptor);
	*size = needed;
	handle_done(&cfg->handle);
	handle_leave(&cfg->handle);
	return ret;
}
