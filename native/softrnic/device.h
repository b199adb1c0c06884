/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device.h -- what the connection manager (librdmacm.so.1) needs of the device (libibverbs.so.1).
 *
 * These functions are exported under the version SOFTRNIC_1, for that one user.
 */
#ifndef SOFTRNIC_DEVICE_H
#define SOFTRNIC_DEVICE_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The most inbound and outbound RDMA Reads and atomics of one queue pair. */
#define DEVICE_RD_ATOMIC_MAX 128

/* The context that all ids of this process share; opened once. NULL with errno on failure. */
struct ibv_context *device_shared_context(void);

/* The protection domain of an id without one, one per process; never deallocated. */
struct ibv_pd *device_shared_pd(void);

/* An empty reference-counted look-up: the queue pair with this number, or NULL. qp_put() it. */
struct ibv_qp *qp_find(uint32_t qp_num);
void qp_put(struct ibv_qp *qp);

enum ready_to_receive { RTR_NONE, RTR_SEND, RTR_WRITE, RTR_READ };

/* What a stream's life means to the connection manager. Called on any thread, without locks. */
struct stream_events {
	void *argument;
	/* Once: the responder has got the initiator's first FPDU (only where awaits_first). */
	void (*established)(void *argument);
	/* Once: the peer has disconnected, or the connection is lost. Nothing follows. */
	void (*ended)(void *argument);
};

struct stream_setup {
	int fd;                    /* connected, non-blocking: the queue pair's from here on */
	bool crc;                  /* negotiated */
	uint16_t ird, ord;         /* the most inbound and outbound reads; at least 1 each */
	enum ready_to_receive rtr; /* initiator: what to send first; RTR_NONE: nothing */
	bool acknowledges;         /* the peer answers zero-length reads at any time */
	bool awaits_first;         /* responder: send nothing before the first FPDU has come */
	const uint8_t *received;   /* what came behind the last handshake frame; copied */
	size_t received_size;
	struct stream_events events;
};

/*
 * Give the queue pair its stream: it goes to RTS. An errno, the fd then being the caller's still:
 * EINVAL where the queue pair is not in INIT, RTR or RTS without a stream.
 */
int qp_connect(struct ibv_qp *qp, const struct stream_setup *setup);

/*
 * To the error state: everything posted is flushed, the peer sees the end of the stream behind
 * what was sent. `ended` follows when the peer has closed too, within a second. No error if it is
 * there already, or has no stream (then `ended` does not follow).
 */
void qp_disconnect(struct ibv_qp *qp);

/*
 * No events for this argument from here on, none still running when this returns: the id goes away,
 * and the queue pair may serve another one by now. Not to be called from within an event.
 */
void qp_forget_events(struct ibv_qp *qp, const void *argument);

#endif
