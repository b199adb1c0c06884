/* SPDX-License-Identifier: BSD-3-Clause */
/* peer.c -- devices, and peers: the protection domains of their memory and connections. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

int
address_find(const char *addr, const char *port, bool is_passive, struct rdma_addrinfo **found)
{
	struct rdma_addrinfo hints = {
		.ai_flags = is_passive ? RAI_PASSIVE : 0,
		.ai_qp_type = IBV_QPT_RC,
		.ai_port_space = RDMA_PS_TCP,
	};
	if (rdma_getaddrinfo(addr, port, &hints, found)) {
		int error = errno;
		say_error("the address %s%s%s was not found", addr, port ? " port " : "",
			  port ? port : "");
		return error == ENOMEM ? RPMA_E_NOMEM : RPMA_E_PROVIDER;
	}
	return 0;
}

int
rpma_utils_get_ibv_context(const char *addr, enum rpma_util_ibv_context_type type,
			   struct ibv_context **ibv_ctx_ptr)
{
	struct rdma_addrinfo *info;
	struct rdma_cm_id *id;
	if (!addr || !ibv_ctx_ptr)
		return invalid("addr and ibv_ctx_ptr must not be NULL");
	if (type != RPMA_UTIL_IBV_CONTEXT_LOCAL && type != RPMA_UTIL_IBV_CONTEXT_REMOTE)
		return invalid("type is %d, which is neither local nor remote", (int)type);
	bool is_local = type == RPMA_UTIL_IBV_CONTEXT_LOCAL;
	int ret = address_find(addr, NULL, is_local, &info);
	if (ret)
		return ret;
	if (rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP)) {
		ret = provider_failed("rdma_create_id", errno);
		goto free_info;
	}
	if (is_local ? rdma_bind_addr(id, info->ai_src_addr)
		     : rdma_resolve_addr(id, info->ai_src_addr, info->ai_dst_addr,
					 RPMA_DEFAULT_TIMEOUT_MS)) {
		ret = provider_failed(is_local ? "rdma_bind_addr" : "rdma_resolve_addr", errno);
	} else if (!id->verbs) {
		say_error("no device has the address %s", addr); /* a wildcard */
		ret = RPMA_E_PROVIDER;
	} else {
		*ibv_ctx_ptr = id->verbs;
	}
	(void)rdma_destroy_id(id);
free_info:
	rdma_freeaddrinfo(info);
	return ret;
}

int
rpma_utils_ibv_context_is_odp_capable(struct ibv_context *ibv_ctx, int *is_odp_capable)
{
	struct ibv_device_attr_ex attributes = {0};
	if (!ibv_ctx || !is_odp_capable)
		return invalid("ibv_ctx and is_odp_capable must not be NULL");
	int error = ibv_query_device_ex(ibv_ctx, NULL, &attributes);
	if (error)
		return provider_failed("ibv_query_device_ex", error);
	uint32_t needed = IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
	*is_odp_capable = (attributes.odp_caps.general_caps & IBV_ODP_SUPPORT) &&
			  (attributes.odp_caps.per_transport_caps.rc_odp_caps & needed) == needed;
	return 0;
}

int
rpma_peer_new(struct ibv_context *ibv_ctx, struct rpma_peer **peer_ptr)
{
	int is_odp_capable = 0;
	if (!ibv_ctx || !peer_ptr)
		return invalid("ibv_ctx and peer_ptr must not be NULL");
	int ret = rpma_utils_ibv_context_is_odp_capable(ibv_ctx, &is_odp_capable);
	if (ret)
		return ret;
	struct rpma_peer *peer = malloc(sizeof(*peer));
	if (!peer)
		return RPMA_E_NOMEM;
	errno = 0;
	struct ibv_pd *pd = ibv_alloc_pd(ibv_ctx);
	if (!pd) {
		int error = errno;
		free(peer);
		ret = provider_failed("ibv_alloc_pd", error);
		return error ? ret : RPMA_E_UNKNOWN;
	}
	*peer = (struct rpma_peer){
		.pd = pd,
		.is_iwarp = ibv_ctx->device->transport_type == IBV_TRANSPORT_IWARP,
		.is_odp_capable = is_odp_capable,
	};
	*peer_ptr = peer;
	return 0;
}

int
rpma_peer_delete(struct rpma_peer **peer_ptr)
{
	if (!peer_ptr)
		return invalid("peer_ptr must not be NULL");
	struct rpma_peer *peer = *peer_ptr;
	if (!peer)
		return 0;
	int error = ibv_dealloc_pd(peer->pd);
	if (error)
		return provider_failed("ibv_dealloc_pd", error);
	free(peer);
	*peer_ptr = NULL;
	return 0;
}

int
peer_access(const struct rpma_peer *peer, int usage)
{
	int access = 0;
	/* A flush without the device's own is a read of the region. */
	if (usage & (RPMA_MR_USAGE_READ_SRC | RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY |
		     RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT))
		access |= IBV_ACCESS_REMOTE_READ;
	if (usage & RPMA_MR_USAGE_READ_DST)
		access |= IBV_ACCESS_LOCAL_WRITE |
			  (peer->is_iwarp ? IBV_ACCESS_REMOTE_WRITE : 0); /* RFC 5040, 5.2.1 */
	if (usage & RPMA_MR_USAGE_WRITE_DST)
		access |= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	if (usage & (RPMA_MR_USAGE_WRITE_SRC | RPMA_MR_USAGE_RECV))
		access |= IBV_ACCESS_LOCAL_WRITE;
	return access;
}

struct ibv_mr *
peer_reg(const struct rpma_peer *peer, void *ptr, size_t size, int usage)
{
	int access = peer_access(peer, usage);
	struct ibv_mr *mr = ibv_reg_mr(peer->pd, ptr, size, access);
	if (!mr && errno == EOPNOTSUPP && peer->is_odp_capable)
		mr = ibv_reg_mr(peer->pd, ptr, size, access | IBV_ACCESS_ON_DEMAND);
	return mr;
}
