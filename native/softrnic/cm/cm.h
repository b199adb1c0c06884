/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cm.h -- the connection manager: rdma_cm over TCP and MPA's handshake (RFC 5044, 6581).
 *
 * One lock, cm_lock, guards everything here: ids, channels, listeners and handshakes. Setting up
 * connections is not where the time goes, and nothing waits under it but on `changed`. It is not
 * held while the device is asked for something that may call back (qp_connect(), qp_disconnect(),
 * qp_forget_events()): an id is `busy` meanwhile, and does not go away.
 *
 * What a program must not do to an id from two threads at once with rdma-core, it must not here.
 */
#ifndef SOFTRNIC_CM_H
#define SOFTRNIC_CM_H

#include <errno.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "../device.h"
#include "../engine.h"
#include "../uncancelled.h"
#include "../wire.h"

/* Connections of one listener whose request is not complete or not yet told. */
#define HALF_OPEN_MAX 1024
/* Requests that a listener queues for its program; a default backlog means this many, too. */
#define BACKLOG_MAX 1024
/*
 * What depends on the network alone must be done by then: TCP's connection, the MPA request.
 * SOFTRNIC_HANDSHAKE_MS replaces it.
 */
#define HANDSHAKE_MS 10000
/* A peer whose host says nothing for so long is gone. SOFTRNIC_SILENCE_MS replaces it. */
#define SILENCE_MS 60000
/* What depends on the other side's program may take so many times as long. */
#define PROGRAM_FACTOR 6
/* A peer has that long to read why it was rejected. */
#define LINGER_MS 1000
/* How long a listener rests that is out of file descriptors or memory. */
#define REST_MS 100

/* What a struct rdma_cm_event can tell. */
#define PRIVATE_DATA_MAX UINT8_MAX

extern pthread_mutex_t cm_lock;

/* ---- events and their channels (events.c) ---- */

struct channel {
	struct rdma_event_channel channel; /* first; its fd counts the events in line */
	unsigned users;                    /* the program, and each id */
	struct event *first, **last;
};

struct event {
	struct rdma_cm_event event; /* first */
	uint8_t private_data[PRIVATE_DATA_MAX];
	struct cm_id *owner; /* of a connection request: the listener */
	struct event *next;
};

struct channel *channel_new(void);
void channel_get(struct channel *channel);
/* For an id or the program: the last one closes it. */
void channel_put(struct channel *channel);

/* NULL only when memory is out, and the id's spare event is used up. */
struct event *event_new(struct cm_id *owner, enum rdma_cm_event_type type, int status);
/* What the peer said, and what its words mean for this side. */
void event_set_conn(struct event *event, const struct mpa_frame *frame, unsigned ird, unsigned ord);
/* To the end of the line of its owner's channel. Takes NULL for an event that could not be made. */
void event_post(struct event *event);
void event_tell(struct cm_id *owner, enum rdma_cm_event_type type, int status);
/* Take an id's events out of its channel's line. */
struct event *events_withdraw(struct cm_id *owner);

/* ---- ids (id.c) ---- */

enum id_state {
	ID_IDLE,
	ID_BOUND,
	ID_ADDRESS_RESOLVED,
	ID_ROUTE_RESOLVED,
	ID_CONNECTING, /* active: until the event that tells how it went */
	ID_RESPONDED,  /* active, with a queue pair that is not the id's: until rdma_establish() */
	ID_LISTENING,
	ID_REQUESTED, /* passive: until the program accepts or rejects */
	ID_ACCEPTED,  /* passive: until the initiator's first FPDU has come */
	ID_CONNECTED,
	ID_DISCONNECTING, /* by the program: until the stream has ended */
	ID_OVER,          /* disconnected, rejected or failed: for good */
};

