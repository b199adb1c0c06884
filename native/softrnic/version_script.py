# SPDX-License-Identifier: BSD-3-Clause
"""Write the version script of libibverbs.so.1, and C for the private symbols that it lists.

Programs of perftest are linked with the providers' libraries (libmlx5, libefa), which ask for
libibverbs's private symbols when they are loaded, under a version that changes with rdma-core's
releases. Hardly one of them is called here, as no provider is registered with this device; pyverbs
calls ibv_query_gid_type.
"""

from __future__ import annotations

import sys
from pathlib import Path

#: The versions of the public symbols, each following the one before.
PUBLIC: dict[str, str] = {
    "1.0": """ibv_copy_path_rec_from_kern ibv_copy_path_rec_to_kern ibv_copy_qp_attr_from_kern
        ibv_create_comp_channel ibv_destroy_comp_channel ibv_get_sysfs_path ibv_rate_to_mult
        ibv_read_sysfs_file mult_to_ibv_rate""",
    "1.1": """ibv_ack_async_event ibv_ack_cq_events ibv_alloc_pd ibv_attach_mcast ibv_close_device
        ibv_copy_ah_attr_from_kern ibv_create_ah ibv_create_ah_from_wc ibv_create_cq ibv_create_qp
        ibv_create_srq ibv_dealloc_pd ibv_dereg_mr ibv_destroy_ah ibv_destroy_cq ibv_destroy_qp
        ibv_destroy_srq ibv_detach_mcast ibv_dofork_range ibv_dontfork_range ibv_event_type_str
        ibv_fork_init ibv_free_device_list ibv_get_async_event ibv_get_cq_event ibv_get_device_guid
        ibv_get_device_list ibv_get_device_name ibv_init_ah_from_wc ibv_modify_qp ibv_modify_srq
        ibv_node_type_str ibv_open_device ibv_port_state_str ibv_query_device ibv_query_gid
        ibv_query_pkey ibv_query_port ibv_query_qp ibv_query_srq ibv_rate_to_mbps ibv_reg_mr
        ibv_register_driver ibv_rereg_mr ibv_resize_cq ibv_resolve_eth_l2_from_gid
        ibv_wc_status_str mbps_to_ibv_rate""",
    "1.5": "ibv_get_pkey_index",
    "1.6": "ibv_qp_to_qp_ex",
    "1.7": "ibv_reg_mr_iova",
    "1.8": "ibv_reg_mr_iova2",
    "1.9": "ibv_get_device_index",
    "1.10": """ibv_import_device ibv_import_mr ibv_import_pd ibv_query_ece ibv_set_ece
        ibv_unimport_mr ibv_unimport_pd""",
    "1.11": "_ibv_query_gid_ex _ibv_query_gid_table",
    "1.12": "ibv_reg_dmabuf_mr",
    "1.13": "ibv_import_dm ibv_is_fork_initialized ibv_unimport_dm",
    "1.14": "ibv_query_qp_data_in_order",
}

#: For librdmacm.so.1 beside it, for who counts objects, and for the debug build of librpma.
INTERNAL = """crc32c crc32c_matches crc32c_put device_shared_context device_shared_pd engine_add
    engine_change engine_close_in_child engine_forget_fd engine_now engine_remove
    engine_set_deadline engine_is_lost engine_refuse mpa_decode mpa_encode qp_connect qp_disconnect
    qp_find qp_forget_events qp_put softrnic_count softrnic_watch_memory source_get source_init
    source_put"""

