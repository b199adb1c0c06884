/* SPDX-License-Identifier: BSD-3-Clause */
/* address.c -- addresses: looked up, compared, bound; and the way to them. */
#include "cm.h"

#include <netdb.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what an address says ---- */

socklen_t
address_size(const struct sockaddr *address)
{
	if (address && address->sa_family == AF_INET)
		return sizeof(struct sockaddr_in);
	if (address && address->sa_family == AF_INET6)
		return sizeof(struct sockaddr_in6);
	return 0;
}

bool
address_is_any(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ((const struct sockaddr_in *)address)->sin_addr.s_addr == INADDR_ANY;
	return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

bool
address_is_same(const struct sockaddr *a, const struct sockaddr *b)
{
	if (a->sa_family != b->sa_family)
		return false;
	if (a->sa_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	return IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)a)->sin6_addr,
				  &((const struct sockaddr_in6 *)b)->sin6_addr);
}

bool
address_is_local(const struct sockaddr *address)
{
	struct sockaddr_storage any_port;
	socklen_t size = address_size(address);
	memcpy(&any_port, address, size);
	address_set_port((struct sockaddr *)&any_port, 0);
	int fd = socket(address->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	bool is_local = bind(fd, (struct sockaddr *)&any_port, size) == 0;
	uncancelled_close(fd);
	return is_local;
}

__be16
address_port(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ((const struct sockaddr_in *)address)->sin_port;
	if (address->sa_family == AF_INET6)
		return ((const struct sockaddr_in6 *)address)->sin6_port;
	return 0;
}

void
address_set_port(struct sockaddr *address, __be16 port)
{
	if (address->sa_family == AF_INET)
		((struct sockaddr_in *)address)->sin_port = port;
	else
		((struct sockaddr_in6 *)address)->sin6_port = port;
}

void
address_unmap(struct sockaddr_storage *address)
{
	struct sockaddr_in6 v6;
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	if (address->ss_family != AF_INET6)
		return;
	memcpy(&v6, address, sizeof(v6));
	if (!IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
		return;
	v4.sin_port = v6.sin6_port;
	memcpy(&v4.sin_addr, &v6.sin6_addr.s6_addr[12], sizeof(v4.sin_addr));
	memset(address, 0, sizeof(*address));
	memcpy(address, &v4, sizeof(v4));
}

static void
set_gid(union ibv_gid *gid, const struct sockaddr *address)
{
	memset(gid, 0, sizeof(*gid));
	if (address->sa_family == AF_INET) {
		gid->raw[10] = gid->raw[11] = 0xff;
		memcpy(&gid->raw[12], &((const struct sockaddr_in *)address)->sin_addr, 4);
	} else if (address->sa_family == AF_INET6) {
		memcpy(gid->raw, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
	}
}

void
route_set_gids(struct rdma_route *route)
{
	set_gid(&route->addr.addr.ibaddr.sgid, &route->addr.src_addr);
	set_gid(&route->addr.addr.ibaddr.dgid, &route->addr.dst_addr);
	route->addr.addr.ibaddr.pkey = htons(0xffff);
}

SOFTRNIC_EXPORT __be16
rdma_get_src_port(struct rdma_cm_id *id)
{
	return address_port(&id->route.addr.src_addr);
}

SOFTRNIC_EXPORT __be16
rdma_get_dst_port(struct rdma_cm_id *id)
{
	return address_port(&id->route.addr.dst_addr);
}

/* ---- binding ---- */

void
socket_set_tos(int fd, int family, uint8_t tos)
{
	int value = tos;
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value));
	else
		(void)setsockopt(fd, IPPROTO_IP, IP_TOS, &value, sizeof(value));
}

void
socket_prepare(int fd)
{
	int on = 1, limit = (int)silence_ms();
	int idle = limit / 2000 > 1 ? limit / 2000 : 1,
	    interval = limit / 6000 > 1 ? limit / 6000 : 1;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* A host that is gone says nothing: without this nobody would notice for a long time. */
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit));
}

/*
 * Without SO_REUSEADDR two ids cannot have one port, as it should be, but connections in TIME_WAIT
 * are in the way as well; with it they are not, and only two listeners conflict. So try both.
 */
static int
bind_port(int fd, const struct sockaddr *address, bool reuses)
{
	int on = 1;
	if (!reuses && bind(fd, address, address_size(address)) == 0)
		return 0;
	if (!reuses && errno != EADDRINUSE)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return -1;
	return bind(fd, address, address_size(address));
}

int
socket_bound(const struct cm_id *id, const struct sockaddr *address)
{
	int family = address->sa_family, v6_only = id->v6_only;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	socket_prepare(fd);
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only));
	if (id->has_tos)
		socket_set_tos(fd, family, id->tos);
	if (bind_port(fd, address, id->reuses_address)) {
		int failure = errno;
		uncancelled_close(fd);
		return failed_with(failure);
	}
	engine_close_in_child(fd);
	return fd;
}

