/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wc_opcodes.h -- what a native flush and a native atomic write complete as. The headers of
 * rdma-core name them since releases 45 and 44, in an enum, which cannot be asked for. They are the
 * kernel's (enum ib_uverbs_wc_opcode): a program that was built with older headers meets them too.
 */
#ifndef WC_OPCODES_H
#define WC_OPCODES_H

#include <infiniband/verbs.h>

#define IBV_WC_FLUSH 8
#define IBV_WC_ATOMIC_WRITE 9

#endif
