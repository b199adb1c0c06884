/* SPDX-License-Identifier: BSD-3-Clause */
/* device.c -- the one device: found, opened, queried. */
#include "softrnic.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* For the private symbol ibv_query_gid_type (version_script.py). */
int query_gid_type(struct ibv_context *context, uint8_t port, unsigned index, int *type);

#define DEVICE_NAME "softrnic0"
#define FIRMWARE "0.1.0"

static struct ibv_device device = {
	.node_type = IBV_NODE_RNIC,
	.transport_type = IBV_TRANSPORT_IWARP,
	.name = DEVICE_NAME,
	.dev_name = "uverbs-softrnic0",
	.dev_path = "/sys/class/infiniband_verbs/uverbs-softrnic0",
	.ibdev_path = "/sys/class/infiniband/" DEVICE_NAME,
};

/* The same for all processes of a machine, and another on the next. */
static uint64_t
node_guid(void)
{
	static _Atomic uint64_t known;
	uint64_t guid = atomic_load(&known);
	if (guid)
		return guid;
	char bytes[128] = "";
	int fd = uncancelled_open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || uncancelled_read(fd, bytes, sizeof(bytes) - 1) <= 0)
		(void)gethostname(bytes, sizeof(bytes) - 1);
	if (fd >= 0)
		uncancelled_close(fd);
	guid = 0xcbf29ce484222325u; /* FNV-1a */
	for (const char *c = bytes; *c; c++)
		guid = (guid ^ (unsigned char)*c) * 0x100000001b3u;
	/* Locally administered, unicast. */
	guid = (guid & ~(3ull << 56)) | 2ull << 56;
	atomic_store(&known, guid);
	return guid;
}

struct ibv_device **
ibv_get_device_list(int *count)
{
	struct ibv_device **list = calloc(2, sizeof(*list));
	if (!list) {
		errno = ENOMEM;
		return NULL;
	}
	list[0] = &device;
	if (count)
		*count = 1;
	return list;
}

void
ibv_free_device_list(struct ibv_device **list)
{
	free(list);
}

const char *
ibv_get_device_name(struct ibv_device *which)
{
	return which ? which->name : NULL;
}

__be64
ibv_get_device_guid(struct ibv_device *which)
{
	(void)which;
	return htobe64(node_guid());
}

int
ibv_get_device_index(struct ibv_device *which)
{
	(void)which;
	return 0;
}

/* ---- queries ---- */

int
ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	(void)context;
	*attr = (struct ibv_device_attr){
		.fw_ver = FIRMWARE,
		.node_guid = htobe64(node_guid()),
		.sys_image_guid = htobe64(node_guid()),
		.max_mr_size = UINT64_MAX >> 1,
		.page_size_cap = 0xfffff000,
		.vendor_id = 0xffffff,
		.max_qp = 65536,
		.max_qp_wr = MAX_QUEUE,
		.max_sge = MAX_SGE,
		.max_sge_rd = MAX_SGE,
		.max_cq = 65536,
		.max_cqe = MAX_CQE,
		.max_mr = 1 << 24,
		.max_pd = 1 << 16,
		.max_qp_rd_atom = DEVICE_RD_ATOMIC_MAX,
		.max_res_rd_atom = DEVICE_RD_ATOMIC_MAX * 65536,
		.max_qp_init_rd_atom = DEVICE_RD_ATOMIC_MAX,
		.atomic_cap = IBV_ATOMIC_GLOB,
		.max_srq = 65536,
		.max_srq_wr = MAX_QUEUE,
		.max_srq_sge = MAX_SGE,
		.max_pkeys = 1,
		.phys_port_cnt = 1,
	};
	return 0;
}

static int
query_device_ex(struct ibv_context *context, const struct ibv_query_device_ex_input *input,
		struct ibv_device_attr_ex *attr, size_t size)
{
	if (input && input->comp_mask)
		return EINVAL;
	if (size < sizeof(attr->orig_attr))
		return EINVAL;
	/* On-demand paging, timestamps and the rest: absent, which zero says. */
	memset(attr, 0, size);
	int ret = ibv_query_device(context, &attr->orig_attr);
	if (!ret && size >= offsetof(struct ibv_device_attr_ex, phys_port_cnt_ex) +
				    sizeof(attr->phys_port_cnt_ex))
		attr->phys_port_cnt_ex = 1;
	return ret;
}

static void
port_attributes(struct ibv_port_attr *attr)
{
	*attr = (struct ibv_port_attr){
		.state = IBV_PORT_ACTIVE,
		.max_mtu = IBV_MTU_4096,
		.active_mtu = IBV_MTU_4096,
		.gid_tbl_len = 1,
		.port_cap_flags = IBV_PORT_CM_SUP,
		.max_msg_sz = MAX_MESSAGE,
		.pkey_tbl_len = 1,
		.active_width = 2,
		.active_speed = 32,
		.phys_state = 5,
		.link_layer = IBV_LINK_LAYER_ETHERNET,
	};
}

static int
query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr, size_t size)
{
	struct ibv_port_attr whole;
	(void)context;
	if (port != 1)
		return EINVAL;
	port_attributes(&whole);
	memcpy(attr, &whole, size < sizeof(whole) ? size : sizeof(whole));
	return 0;
}

#undef ibv_query_port
int
ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr)
{
	/* What programs of old know of it ends before the link layer's successor fields. */
	return query_port(context, port, (struct ibv_port_attr *)attr,
			  offsetof(struct ibv_port_attr, port_cap_flags2));
}