/* 0 or an errno. With the lock. */
static int
bind_id(struct cm_id *id, const struct sockaddr *address)
{
	struct rdma_addr *own = &id->id.route.addr;
	socklen_t size = sizeof(own->src_storage);
	int fd = socket_bound(id, address);
	if (fd < 0)
		return errno;
	id->fd = fd;
	memcpy(&own->src_storage, address, address_size(address));
	(void)getsockname(fd, &own->src_addr, &size);
	return 0;
}

SOFTRNIC_EXPORT int
rdma_bind_addr(struct rdma_cm_id *public, struct sockaddr *address)
{
	struct cm_id *id = to_id(public);
	if (cm_usable())
		return -1;
	if (!address_size(address))
		return failed_with(EINVAL);
	pthread_mutex_lock(&cm_lock);
	int ret = id->state == ID_IDLE ? bind_id(id, address) : EINVAL;
	if (!ret)
		id->state = ID_BOUND;
	pthread_mutex_unlock(&cm_lock);
	if (!ret && !address_is_any(address))
		ret = id_set_device(id);
	if (!ret)
		route_set_gids(&id->id.route);
	return ret ? failed_with(ret) : 0;
}

/* ---- the way to an address ---- */

/*
 * Ask the routing tables: a datagram socket that is connected sends nothing, but has a source.
 * Fills in both addresses of the route, except for the ports. 0 or an errno.
 */
