/* SPDX-License-Identifier: BSD-3-Clause */
/* absent_test.c -- what each call that is not there answers; for docs/softrnic.md's table. */
#include "cm_test.h"

#include <infiniband/verbs.h>
#include <rdma/rsocket.h>

/* Of rdma-core's drivers and of its own other libraries. */
void ibv_register_driver(const char *name, void *init);
void ibv_copy_ah_attr_from_kern(void *to, void *from);
void ibv_copy_qp_attr_from_kern(void *to, void *from);
void ibv_copy_path_rec_from_kern(void *to, void *from);
void ibv_copy_path_rec_to_kern(void *to, void *from);
int ibv_dontfork_range(void *base, size_t size);
int ibv_dofork_range(void *base, size_t size);

/* Private symbols, of one of their versions. */
int gid_type_of(struct ibv_context *context, uint8_t port, unsigned index, int *type);
__asm__(".symver gid_type_of, ibv_query_gid_type@IBVERBS_PRIVATE_44");
int cmd_alloc_pd(void);
__asm__(".symver cmd_alloc_pd, ibv_cmd_alloc_pd@IBVERBS_PRIVATE_44");
void *open_by_name(void);
__asm__(".symver open_by_name, verbs_open_device@IBVERBS_PRIVATE_44");
int read_ibdev_file(void);
__asm__(".symver read_ibdev_file, ibv_read_ibdev_sysfs_file@IBVERBS_PRIVATE_44");

static const char *
name_of(int number)
{
	const char *name = strerrorname_np(number);
	return name ? name : "no error";
}