static void
gid_of_device(union ibv_gid *gid)
{
	memset(gid, 0, sizeof(*gid));
	gid->global.subnet_prefix = htobe64(0xfe80000000000000u);
	gid->global.interface_id = htobe64(node_guid());
}

int
ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	(void)context;
	if (port != 1 || index != 0) {
		errno = EINVAL;
		return -1;
	}
	gid_of_device(gid);
	return 0;
}

int
_ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index,
		  struct ibv_gid_entry *entry, uint32_t flags, size_t size)
{
	(void)context;
	if (port != 1 || flags || size != sizeof(*entry))
		return EINVAL;
	if (index)
		return ENODATA;
	memset(entry, 0, sizeof(*entry));
	entry->port_num = port;
	entry->gid_type = IBV_GID_TYPE_IB;
	gid_of_device(&entry->gid);
	return 0;
}

ssize_t
_ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
		     uint32_t flags, size_t size)
{
	if (!max)
		return -EINVAL;
	int ret = _ibv_query_gid_ex(context, 1, 0, entries, flags, size);
	return ret ? -ret : 1;
}

/* What the kernel says of an iWARP port's, which has no RoCE. 0, or -1 with errno. */
int
query_gid_type(struct ibv_context *context, uint8_t port, unsigned index, int *type)
{
	struct ibv_gid_entry entry;
	int ret = _ibv_query_gid_ex(context, port, index, &entry, 0, sizeof(entry));
	if (ret) {
		errno = ret;
		return -1;
	}
	*type = 0; /* IBV_GID_TYPE_SYSFS_IB_ROCE_V1 of rdma-core's driver.h */
	return 0;
}

int
ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey)
{
	(void)context;
	if (port != 1 || index) {
		errno = EINVAL;
		return -1;
	}
	*pkey = htobe16(0xffff);
	return 0;
}

int
ibv_get_pkey_index(struct ibv_context *context, uint8_t port, __be16 pkey)
{
	(void)context;
	if (port == 1 && pkey == htobe16(0xffff))
		return 0;
	errno = EINVAL;
	return -1;
}

/* ---- contexts ---- */

static struct ibv_mw *
alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type)
{
	(void)pd, (void)type;
	errno = EOPNOTSUPP;
	return NULL;
}

struct ibv_context *
ibv_open_device(struct ibv_device *which)
{
	int ret = engine_usable();
	struct context *context = ret ? NULL : calloc(1, sizeof(*context));
	if (!context) {
		errno = ret ? ret : ENOMEM;
		return NULL;
	}
	struct verbs_context *verbs = &context->verbs;
	struct ibv_context *ibv = &verbs->context;
	verbs->sz = sizeof(*verbs);
	verbs->query_port = query_port;
	verbs->query_device_ex = query_device_ex;
	verbs->create_cq_ex = create_cq_ex;
	verbs->create_qp_ex = create_qp_ex;
	verbs->create_srq_ex = create_srq_ex;
	verbs->get_srq_num = get_srq_num;
	verbs->advise_mr = advise_mr;
	ibv->device = which;
	ibv->ops.poll_cq = poll_cq;
	ibv->ops.req_notify_cq = req_notify_cq;
	ibv->ops.post_send = post_send;
	ibv->ops.post_recv = post_recv;
	ibv->ops.post_srq_recv = post_srq_recv;
	ibv->ops.alloc_mw = alloc_mw;
	ibv->cmd_fd = -1;
	ibv->num_comp_vectors = 1;
	ibv->abi_compat = __VERBS_ABI_IS_EXTENDED;
	ibv->async_fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
	if (ibv->async_fd < 0) {
		free(context);
		return NULL;
	}
	pthread_mutex_init(&ibv->mutex, NULL);
	pthread_mutex_init(&context->lock, NULL);
	return ibv;
}

void
context_free(struct context *context)
{
	uncancelled_close(context->verbs.context.async_fd);
	pthread_mutex_destroy(&context->verbs.context.mutex);
	pthread_mutex_destroy(&context->lock);
	free(context);
}

/* As with a kernel's, a thread that waits for an asynchronous event goes on waiting. */
int
ibv_close_device(struct ibv_context *ibv)
{
	struct context *context = container_of(ibv, struct context, verbs.context);
	bool has_users = false;
	if (!engine_usable()) { /* in a forked child the lock may be held by nobody that lives */
		pthread_mutex_lock(&context->lock);
		context->is_closed = true;
		has_users = context->users;
		pthread_mutex_unlock(&context->lock);
	}
	if (!has_users)
		context_free(context);
	return 0;
}

/* ---- for the connection manager ---- */

static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;

SOFTRNIC_EXPORT struct ibv_context *
device_shared_context(void)
{
	static struct ibv_context *shared;
	pthread_mutex_lock(&shared_lock);
	if (!shared)
		shared = ibv_open_device(&device);
	pthread_mutex_unlock(&shared_lock);
	return shared;
}

SOFTRNIC_EXPORT struct ibv_pd *
device_shared_pd(void)
{
	static struct ibv_pd *shared;
	struct ibv_context *context = device_shared_context();
	pthread_mutex_lock(&shared_lock);
	if (!shared && context) {
		shared = ibv_alloc_pd(context);
		if (shared)
			object_count(OBJECT_PD, -1); /* it is for good: no leak */
	}
	pthread_mutex_unlock(&shared_lock);
	return shared;
}