static int
find_route(struct rdma_addr *route, const struct sockaddr *source, const struct sockaddr *target)
{
	struct sockaddr_storage from, to;
	socklen_t size = address_size(target), from_size = sizeof(from), to_size = sizeof(to);
	int ret = 0;
	int fd = socket(target->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	memcpy(&to, target, size);
	address_set_port((struct sockaddr *)&to, htons(9)); /* any one will do, 0 would not */
	if (source) {
		memcpy(&from, source, size);
		address_set_port((struct sockaddr *)&from, 0);
	}
	if ((source && bind(fd, (struct sockaddr *)&from, size) < 0) ||
	    uncancelled_connect(fd, (struct sockaddr *)&to, size) < 0 ||
	    getsockname(fd, (struct sockaddr *)&from, &from_size) < 0 ||
	    getpeername(fd, (struct sockaddr *)&to, &to_size) < 0)
		ret = errno;
	uncancelled_close(fd);
	if (ret)
		return ret;
	address_set_port((struct sockaddr *)&from, address_port(&route->src_addr));
	address_set_port((struct sockaddr *)&to, address_port(target));
	memcpy(&route->src_storage, &from, sizeof(from));
	memcpy(&route->dst_storage, &to, sizeof(to));
	return 0;
}

/* 0 or an errno: what the event will say. With the lock. */
static int
resolve(struct cm_id *id, const struct sockaddr *target)
{
	struct rdma_addr *route = &id->id.route.addr;
	bool is_bound = id->state == ID_BOUND;
	bool has_source = is_bound && !address_is_any(&route->src_addr);
	struct rdma_addr found = *route;
	int ret = find_route(&found, has_source ? &route->src_addr : NULL, target);
	if (!ret && !is_bound)
		ret = bind_id(id, &found.src_addr);
	if (ret)
		return ret;
	__be16 port = address_port(&route->src_addr);
	*route = found;
	address_set_port(&route->src_addr, port);
	route_set_gids(&id->id.route);
	id->state = ID_ADDRESS_RESOLVED;
	return 0;
}

SOFTRNIC_EXPORT int
rdma_resolve_addr(struct rdma_cm_id *public, struct sockaddr *source, struct sockaddr *target,
		  int timeout_ms)
{
	struct cm_id *id = to_id(public);
	(void)timeout_ms; /* it takes none */
	if (cm_usable())
		return -1;
	if (!address_size(target) || (source && !address_size(source)))
		return failed_with(EINVAL);
	pthread_mutex_lock(&cm_lock);
	int ret = 0;
	if (id->state != ID_IDLE && id->state != ID_BOUND)
		ret = EINVAL;
	if (!ret && id->state == ID_IDLE && source) {
		ret = bind_id(id, source);
		if (!ret)
			id->state = ID_BOUND;
	}
	if (!ret && id->state == ID_BOUND &&
	    id->id.route.addr.src_addr.sa_family != target->sa_family)
		ret = EINVAL;
	pthread_mutex_unlock(&cm_lock);
	if (ret)
		return failed_with(ret);

	int status = id_set_device(id);
	pthread_mutex_lock(&cm_lock);
	if (!status)
		status = resolve(id, target);
	event_tell(id, status ? RDMA_CM_EVENT_ADDR_ERROR : RDMA_CM_EVENT_ADDR_RESOLVED, -status);
	pthread_mutex_unlock(&cm_lock);
	return id_complete(id);
}

SOFTRNIC_EXPORT int
rdma_resolve_route(struct rdma_cm_id *public, int timeout_ms)
{
	struct cm_id *id = to_id(public);
	(void)timeout_ms;
	if (cm_usable())
		return -1;
	pthread_mutex_lock(&cm_lock);
	bool may = id->state == ID_ADDRESS_RESOLVED;
	if (may) {
		/* TCP finds its way by itself. */
		id->state = ID_ROUTE_RESOLVED;
		event_tell(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
	}
	pthread_mutex_unlock(&cm_lock);
	return may ? id_complete(id) : failed_with(EINVAL);
}

/* ---- names ---- */

static int
copy_address(struct sockaddr **out, socklen_t *out_size, const struct sockaddr *address,
	     socklen_t size)
{
	*out = malloc(size);
	if (!*out)
		return failed_with(ENOMEM);
	memcpy(*out, address, size);
	*out_size = size;
	return 0;
}

/* As hints for getaddrinfo(). */
static struct addrinfo
hints_of(const struct rdma_addrinfo *hints)
{
	struct addrinfo result = {.ai_family = hints->ai_family};
	if (hints->ai_flags & RAI_PASSIVE)
		result.ai_flags |= AI_PASSIVE;
	if (hints->ai_flags & RAI_NUMERICHOST)
		result.ai_flags |= AI_NUMERICHOST;
	if (hints->ai_qp_type)
		result.ai_socktype = hints->ai_qp_type == IBV_QPT_UD ? SOCK_DGRAM : SOCK_STREAM;
	if (hints->ai_port_space == RDMA_PS_TCP)
		result.ai_protocol = IPPROTO_TCP;
	else if (hints->ai_port_space == RDMA_PS_UDP || hints->ai_port_space == RDMA_PS_IPOIB)
		result.ai_protocol = IPPROTO_UDP;
	return result;
}

/* 0, -1 with errno, or what getaddrinfo() returns. */
static int
look_up(const char *node, const char *service, const struct rdma_addrinfo *hints,
	struct rdma_addrinfo *out)
{
	struct addrinfo plain = hints_of(hints), *found;
	int ret = getaddrinfo(node, service, &plain, &found);
	if (ret)
		return ret;
	bool is_udp = found->ai_protocol == IPPROTO_UDP;
	out->ai_family = found->ai_family;
	out->ai_qp_type = hints->ai_qp_type;
	if (!out->ai_qp_type)
		out->ai_qp_type = is_udp ? IBV_QPT_UD : IBV_QPT_RC;
	out->ai_port_space = hints->ai_port_space;
	if (!out->ai_port_space)
		out->ai_port_space = is_udp ? RDMA_PS_UDP : RDMA_PS_TCP;
	if (hints->ai_flags & RAI_PASSIVE) {
		out->ai_flags = RAI_PASSIVE;
		ret = copy_address(&out->ai_src_addr, &out->ai_src_len, found->ai_addr,
				   found->ai_addrlen);
	} else {
		ret = copy_address(&out->ai_dst_addr, &out->ai_dst_len, found->ai_addr,
				   found->ai_addrlen);
	}
	freeaddrinfo(found);
	return ret;
}

SOFTRNIC_EXPORT int
rdma_getaddrinfo(const char *node, const char *service, const struct rdma_addrinfo *hints,
		 struct rdma_addrinfo **out)
{
	static const struct rdma_addrinfo no_hints;
	if (!node && !service && !hints)
		return failed_with(EINVAL);
	struct rdma_addrinfo *result = calloc(1, sizeof(*result));
	if (!result)
		return failed_with(ENOMEM);
	int ret = 0;
	if (!hints)
		hints = &no_hints;
	if (node || service) {
		ret = look_up(node, service, hints, result);
	} else {
		result->ai_flags = hints->ai_flags;
		result->ai_family = hints->ai_family;
		result->ai_qp_type = hints->ai_qp_type;
		result->ai_port_space = hints->ai_port_space;
		if (hints->ai_dst_len)
			ret = copy_address(&result->ai_dst_addr, &result->ai_dst_len,
					   hints->ai_dst_addr, hints->ai_dst_len);
	}
	if (!ret && !result->ai_src_len && hints->ai_src_len)
		ret = copy_address(&result->ai_src_addr, &result->ai_src_len, hints->ai_src_addr,
				   hints->ai_src_len);
	if (ret) {
		int failure = errno;
		rdma_freeaddrinfo(result);
		errno = failure;
		return ret;
	}
	*out = result;
	return 0;
}

SOFTRNIC_EXPORT void
rdma_freeaddrinfo(struct rdma_addrinfo *list)
{
	while (list) {
		struct rdma_addrinfo *next = list->ai_next;
		free(list->ai_connect);
		free(list->ai_route);
		free(list->ai_src_canonname);
		free(list->ai_dst_canonname);
		free(list->ai_src_addr);
		free(list->ai_dst_addr);
		free(list);
		list = next;
	}
}
