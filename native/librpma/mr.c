/* SPDX-License-Identifier: BSD-3-Clause */
/* mr.c -- memory regions: one's own, and what is known of the other peer's. */
#include "internal.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * A descriptor, little endian: the address (8 bytes), the size (8), the key (4), the usage (1). So
 * it is in every librpma.
 */
#define DESCRIPTOR_SIZE 21
#define USAGE_ALL 0xff
#define USAGE_FLUSH (RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY | RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT)

int
rpma_mr_reg(struct rpma_peer *peer, void *ptr, size_t size, int usage,
	    struct rpma_mr_local **mr_ptr)
{
	if (!peer || !ptr || !size || !mr_ptr)
		return invalid("peer, ptr and mr_ptr must not be NULL, size not 0");
	if (!usage || usage & ~USAGE_ALL)
		return invalid("usage is %#x, which is none, or has unknown bits", (unsigned)usage);
	struct rpma_mr_local *region = malloc(sizeof(*region));
	if (!region)
		return RPMA_E_NOMEM;
	struct ibv_mr *mr = peer_reg(peer, ptr, size, usage);
	if (!mr) {
		int error = errno;
		free(region);
		(void)provider_failed("ibv_reg_mr", error);
		return RPMA_E_PROVIDER; /* also for ENOMEM, which is about limits */
	}
	*region = (struct rpma_mr_local){.mr = mr, .usage = usage};
	*mr_ptr = region;
	return 0;
}

int
rpma_mr_dereg(struct rpma_mr_local **mr_ptr)
{
	if (!mr_ptr)
		return invalid("mr_ptr must not be NULL");
	struct rpma_mr_local *region = *mr_ptr;
	if (!region)
		return 0;
	int error = ibv_dereg_mr(region->mr);
	if (error)
		return provider_failed("ibv_dereg_mr", error);
	free(region);
	*mr_ptr = NULL;
	return 0;
}

int
rpma_mr_get_descriptor_size(const struct rpma_mr_local *mr, size_t *desc_size)
{
	if (!mr || !desc_size)
		return invalid("mr and desc_size must not be NULL");
	*desc_size = DESCRIPTOR_SIZE;
	return 0;
}

int
rpma_mr_get_descriptor(const struct rpma_mr_local *mr, void *desc)
{
	if (!mr || !desc)
		return invalid("mr and desc must not be NULL");
	uint64_t address = htole64((uint64_t)(uintptr_t)mr->mr->addr);
	uint64_t size = htole64((uint64_t)mr->mr->length);
	uint32_t rkey = htole32(mr->mr->rkey);
	uint8_t *bytes = desc;
	memcpy(bytes, &address, 8);
	memcpy(bytes + 8, &size, 8);
	memcpy(bytes + 16, &rkey, 4);
	bytes[20] = (uint8_t)mr->usage;
	return 0;
}

int
rpma_mr_remote_from_descriptor(const void *desc, size_t desc_size, struct rpma_mr_remote **mr_ptr)
{
	const uint8_t *bytes = desc;
	struct rpma_mr_remote remote;
	if (!desc || !mr_ptr)
		return invalid("desc and mr_ptr must not be NULL");
	if (desc_size < DESCRIPTOR_SIZE)
		return invalid("a descriptor of a region has %d bytes, not %zu", DESCRIPTOR_SIZE,
			       desc_size);
	memcpy(&remote.address, bytes, 8);
	memcpy(&remote.size, bytes + 8, 8);
	memcpy(&remote.rkey, bytes + 16, 4);
	remote.address = le64toh(remote.address);
	remote.size = le64toh(remote.size);
	remote.rkey = le32toh(remote.rkey);
	remote.usage = bytes[20];
	if (!remote.usage)
		return invalid("the descriptor is of no region: its usage is none");
	struct rpma_mr_remote *region = malloc(sizeof(*region));
	if (!region)
		return RPMA_E_NOMEM;
	*region = remote;
	*mr_ptr = region;
	return 0;
}

int
rpma_mr_remote_delete(struct rpma_mr_remote **mr_ptr)
{
	if (!mr_ptr)
		return invalid("mr_ptr must not be NULL");
	free(*mr_ptr);
	*mr_ptr = NULL;
	return 0;
}

int
rpma_mr_get_ptr(const struct rpma_mr_local *mr, void **ptr)
{
	if (!mr || !ptr)
		return invalid("mr and ptr must not be NULL");
	*ptr = mr->mr->addr;
	return 0;
}

int
rpma_mr_get_size(const struct rpma_mr_local *mr, size_t *size)
{
	if (!mr || !size)
		return invalid("mr and size must not be NULL");
	*size = mr->mr->length;
	return 0;
}

int
rpma_mr_remote_get_size(const struct rpma_mr_remote *mr, size_t *size)
{
	if (!mr || !size)
		return invalid("mr and size must not be NULL");
	*size = (size_t)mr->size;
	return 0;
}

int
rpma_mr_remote_get_flush_type(const struct rpma_mr_remote *mr, int *flush_type)
{
	if (!mr || !flush_type)
		return invalid("mr and flush_type must not be NULL");
	*flush_type = mr->usage & USAGE_FLUSH;
	return 0;
}

int
rpma_mr_advise(struct rpma_mr_local *mr, size_t offset, size_t len, int advice, uint32_t flags)
{
	if (!mr)
		return invalid("mr must not be NULL");
	if (offset > mr->mr->length || len > mr->mr->length - offset || len > UINT32_MAX)
		return invalid("%zu bytes at %zu are not within the %zu of the region", len, offset,
			       mr->mr->length);
	struct ibv_sge range = {
		.addr = (uint64_t)(uintptr_t)mr->mr->addr + offset,
		.length = (uint32_t)len,
		.lkey = mr->mr->lkey,
	};
	int error = ibv_advise_mr(mr->mr->pd, (enum ibv_advise_mr_advice)advice, flags, &range, 1);
	if (!error)
		return 0;
	int ret = provider_failed("ibv_advise_mr", error);
	switch (error) {
	case EFAULT:
	case EINVAL:
		return RPMA_E_INVAL;
	case EOPNOTSUPP:
		return RPMA_E_NOSUPP;
	default:
		return ret;
	}
}
