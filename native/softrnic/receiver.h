/* SPDX-License-Identifier: BSD-3-Clause */
/* receiver.h -- what receiver.c and control.c share. With rx.lock, all of it. */
#ifndef SOFTRNIC_RECEIVER_H
#define SOFTRNIC_RECEIVER_H

#include "softrnic.h"

/* The most pieces of regions that payload goes to at a time. */
#define PIECES 8

/* How it goes on. STALL: a receive is lacking; BROKEN: not at all. */
enum verdict { CONTINUE, NEED_MORE, STALL, BROKEN };

/* End the connection, with a Terminate about the FPDU at hand. */
enum verdict refuse(struct qp *qp, uint16_t error);
/* ... about one that could not even be read. */
enum verdict refuse_bytes(struct qp *qp, uint16_t error);
/* ... about a violation of this side's memory: the program is told, too. */
enum verdict refuse_access(struct qp *qp, uint16_t error, const struct read_request *read);

/* The next receive, into rx.receive. False: there is none. */
bool take_receive(struct qp *qp);
void complete_receive(struct qp *qp, enum ibv_wc_status status, struct ibv_wc *wc, bool solicited);
/* Copy. An aligned word appears as a whole: atomic writes rely on it. */
void place(void *to, const uint8_t *from, uint32_t size);

/* ---- control.c ---- */

bool control_is(uint8_t opcode);
bool control_size_ok(const struct fpdu_head *head);
/* One whose size is right, if the buffer has all of it; behind its header of that size. */
enum verdict control_handle(struct qp *qp, uint32_t head_size);

#endif
