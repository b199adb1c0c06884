/* SPDX-License-Identifier: BSD-3-Clause */
/* library.c -- which librpma the dynamic linker picked, and what it says of itself. */
#include "binding.h"

#include <dlfcn.h>
#include <rdma/rdma_cma.h>

/* No release of librpma exports these two, which librpma(7) describes. */
extern const char *rpma_check_version(unsigned major, unsigned minor) __attribute__((weak));
extern const char *rpma_errormsg(void) __attribute__((weak));

/* Which rpma's own normal build exports, and the debug build does not. */
extern const char rpma_is_normal_build __attribute__((weak));

static const char *
path_of(void *symbol)
{
	Dl_info info;
	return symbol && dladdr(symbol, &info) ? info.dli_fname : "";
}

const char *
rpmapy_library_path(void)
{
	return path_of((void *)(uintptr_t)rpma_peer_new);
}

const char *
rpmapy_ibverbs_path(void)
{
	return path_of((void *)(uintptr_t)ibv_get_device_list);
}

const char *
rpmapy_rdmacm_path(void)
{
	return path_of((void *)(uintptr_t)rdma_event_str);
}

bool
rpmapy_has_check_version(void)
{
	return rpma_check_version != NULL;
}

bool
rpmapy_is_debug_build(void)
{
	return rpma_check_version && rpma_errormsg && !&rpma_is_normal_build;
}

bool
rpmapy_has_errormsg(void)
{
	return rpma_errormsg != NULL;
}

const char *
rpmapy_check_version(unsigned major, unsigned minor)
{
	return rpma_check_version ? rpma_check_version(major, minor) : NULL;
}

const char *
rpmapy_err_2str(int code)
{
	return rpma_err_2str(code);
}

const char *
rpmapy_conn_event_2str(int event)
{
	return rpma_utils_conn_event_2str((enum rpma_conn_event)event);
}

const char *
rpmapy_wc_status_2str(int status)
{
	return ibv_wc_status_str((enum ibv_wc_status)status);
}