#: What providers' libraries of rdma-core 24 to 60 ask for.
PRIVATE = """__ioctl_final_num_attrs __verbs_log _verbs_init_and_alloc_context execute_ioctl
    ibv_cmd_advise_mr ibv_cmd_alloc_dm ibv_cmd_alloc_dmah ibv_cmd_alloc_mw ibv_cmd_alloc_pd
    ibv_cmd_attach_mcast ibv_cmd_close_xrcd ibv_cmd_create_ah ibv_cmd_create_counters
    ibv_cmd_create_cq ibv_cmd_create_cq_ex ibv_cmd_create_cq_ex2 ibv_cmd_create_flow
    ibv_cmd_create_flow_action_esp ibv_cmd_create_qp ibv_cmd_create_qp_ex ibv_cmd_create_qp_ex2
    ibv_cmd_create_rwq_ind_table ibv_cmd_create_srq ibv_cmd_create_srq_ex ibv_cmd_create_wq
    ibv_cmd_dealloc_mw ibv_cmd_dealloc_pd ibv_cmd_dereg_mr ibv_cmd_destroy_ah
    ibv_cmd_destroy_counters ibv_cmd_destroy_cq ibv_cmd_destroy_flow ibv_cmd_destroy_flow_action
    ibv_cmd_destroy_qp ibv_cmd_destroy_rwq_ind_table ibv_cmd_destroy_srq ibv_cmd_destroy_wq
    ibv_cmd_detach_mcast ibv_cmd_free_dm ibv_cmd_free_dmah ibv_cmd_get_context ibv_cmd_modify_cq
    ibv_cmd_modify_flow_action_esp ibv_cmd_modify_qp ibv_cmd_modify_qp_ex ibv_cmd_modify_srq
    ibv_cmd_modify_wq ibv_cmd_open_qp ibv_cmd_open_xrcd ibv_cmd_poll_cq ibv_cmd_post_recv
    ibv_cmd_post_send ibv_cmd_post_srq_recv ibv_cmd_query_context ibv_cmd_query_device_any
    ibv_cmd_query_device_ex ibv_cmd_query_mr ibv_cmd_query_port ibv_cmd_query_qp
    ibv_cmd_query_srq ibv_cmd_read_counters ibv_cmd_reg_dm_mr ibv_cmd_reg_dmabuf_mr ibv_cmd_reg_mr
    ibv_cmd_reg_mr_ex ibv_cmd_req_notify_cq ibv_cmd_rereg_mr ibv_cmd_resize_cq ibv_query_gid_type
    ibv_read_ibdev_sysfs_file verbs_allow_disassociate_destroy verbs_init_cq verbs_open_device
    verbs_set_ops verbs_uninit_context"""

PRIVATE_VERSIONS = range(22, 70)


def script() -> str:
    """The version script."""
    lines = []
    previous = ""
    for version, names in PUBLIC.items():
        lines.append(f"IBVERBS_{version} {{\n  global: {'; '.join(names.split())};")
        if not previous:
            lines.append("  local: *;")
        lines.append(f"}} {previous};")
        previous = f"IBVERBS_{version}"
    lines.append(f"SOFTRNIC_1 {{\n  global: {'; '.join(INTERNAL.split())};\n}};")
    lines += [f"IBVERBS_PRIVATE_{version} {{ }};" for version in PRIVATE_VERSIONS]
    return "\n".join(lines) + "\n"


#: C, each for the private symbols that it serves; what nobody has a reason to call says so.
ANSWERS = """/* Made by version_script.py. */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdbool.h>

int query_gid_type(struct ibv_context *context, uint8_t port, unsigned index, int *type);

int softrnic_gid_type(struct ibv_context *context, uint8_t port, unsigned index, int *type);
int softrnic_gid_type(struct ibv_context *context, uint8_t port, unsigned index, int *type)
{
    return query_gid_type(context, port, index, type);
}

int softrnic_errno(void);
int softrnic_errno(void) { return EOPNOTSUPP; }

int softrnic_minus_1(void);
int softrnic_minus_1(void) { errno = EOPNOTSUPP; return -1; }

void *softrnic_null(void);
void *softrnic_null(void) { errno = EOPNOTSUPP; return NULL; }

unsigned softrnic_nothing(void);
unsigned softrnic_nothing(void) { return 0; }

extern bool softrnic_false;
bool softrnic_false;
"""

#: All others are like rdma-core's ibv_cmd_*(): they return an errno.
ANSWER_OF = {
    "ibv_query_gid_type": "softrnic_gid_type",
    "ibv_read_ibdev_sysfs_file": "softrnic_minus_1",
    "_verbs_init_and_alloc_context": "softrnic_null",
    "verbs_open_device": "softrnic_null",
    "__ioctl_final_num_attrs": "softrnic_nothing",
    "__verbs_log": "softrnic_nothing",
    "verbs_init_cq": "softrnic_nothing",
    "verbs_set_ops": "softrnic_nothing",
    "verbs_uninit_context": "softrnic_nothing",
    "verbs_allow_disassociate_destroy": "softrnic_false",
}


def source() -> str:
    """C that gives each private symbol each of the versions."""
    lines = [ANSWERS]
    names = {name: ANSWER_OF.get(name, "softrnic_errno") for name in PRIVATE.split()}
    for version in PRIVATE_VERSIONS:
        of_version = names | {f"verbs_register_driver_{version}": "softrnic_nothing"}
        for name, answer in of_version.items():
            alias = f"softrnic_{version}_{name}"
            lines.append(
                f"extern __typeof__({answer}) {alias} "
                f'__attribute__((alias("{answer}"), visibility("default")));'
            )
            lines.append(f'__asm__(".symver {alias},{name}@IBVERBS_PRIVATE_{version}");')
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both files."""
    script_file, source_file = sys.argv[1:]
    Path(script_file).write_text(script())
    Path(source_file).write_text(source())


if __name__ == "__main__":
    main()
