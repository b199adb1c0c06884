/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * unsupported.c -- calls of libibverbs for what this device does not have: address handles,
 * multicast, imports, ECE; and those that only configure a kernel device.
 */
#include "uncancelled.h"

#include <infiniband/verbs.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static void *
nothing(void)
{
	errno = EOPNOTSUPP;
	return NULL;
}

/* ---- address handles and multicast: for datagrams ---- */

struct ibv_ah *
ibv_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr)
{
	(void)pd, (void)attr;
	return nothing();
}

struct ibv_ah *
ibv_create_ah_from_wc(struct ibv_pd *pd, struct ibv_wc *wc, struct ibv_grh *grh, uint8_t port)
{
	(void)pd, (void)wc, (void)grh, (void)port;
	return nothing();
}

int
ibv_init_ah_from_wc(struct ibv_context *context, uint8_t port, struct ibv_wc *wc,
		    struct ibv_grh *grh, struct ibv_ah_attr *attr)
{
	(void)context, (void)port, (void)wc, (void)grh, (void)attr;
	errno = EOPNOTSUPP;
	return -1;
}

int
ibv_destroy_ah(struct ibv_ah *ah)
{
	(void)ah;
	return EOPNOTSUPP;
}

int
ibv_resolve_eth_l2_from_gid(struct ibv_context *context, struct ibv_ah_attr *attr,
			    uint8_t eth_mac[6], uint16_t *vid)
{
	(void)context, (void)attr, (void)eth_mac, (void)vid;
	errno = EOPNOTSUPP;
	return -1;
}

int
ibv_attach_mcast(struct ibv_qp *qp, const union ibv_gid *gid, uint16_t lid)
{
	(void)qp, (void)gid, (void)lid;
	return EOPNOTSUPP;
}

int
ibv_detach_mcast(struct ibv_qp *qp, const union ibv_gid *gid, uint16_t lid)
{
	(void)qp, (void)gid, (void)lid;
	return EOPNOTSUPP;
}

/* ---- objects of other processes ---- */

struct ibv_context *
ibv_import_device(int cmd_fd)
{
	(void)cmd_fd;
	return nothing();
}

struct ibv_pd *
ibv_import_pd(struct ibv_context *context, uint32_t handle)
{
	(void)context, (void)handle;
	return nothing();
}

void
ibv_unimport_pd(struct ibv_pd *pd)
{
	(void)pd;
}

struct ibv_mr *
ibv_import_mr(struct ibv_pd *pd, uint32_t handle)
{
	(void)pd, (void)handle;
	return nothing();
}

void
ibv_unimport_mr(struct ibv_mr *mr)
{
	(void)mr;
}

struct ibv_dm *
ibv_import_dm(struct ibv_context *context, uint32_t handle)
{
	(void)context, (void)handle;
	return nothing();
}

void
ibv_unimport_dm(struct ibv_dm *dm)
{
	(void)dm;
}

/* ---- enhanced connection establishment ---- */

int
ibv_set_ece(struct ibv_qp *qp, struct ibv_ece *ece)
{
	(void)qp, (void)ece;
	return EOPNOTSUPP;
}

int
ibv_query_ece(struct ibv_qp *qp, struct ibv_ece *ece)
{
	(void)qp, (void)ece;
	return EOPNOTSUPP;
}

int
ibv_query_qp_data_in_order(struct ibv_qp *qp, enum ibv_wr_opcode opcode, uint32_t flags)
{
	(void)qp, (void)opcode, (void)flags;
	return 0;
}

/* ---- fork: this device's memory is the process's, nothing needs marking ---- */

int
ibv_fork_init(void)
{
	return 0;
}

enum ibv_fork_status
ibv_is_fork_initialized(void)
{
	return IBV_FORK_UNNEEDED;
}

int
ibv_dontfork_range(void *base, size_t size)
{
	(void)base, (void)size;
	return 0;
}

int
ibv_dofork_range(void *base, size_t size)
{
	(void)base, (void)size;
	return 0;
}

/* ---- files of the kernel's devices ---- */

const char *
ibv_get_sysfs_path(void)
{
	return "/sys";
}

int
ibv_read_sysfs_file(const char *folder, const char *file, char *buffer, size_t size)
{
	char path[512];
	if (snprintf(path, sizeof(path), "%s/%s", folder, file) >= (int)sizeof(path) || !size) {
		errno = EINVAL;
		return -1;
	}
	int fd = uncancelled_open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t length = uncancelled_read(fd, buffer, size);
	uncancelled_close(fd);
	if (length > 0 && buffer[length - 1] == '\n')
		buffer[--length] = '\0';
	else if (length >= 0 && (size_t)length < size)
		buffer[length] = '\0';
	return (int)length;
}

void
ibv_register_driver(const char *name, void *init)
{
	(void)name, (void)init;
}

/* ---- conversions between the kernel's structures and these: only a kernel device has them ---- */

void
ibv_copy_ah_attr_from_kern(void *to, void *from)
{
	(void)to, (void)from;
}

void
ibv_copy_qp_attr_from_kern(void *to, void *from)
{
	(void)to, (void)from;
}

void
ibv_copy_path_rec_from_kern(void *to, void *from)
{
	(void)to, (void)from;
}

void
ibv_copy_path_rec_to_kern(void *to, void *from)
{
	(void)to, (void)from;
}
