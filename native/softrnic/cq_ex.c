/* SPDX-License-Identifier: BSD-3-Clause */
/* cq_ex.c -- extended completion queues: a completion at a time, its fields read by functions. */
#include "softrnic.h"

#include <errno.h>

static struct cq *
of_ex(struct ibv_cq_ex *ex)
{
	return container_of(ex, struct cq, ex);
}

/* Where there is a completion, the queue is this thread's, with what is read of it, up to end_poll.
 */
static int
start_poll(struct ibv_cq_ex *ex, struct ibv_poll_cq_attr *attr)
{
	struct cq *cq = of_ex(ex);
	if (attr->comp_mask)
		return EINVAL;
	if (engine_usable())
		return EPERM; /* a forked child: a lock may be held by nobody that lives */
	if (cq->is_single_threaded)
		return cq_take_one(cq);
	pthread_mutex_lock(&cq->poll_lock);
	int ret = cq_take_one(cq);
	if (ret)
		pthread_mutex_unlock(&cq->poll_lock);
	return ret;
}

static int
next_poll(struct ibv_cq_ex *ex)
{
	return cq_take_one(of_ex(ex));
}

static void
end_poll(struct ibv_cq_ex *ex)
{
	struct cq *cq = of_ex(ex);
	if (!cq->is_single_threaded && !engine_usable())
		pthread_mutex_unlock(&cq->poll_lock);
}

static enum ibv_wc_opcode
read_opcode(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.opcode;
}

static uint32_t
read_vendor_err(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.vendor_err;
}

static uint32_t
read_byte_len(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.byte_len;
}

static __be32
read_imm_data(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.imm_data;
}

static uint32_t
read_qp_num(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.qp_num;
}

static uint32_t
read_src_qp(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.src_qp;
}

static unsigned int
read_wc_flags(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.wc_flags;
}

static uint32_t
read_slid(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.slid;
}

static uint8_t
read_sl(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.sl;
}

static uint8_t
read_dlid_path_bits(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current.dlid_path_bits;
}

static uint64_t
read_completion_ts(struct ibv_cq_ex *ex)
{
	return of_ex(ex)->current_time;
}

struct ibv_cq_ex *
create_cq_ex(struct ibv_context *context, struct ibv_cq_init_attr_ex *attr)
{
	const uint64_t supported = IBV_WC_STANDARD_FLAGS | IBV_WC_EX_WITH_COMPLETION_TIMESTAMP;
	if (attr->wc_flags & ~supported ||
	    attr->comp_mask & ~(uint32_t)(IBV_CQ_INIT_ATTR_MASK_FLAGS) ||
	    (attr->comp_mask & IBV_CQ_INIT_ATTR_MASK_FLAGS &&
	     attr->flags & ~(uint32_t)IBV_CREATE_CQ_ATTR_SINGLE_THREADED)) {
		errno = EOPNOTSUPP;
		return NULL;
	}
	if (attr->comp_vector >= (uint32_t)context->num_comp_vectors) {
		errno = EINVAL;
		return NULL;
	}
	struct ibv_cq *ibv_cq = cq_new(context, (int)attr->cqe, attr->cq_context, attr->channel);
	if (!ibv_cq)
		return NULL;
	struct cq *cq = container_of(ibv_cq, struct cq, ibv);
	cq->is_single_threaded = attr->comp_mask & IBV_CQ_INIT_ATTR_MASK_FLAGS &&
				 attr->flags & IBV_CREATE_CQ_ATTR_SINGLE_THREADED;
	struct ibv_cq_ex *ex = &cq->ex;
	ex->start_poll = start_poll;
	ex->next_poll = next_poll;
	ex->end_poll = end_poll;
	ex->read_opcode = read_opcode;
	ex->read_vendor_err = read_vendor_err;
	ex->read_byte_len = read_byte_len;
	ex->read_imm_data = read_imm_data;
	ex->read_qp_num = read_qp_num;
	ex->read_src_qp = read_src_qp;
	ex->read_wc_flags = read_wc_flags;
	ex->read_slid = read_slid;
	ex->read_sl = read_sl;
	ex->read_dlid_path_bits = read_dlid_path_bits;
	ex->read_completion_ts = read_completion_ts;
	return ex;
}
