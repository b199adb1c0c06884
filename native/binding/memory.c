/* SPDX-License-Identifier: BSD-3-Clause */
/* memory.c -- rpma_mr_*: local regions and descriptions of remote ones. */
#include "binding.h"

#include <string.h>

/* The layout of librpma's descriptor since 1.0: address, size (8 bytes each), rkey (4), usage (1).
 */
#define DESCRIPTOR_USAGE 20

DELETER(local_delete, struct rpma_mr_local, rpma_mr_dereg)
DELETER(remote_delete, struct rpma_mr_remote, rpma_mr_remote_delete)

int
rpmapy_mr_reg(struct rpmapy_peer *peer, void *ptr, size_t size, int usage,
	      struct rpmapy_local **out)
{
	int ret = handle_enter(&peer->handle);
	if (ret)
		return ret;
	struct rpmapy_local *mr = handle_new(sizeof(*mr), local_delete, &peer->handle, NULL);
	struct rpma_mr_local *object = NULL;
	if (mr) {
		call_begin();
		ret = rpma_mr_reg(peer->handle.object, ptr, size, usage, &object);
	} else {
		ret = RPMA_E_NOMEM;
	}
	handle_leave(&peer->handle);
	if (ret) {
		if (mr)
			handle_discard(&mr->handle);
		return ret;
	}
	mr->handle.object = object;
	mr->peer = &peer->handle;
	mr->size = size;
	mr->usage = usage;
	*out = mr;
	return 0;
}

/* size: in, what the buffer holds; out, what the descriptor takes. */
int
rpmapy_mr_get_descriptor(struct rpmapy_local *mr, void *descriptor, size_t *size)
{
	int ret = handle_enter(&mr->handle);
	if (ret)
		return ret;
	size_t needed = 0;
	call_begin();
	ret = rpma_mr_get_descriptor_size(mr->handle.object, &needed);
	if (!ret && needed > *size)
		ret = RPMA_E_NOMEM;
	if (!ret)
		ret = rpma_mr_get_descriptor(mr->handle.object, descriptor);
	*size = needed;
	handle_leave(&mr->handle);
	return ret;
}

int
rpmapy_mr_get_ptr(struct rpmapy_local *mr, uintptr_t *ptr)
{
	int ret = handle_enter(&mr->handle);
	if (ret)
		return ret;
	void *address = NULL;
	call_begin();
	ret = rpma_mr_get_ptr(mr->handle.object, &address);
	*ptr = (uintptr_t)address;
	handle_leave(&mr->handle);
	return ret;
}

int
rpmapy_mr_get_size(struct rpmapy_local *mr, size_t *size)
{
	int ret = handle_enter(&mr->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_mr_get_size(mr->handle.object, size);
	handle_leave(&mr->handle);
	return ret;
}

int
rpmapy_mr_advise(struct rpmapy_local *mr, size_t offset, size_t length, int advice, uint32_t flags)
{
	if (offset > mr->size || length > mr->size - offset || length > UINT32_MAX)
		return RPMAPY_E_ARGUMENT;
	int ret = handle_enter(&mr->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_mr_advise(mr->handle.object, offset, length, advice, flags);
	handle_leave(&mr->handle);
	return ret;
}

/*
 * Whether a region is registered with the peer that a connection or a shared RQ belongs to. What is
 * closed belongs to none any more: then nothing speaks against it.
 */
bool
rpmapy_mr_is_of(const struct rpmapy_local *mr, const void *child_of_peer)
{
	const struct handle *peer = ((const struct handle *)child_of_peer)->parents[0];
	return !peer || mr->peer == peer;
}

int
rpmapy_mr_remote_from_descriptor(const void *descriptor, size_t size, struct rpmapy_remote **out)
{
	struct rpma_mr_remote *object = NULL;
	call_begin();
	int ret = rpma_mr_remote_from_descriptor(descriptor, size, &object);
	if (ret)
		return ret;
	struct rpmapy_remote *mr = handle_new(sizeof(*mr), remote_delete, NULL, NULL);
	if (!mr) {
		(void)rpma_mr_remote_delete(&object);
		return RPMA_E_NOMEM;
	}
	mr->handle.object = object;
	mr->handle.only_memory = true;
	mr->usage = ((const uint8_t *)descriptor)[DESCRIPTOR_USAGE];
	ret = rpma_mr_remote_get_size(object, &mr->size);
	if (ret) {
		handle_discard(&mr->handle);
		return ret;
	}
	*out = mr;
	return 0;
}

int
rpmapy_mr_remote_get_size(struct rpmapy_remote *mr, size_t *size)
{
	int ret = handle_enter(&mr->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_mr_remote_get_size(mr->handle.object, size);
	handle_leave(&mr->handle);
	return ret;
}

int
rpmapy_mr_remote_get_flush_type(struct rpmapy_remote *mr, int *flush_type)
{
	int ret = handle_enter(&mr->handle);
	if (ret)
		return ret;
	call_begin();
	ret = rpma_mr_remote_get_flush_type(mr->handle.object, flush_type);
	handle_leave(&mr->handle);
	return ret;
}