#define SAY_POINTER(name, ...)                                                                     \
	do {                                                                                       \
		errno = 0;                                                                         \
		const void *got = (const void *)name(__VA_ARGS__);                                 \
		printf("%s|%s, %s\n", #name, got ? "something" : "NULL", name_of(errno));          \
	} while (0)

#define SAY_MINUS_1(name, ...)                                                                     \
	do {                                                                                       \
		errno = 0;                                                                         \
		long got = (long)name(__VA_ARGS__);                                                \
		printf("%s|%ld, %s\n", #name, got, name_of(errno));                                \
	} while (0)

#define SAY_ERRNO(name, ...) printf("%s|%s\n", #name, name_of(name(__VA_ARGS__)))
#define SAY_ZERO(name, ...) printf("%s|%d: there is nothing to do\n", #name, name(__VA_ARGS__))
#define SAY_NOTHING(name, ...)                                                                     \
	do {                                                                                       \
		name(__VA_ARGS__);                                                                 \
		printf("%s|nothing, and do nothing\n", #name);                                     \
	} while (0)

/* None of these is looked at. */
static struct ibv_ah_attr ah_attr;
static struct ibv_wc wc;
static struct ibv_grh grh;
static union ibv_gid gid;
static uint8_t mac[6];
static uint16_t vlan;
static struct ibv_ece ece = {.vendor_id = 1};
static char kernels[256], ours[256];

static void
say_pointers(struct ibv_context *verbs, struct ibv_pd *pd, struct ibv_qp *qp)
{
	SAY_POINTER(ibv_create_ah, pd, &ah_attr);
	SAY_POINTER(ibv_create_ah_from_wc, pd, &wc, &grh, 1);
	SAY_POINTER(ibv_import_device, -1);
	SAY_POINTER(ibv_import_pd, verbs, 1);
	SAY_POINTER(ibv_import_mr, pd, 1);
	SAY_POINTER(ibv_import_dm, verbs, 1);
	SAY_POINTER(ibv_reg_dmabuf_mr, pd, 0, 8, 0, 0, 0);
	SAY_POINTER(ibv_alloc_mw, pd, IBV_MW_TYPE_1);
	SAY_POINTER(ibv_alloc_dm, verbs, &(struct ibv_alloc_dm_attr){.length = 8});
	SAY_POINTER(ibv_reg_dm_mr, pd, &(struct ibv_dm){.context = verbs}, 0, 8, 0);
	SAY_POINTER(ibv_alloc_null_mr, pd);
	SAY_POINTER(ibv_alloc_td, verbs, &(struct ibv_td_init_attr){0});
	SAY_POINTER(ibv_alloc_parent_domain, verbs,
		    &(struct ibv_parent_domain_init_attr){.pd = pd});
	SAY_POINTER(ibv_open_xrcd, verbs, &(struct ibv_xrcd_init_attr){0});
	SAY_POINTER(ibv_open_qp, verbs, &(struct ibv_qp_open_attr){.qp_num = qp->qp_num});
	SAY_POINTER(ibv_create_wq, verbs, &(struct ibv_wq_init_attr){.pd = pd});
	SAY_POINTER(ibv_create_rwq_ind_table, verbs, &(struct ibv_rwq_ind_table_init_attr){0});
	SAY_POINTER(ibv_create_flow, qp, &(struct ibv_flow_attr){.port = 1});
	SAY_POINTER(ibv_create_flow_action_esp, verbs, &(struct ibv_flow_action_esp_attr){0});
	SAY_POINTER(ibv_create_counters, verbs, &(struct ibv_counters_init_attr){0});
}

static void
say_numbers(struct rdma_cm_id *id, struct ibv_qp *qp)
{
	struct ibv_context *verbs = id->verbs;
	union address group = address_of("224.0.0.9", 0);
	struct rdma_cm_join_mc_attr_ex join = {.addr = &group.any};
	struct ibv_modify_cq_attr cq_attr = {.attr_mask = IBV_CQ_ATTR_MODERATE};
	struct ibv_qp_rate_limit_attr limit = {.rate_limit = 1};
	struct ibv_values_ex values = {.comp_mask = IBV_VALUES_MASK_RAW_CLOCK};
	struct ibv_srq srq = {.context = verbs};
	struct ibv_ops_wr op = {0}, *bad_op;
	SAY_MINUS_1(ibv_init_ah_from_wc, verbs, 1, &wc, &grh, &ah_attr);
	SAY_MINUS_1(ibv_resolve_eth_l2_from_gid, verbs, &ah_attr, mac, &vlan);
	SAY_MINUS_1(rdma_join_multicast, id, &group.any, NULL);
	SAY_MINUS_1(rdma_join_multicast_ex, id, &join, NULL);
	SAY_MINUS_1(rdma_leave_multicast, id, &group.any);
	SAY_MINUS_1(rsocket, AF_INET, SOCK_STREAM, 0);
	SAY_ERRNO(ibv_destroy_ah, &(struct ibv_ah){.context = verbs});
	SAY_ERRNO(ibv_attach_mcast, qp, &gid, 0);
	SAY_ERRNO(ibv_detach_mcast, qp, &gid, 0);
	SAY_ERRNO(ibv_set_ece, qp, &ece);
	SAY_ERRNO(ibv_query_ece, qp, &ece);
	SAY_ERRNO(ibv_modify_cq, qp->send_cq, &cq_attr);
	SAY_ERRNO(ibv_modify_qp_rate_limit, qp, &limit);
	SAY_ERRNO(ibv_query_rt_values_ex, verbs, &values);
	SAY_ERRNO(ibv_post_srq_ops, &srq, &op, &bad_op);
	SAY_ZERO(ibv_query_qp_data_in_order, qp, IBV_WR_SEND, 0);
	SAY_ZERO(ibv_fork_init);
	SAY_ZERO(ibv_dontfork_range, ours, sizeof(ours));
	SAY_ZERO(ibv_dofork_range, ours, sizeof(ours));
	SAY_ZERO(rdma_notify, id, IBV_EVENT_COMM_EST);
	id->qp = NULL; /* before there is one */
	SAY_ZERO(rdma_set_local_ece, id, &ece);
	SAY_ZERO(rdma_get_remote_ece, id, &ece);
	id->qp = qp;
	SAY_NOTHING(ibv_unimport_pd, id->pd);
	SAY_NOTHING(ibv_unimport_mr, &(struct ibv_mr){.context = verbs});
	SAY_NOTHING(ibv_unimport_dm, &(struct ibv_dm){.context = verbs});
}

static void
say_conversions(void)
{
	memset(ours, 7, sizeof(ours));
	SAY_NOTHING(ibv_register_driver, "none", NULL);
	SAY_NOTHING(ibv_copy_ah_attr_from_kern, ours, kernels);
	SAY_NOTHING(ibv_copy_qp_attr_from_kern, ours, kernels);
	SAY_NOTHING(ibv_copy_path_rec_from_kern, ours, kernels);
	SAY_NOTHING(ibv_copy_path_rec_to_kern, ours, kernels);
	for (size_t i = 0; i < sizeof(ours); i++)
		CHECK(ours[i], 7);
}

static void
check_private_symbols(struct ibv_context *verbs)
{
	int type = 7;
	CHECK(gid_type_of(verbs, 1, 0, &type), 0);
	CHECK(type, 0); /* IB/RoCE v1, as the kernel says of ports that have no RoCE */
	CHECK_FAILS(gid_type_of(verbs, 2, 0, &type), EINVAL);
	CHECK_FAILS(gid_type_of(verbs, 1, 1, &type), ENODATA);
	CHECK(cmd_alloc_pd(), EOPNOTSUPP);
	errno = 0;
	CHECK(open_by_name() == NULL, 1);
	CHECK(errno, EOPNOTSUPP);
	CHECK_FAILS(read_ibdev_file(), EOPNOTSUPP);
}

static void
check_rsockets(void)
{
	char bytes[8];
	CHECK_FAILS(rclose(3), EBADF);
	CHECK_FAILS(rconnect(3, NULL, 0), EBADF);
	CHECK_FAILS(rrecv(3, bytes, sizeof(bytes), 0), EBADF);
	CHECK_FAILS(rwrite(3, bytes, sizeof(bytes)), EBADF);
	CHECK_FAILS(rfcntl(3, 1), EBADF);
	CHECK_FAILS(riomap(3, bytes, sizeof(bytes), 0, 0, 0), EBADF);
}

static void
check_lookups_that_fail(struct ibv_context *verbs)
{
	union ibv_gid found;
	__be16 key;
	CHECK_FAILS(ibv_query_gid(verbs, 1, 1, &found), EINVAL);
	CHECK_FAILS(ibv_query_pkey(verbs, 1, 1, &key), EINVAL);
	CHECK_FAILS(ibv_get_pkey_index(verbs, 1, htons(0x1234)), EINVAL);
	CHECK_FAILS(ibv_get_pkey_index(verbs, 2, htons(0xffff)), EINVAL);
}

int
main(void)
{
	struct pair pair = new_pair("127.0.0.1");
	struct rdma_cm_id *id = pair.active;
	say_pointers(id->verbs, id->pd, id->qp);
	say_numbers(id, id->qp);
	say_conversions();
	check_private_symbols(id->verbs);
	check_rsockets();
	check_lookups_that_fail(id->verbs);
	check_traffic(pair.active, pair.passive);
	destroy_pair(&pair);
	if (failures)
		report();
	return failures != 0;
}
