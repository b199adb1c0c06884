/* SPDX-License-Identifier: BSD-3-Clause */
/* device.c -- RDMA devices: which there are, which one an address belongs to, what it can do. */
#include "binding.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/*
 * Devices opened before a fork are shared with the child through their file descriptors, and the
 * kernel refuses them there in ways that are hard to read. 0: none opened yet.
 */
static _Atomic unsigned opened_in_generation;

/* 0, or RPMAPY_E_FORKED in a child of the process that opened devices. */
int
device_usable(void)
{
	unsigned current = handle_generation() + 1;
	unsigned expected = 0;
	if (atomic_compare_exchange_strong(&opened_in_generation, &expected, current)) {
		/*
		 * Where the kernel does not copy registered pages at fork, mark them instead. Only
		 * there: a forked child does not have the marked pages at all, nor what else of the
		 * heap is on them. What this answers is nothing to stop for: a program that never
		 * forks needs none of it.
		 */
		if (ibv_is_fork_initialized() != IBV_FORK_UNNEEDED)
			(void)ibv_fork_init();
		return 0;
	}
	return expected == current ? 0 : RPMAPY_E_FORKED;
}

/* The names of all devices, one a line. Returns how many there are, or -1 with errno set. */
int
rpmapy_device_names(char *names, size_t size)
{
	int count = 0;
	errno = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	if (!devices)
		return errno == ENOSYS ? 0 : -1; /* ENOSYS: no RDMA in this kernel */
	size_t used = 0;
	names[0] = '\0';
	for (int i = 0; i < count; i++) {
		int added = snprintf(names + used, size - used, "%s\n",
				     ibv_get_device_name(devices[i]));
		if (added < 0 || (size_t)added >= size - used)
			break;
		used += (size_t)added;
	}
	ibv_free_device_list(devices);
	return count;
}

int
rpmapy_device_for_address(const char *address, int side, bool is_second_attempt,
			  struct ibv_context **context)
{
	struct attempt attempt;
	int ret = device_usable();
	if (ret)
		return ret;
	*context = NULL;
	attempt_begin(&attempt, is_second_attempt);
	ret = rpma_utils_get_ibv_context(address, (enum rpma_util_ibv_context_type)side, context);
	return attempt_end(&attempt, ret);
}

const char *
rpmapy_device_name(struct ibv_context *context)
{
	return ibv_get_device_name(context->device);
}

/* 0, RPMAPY_E_FORKED, or an errno. */
int
rpmapy_device_attributes(struct ibv_context *context, struct rpmapy_device_attributes *out)
{
	struct ibv_device_attr device;
	struct ibv_port_attr port;
	int ret = device_usable();
	if (ret)
		return ret;
	memset(&port, 0, sizeof(port));
	ret = ibv_query_device(context, &device);
	if (!ret)
		ret = ibv_query_port(context, 1, &port);
	if (ret)
		return ret > 0 ? ret : errno;
	memset(out, 0, sizeof(*out));
	out->node_guid = be64toh(device.node_guid);
	out->max_memory_region_size = device.max_mr_size;
	out->max_message_size = port.max_msg_sz;
	out->max_queue_size = device.max_qp_wr;
	out->max_completion_queue_size = device.max_cqe;
	out->transport = context->device->transport_type;
	out->link_layer = port.link_layer;
	out->port_state = port.state;
	memcpy(out->firmware, device.fw_ver, sizeof(out->firmware) - 1);
	return 0;
}

int
rpmapy_device_is_odp_capable(struct ibv_context *context, int *capable)
{
	int ret = device_usable();
	if (ret)
		return ret;
	call_begin();
	return rpma_utils_ibv_context_is_odp_capable(context, capable);
}