struct cm_id {
	struct rdma_cm_id id; /* first */
	enum id_state state;
	bool is_sync;
	unsigned busy; /* in use without the lock: not to be freed */
	pthread_cond_t changed;
	/* Events in line, and those that the program has got and not acknowledged. */
	unsigned queued, taken;
	struct event *spare;
	/* Before it is connected: */
	int fd; /* bound, not yet a link's or a listener's; or -1 */
	bool reuses_address, v6_only, has_tos, has_ack_timeout;
	uint8_t tos, ack_timeout;
	struct link *link; /* the handshake */
	struct listener *listener;
	/* Asked for, or by the peer; at most DEVICE_RD_ATOMIC_MAX. */
	uint8_t responder_resources, initiator_depth;
	/* When it is connected: */
	struct ibv_qp *qp; /* a reference; the program's own may be gone */
	uint16_t ird, ord;
	bool is_joining; /* in qp_connect(): what the stream tells is kept for later */
	bool is_established, has_ended;
	int64_t first_deadline; /* ACCEPTED: in line in first.c */
	struct cm_id *next_first, *previous_first;
	bool first_missed;
	/* rdma_create_ep() */
	struct ibv_qp_init_attr *qp_init_attr;
	void *connect_data;
	size_t connect_size;
};

static inline struct cm_id *
to_id(struct rdma_cm_id *id)
{
	return (struct cm_id *)id;
}

static inline int
failed_with(int error)
{
	errno = error;
	return -1;
}

/* 0, or -1 with errno: not in a child of the process that uses the device. */
int cm_usable(void);
/* Without a channel: see id_set_channel(). NULL with errno. */
struct cm_id *id_new(void *context, enum rdma_port_space port_space, enum ibv_qp_type qp_type);
/* What is neither connected, nor busy, nor in anybody's line. */
void id_free(struct cm_id *id);
/* To the queue pair, if there is one, which shall know it; TCP has its own idea of it. */
void id_tell_ack_timeout(struct cm_id *id);
/* NULL: a channel of its own, for synchronous calls. 0 or an errno. */
int id_set_channel(struct cm_id *id, struct channel *channel);
/* Bound to this device, the only one. 0 or an errno. */
int id_set_device(struct cm_id *id);
/* Synchronous: wait for the event that ends the call. 0, or -1 with errno. Without the lock. */
int id_complete(struct cm_id *id);
/* Wait until nobody uses it without the lock. */
void id_settle(struct cm_id *id);
/* Without the lock, between these two. */
void id_leave_lock(struct cm_id *id);
void id_take_lock(struct cm_id *id);

/* ---- addresses (address.c) ---- */

/* 0: of another family than IPv4 and IPv6. */
socklen_t address_size(const struct sockaddr *address);
bool address_is_any(const struct sockaddr *address);
bool address_is_same(const struct sockaddr *a, const struct sockaddr *b);
/* Whether it is an address of this machine. */
bool address_is_local(const struct sockaddr *address);
__be16 address_port(const struct sockaddr *address);
void address_set_port(struct sockaddr *address, __be16 port);
/* ::ffff:a.b.c.d, as a dual-stack socket says, to a.b.c.d. */
void address_unmap(struct sockaddr_storage *address);
/* Both gids, from the addresses of the route. */
void route_set_gids(struct rdma_route *route);
/* A TCP socket with the id's options, bound to this address; -1 with errno. */
int socket_bound(const struct cm_id *id, const struct sockaddr *address);
/* For a stream: at once, and not for ever silent. */
void socket_prepare(int fd);
void socket_set_tos(int fd, int family, uint8_t tos);

/* ---- handshakes (link.c) ---- */

enum link_phase {
	LINK_CONNECTING,     /* active: TCP's handshake */
	LINK_REFUSED,        /* active: to be tried again in a moment, or waiting for such a one */
	LINK_AWAITS_REPLY,   /* active */
	LINK_RESPONDED,      /* active: the program is to call rdma_establish() */
	LINK_AWAITS_REQUEST, /* passive */
	LINK_PARKED,         /* passive: the request is complete, the backlog full */
	LINK_REQUESTED,      /* passive: the program is to accept or reject */
	LINK_LINGERS,        /* rejected: until the peer has closed */
	LINK_DONE,           /* the socket is closed, or a queue pair's */
};

/* As often is a refused connect tried again, after 1, 2, 4... ms: for 63 ms in all. */
#define REFUSALS 6

/* A TCP connection, until it is given to a queue pair. */

struct link {
	struct source source; /* first */
	enum link_phase phase;
	struct cm_id *id;
	/* Half open, in its listener's list: */
	struct listener *listener;
	struct link *next, *previous;
	bool is_gone; /* the peer has closed */
	int64_t deadline;
	/* What it is to become a stream of: */
	uint32_t qp_num;
	bool is_qp_of_id;
	/* Active: */
	uint8_t revision;
	unsigned refusals;
	bool is_waiting; /* in the line of those that were refused, or came after them */
	struct link *next_waiting, *previous_waiting;
	struct mpa_frame request; /* what this side asks for; private data: own_data */
	uint8_t own_data[PRIVATE_DATA_MAX];
	/* The peer's frame, its private data in `in`. */
	struct mpa_frame peer;
	size_t frame_size, filled;
	uint8_t in[MPA_FRAME_MAX];
	/* Agreed: */
	bool crc;
	enum ready_to_receive rtr;
	bool acknowledges; /* the peer, by its answers to zero-length reads */
};

/* Takes the socket, which it closes if memory is out: NULL then. */
struct link *link_new(int fd);
/* Serve it, or other events; and not longer than so many milliseconds, 0: as long as it takes. */
int link_serve(struct link *link, uint32_t events, int64_t timeout_ms);
/* 1: the peer's frame is complete; 0: more to come; or minus an errno. */
int link_receive(struct link *link, bool expect_reply);
/* 0 or an errno. It fits into an empty socket buffer, or is not worth waiting for. */
int link_send(struct link *link, const struct mpa_frame *frame);
/* Its socket, no longer served; the caller's from here on. */
int link_take_fd(struct link *link);
void link_close(struct link *link);
/*
 * Say no, close once the peer has read it. The caller's reference goes. What is half open counts as
 * such until it is closed.
 */
void link_reject(struct link *link, const void *private_data, size_t size);
/*
 * There will be no connection: what is posted on the queue pair, if it is the id's own, is flushed.
 * Lets go of the lock in between.
 */
void link_give_up_qp(const struct link *link, struct cm_id *id);
/*
 * Give the connection to the queue pair with this number: it is the id's `qp` from here on. Lets go
 * of the lock in between. 0 or an errno, the connection being closed then.
 */
int link_join(struct link *link, uint32_t qp_num, bool awaits_first);
/* Whether to ask for CRCs: not within one host, where the memory has its own. */
bool link_wants_crc(const struct rdma_addr *address);
int64_t handshake_ms(void);
int64_t silence_ms(void);

/* ---- connecting (connect.c, accept.c, stream.c, first.c, listen.c) ---- */

/* The lower one of two numbers of reads, where there are two; one at least, the device's own. */
static inline uint16_t
rd_lower(unsigned own, unsigned other, unsigned not_given)
{
	if (other != not_given && other < own)
		own = other;
	return (uint16_t)(own ? own : 1);
}

/*
 * What rdma_connect() and rdma_accept() are given, checked; and the number of the queue pair, which
 * must be there, and ready for a connection when it comes to that. 0 or an errno.
 */
int conn_param_check(const struct cm_id *id, const struct rdma_conn_param *param, bool accepts,
		     uint32_t *qp_num);
/* Give up a handshake under way; the program does not hear of it. */
void connect_abandon(struct cm_id *id);
/* What link.c calls, with the lock, in the phases of the active and of the passive side. */
void connect_ready(struct link *link, uint32_t events);
void connect_expired(struct link *link);
void connect_leave_line(struct link *link);
void request_ready(struct link *link, uint32_t events);
void request_expired(struct link *link);

/* After link_join(): tell the program what the stream has told meanwhile. */
void stream_joined(struct cm_id *id);
/*
 * End the id's stream, without waiting. What the program has destroyed has ended already. Lets go
 * of the lock in between.
 */
void stream_end(struct cm_id *id);
void stream_established(void *argument);
void stream_ended(void *argument);

/* The initiator's first FPDU is due. */
void first_expect(struct cm_id *id);
void first_forget(struct cm_id *id);

struct listener {
	struct source source; /* first */
	struct cm_id *id;     /* NULL: closed */
	struct link *first, *last;
	unsigned half_open;
	unsigned backlog, queued; /* requests in the channel's line */
	bool rests;
};

void listener_close(struct listener *listener);
/* The program has got a request, or it was withdrawn: there is room for another one. */
void listener_took(struct listener *listener);
/* A link is no longer half open. */
void listener_leave(struct link *link);

#endif
