/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * example_twins.c -- the other side of each of examples/, as the programs of librpma's makers are:
 * what a connection's private data says, how long things are, and who ends the connection.
 *
 *	example_twins target EXAMPLE ADDRESS PORT
 *	example_twins initiator EXAMPLE ADDRESS PORT
 */
#include <arpa/inet.h>
#include <librpma.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KILOBYTE 1024
#define NAME_SIZE 32
#define NUMBER 0xCAFEu
#define ROUNDS 3
#define DONE UINT64_MAX
#define CONTEXT 0xF01Du

#define CHECK(call)                                                                                \
	do {                                                                                       \
		int checked = (call);                                                              \
		if (checked) {                                                                     \
			fprintf(stderr, "line %d: %s: %d\n", __LINE__, #call, checked);            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* What the examples in C have as private data. */
struct offer {
	uint16_t offset;
	uint8_t descriptor_size, peer_descriptor_size;
	char descriptors[24];
};

/* The log of atomic writes. */
struct log {
	char signature[8];
	uint64_t end;
	char data[KILOBYTE];
};

static char memory[2 * KILOBYTE] __attribute__((aligned(4096)));
static char buffer[2 * KILOBYTE] __attribute__((aligned(4096)));
static struct rpma_peer *peer;
static struct rpma_conn *conn;
static struct rpma_mr_local *region, *messages;

static struct rpma_mr_local *
registered(void *ptr, size_t size, int usage)
{
	struct rpma_mr_local *mr = NULL;
	CHECK(rpma_mr_reg(peer, ptr, size, usage, &mr));
	return mr;
}

static struct offer
offered(const struct rpma_mr_local *mr, size_t offset, bool with_peer)
{
	struct offer offer = {.offset = (uint16_t)offset};
	size_t size = 0;
	CHECK(rpma_mr_get_descriptor_size(mr, &size));
	CHECK(rpma_mr_get_descriptor(mr, offer.descriptors));
	offer.descriptor_size = (uint8_t)size;
	if (with_peer) {
		struct rpma_peer_cfg *cfg = NULL;
		CHECK(rpma_peer_cfg_new(&cfg));
		CHECK(rpma_peer_cfg_get_descriptor(cfg, offer.descriptors + size));
		CHECK(rpma_peer_cfg_get_descriptor_size(cfg, &size));
		offer.peer_descriptor_size = (uint8_t)size;
		CHECK(rpma_peer_cfg_delete(&cfg));
	}
	return offer;
}

static struct rpma_mr_remote *
taken(struct offer *offer)
{
	struct rpma_conn_private_data data;
	struct rpma_mr_remote *mr = NULL;
	CHECK(rpma_conn_get_private_data(conn, &data));
	CHECK(data.ptr == NULL || data.len < sizeof(*offer));
	memcpy(offer, data.ptr, sizeof(*offer));
	CHECK(rpma_mr_remote_from_descriptor(offer->descriptors, offer->descriptor_size, &mr));
	return mr;
}

static void
event(enum rpma_conn_event wanted)
{
	enum rpma_conn_event got = RPMA_CONN_UNDEFINED;
	CHECK(rpma_conn_next_event(conn, &got));
	CHECK(got != wanted);
}

/* The next completion of the only queue, which must be a success. */
static struct ibv_wc
completed(void)
{
	struct rpma_cq *cq = NULL;
	struct ibv_wc wc;
	int ret;
	CHECK(rpma_conn_get_cq(conn, &cq));
	while ((ret = rpma_cq_get_wc(cq, 1, &wc, NULL)) == RPMA_E_NO_COMPLETION)
		CHECK(rpma_cq_wait(cq));
	CHECK(ret);
	CHECK(wc.status);
	return wc;
}

static void
end(bool first)
{
	if (!first)
		event(RPMA_CONN_CLOSED);
	CHECK(rpma_conn_disconnect(conn));
	if (first)
		event(RPMA_CONN_CLOSED);
	CHECK(rpma_conn_delete(&conn));
}

/* ---- what both sides of some examples do ---- */

/* Send `number`, and wait for the answer, in which the other side adds one. */
static void
ping_pong(const char *address)
{
	(void)address;
	uint64_t number = 40, *sent = (uint64_t *)buffer, *got = (uint64_t *)memory;
	for (int i = 0; i < ROUNDS; i++) {
		CHECK(rpma_recv(conn, region, 0, sizeof(*got), NULL));
		*sent = number;
		CHECK(rpma_send(conn, messages, 0, sizeof(*sent), RPMA_F_COMPLETION_ALWAYS, NULL));
		completed();
		completed();
		number = *got;
		printf("received: %llu\n", (unsigned long long)number);
	}
	*sent = DONE;
	CHECK(rpma_send(conn, messages, 0, sizeof(*sent), RPMA_F_COMPLETION_ALWAYS, NULL));
	completed();
}

static void
answer_ping_pong(void)
{
	uint64_t *sent = (uint64_t *)buffer, *got = (uint64_t *)memory;
	for (;;) {
		while (completed().opcode != IBV_WC_RECV)
			;
		if (*got == DONE)
			return;
		printf("received: %llu\n", (unsigned long long)*got);
		*sent = *got + 1;
		CHECK(rpma_recv(conn, region, 0, sizeof(*got), NULL));
		CHECK(rpma_send(conn, messages, 0, sizeof(*sent), RPMA_F_COMPLETION_ALWAYS, NULL));
	}
}

/* Protocol Buffers: fields of 64 bits, each behind its number and kind. */
static size_t
put_field(char *at, unsigned number, uint64_t value)
{
	*at = (char)(number << 3 | 1);
	memcpy(at + 1, &value, sizeof(value));
	return 9;
}

static uint64_t
field(const char *message, size_t size, unsigned number)
{
	for (size_t at = 0; at + 9 <= size; at += 9) {
		uint64_t value;
		memcpy(&value, message + at + 1, sizeof(value));
		if ((unsigned)message[at] == (number << 3 | 1))
			return value;
	}
	fprintf(stderr, "no field %u in %zu bytes\n", number, size);
	exit(1);
}

/* ---- the examples ---- */

static bool
is(const char *example, const char *name)
{
	return strcmp(example, name) == 0;
}

static void
target(const char *example, const char *address, const char *port)
{
	struct rpma_ep *ep = NULL;
	struct rpma_conn_req *req = NULL;
	struct rpma_conn_private_data data = {0};
	struct offer offer = {0};
	bool ends_first = false, is_message = false;
	int usage = RPMA_MR_USAGE_WRITE_DST | RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY;
	size_t size = KILOBYTE;
	struct log *log = (struct log *)memory;

	if (is(example, "read_to_volatile")) {
		strcpy(memory, "Hello client!");
		usage = RPMA_MR_USAGE_READ_SRC;
	} else if (is(example, "write_to_persistent")) {
		usage = RPMA_MR_USAGE_WRITE_DST | RPMA_MR_USAGE_READ_SRC;
	} else if (is(example, "atomic_write")) {
		usage |= RPMA_MR_USAGE_READ_SRC;
		size = sizeof(*log);
		log->end = offsetof(struct log, data);
	} else if (is(example, "messages_ping_pong") || is(example, "send_with_imm") ||
		   is(example, "read_to_persistent") || is(example, "multiple_connections")) {
		usage = RPMA_MR_USAGE_RECV | RPMA_MR_USAGE_READ_DST;
		is_message = is(example, "messages_ping_pong") || is(example, "send_with_imm");
	}
	region = registered(memory, size, usage);
	messages = registered(buffer, KILOBYTE, RPMA_MR_USAGE_RECV | RPMA_MR_USAGE_SEND);
	CHECK(rpma_ep_listen(peer, address, port, &ep));
	printf("listening\n");
	fflush(stdout);
	CHECK(rpma_ep_next_conn_req(ep, NULL, &req));
	if (is_message)
		CHECK(rpma_conn_req_recv(req, region, 0,
					 is(example, "send_with_imm") ? KILOBYTE : 8, NULL));
	else
		CHECK(rpma_conn_req_recv(req, messages, 512, 512, NULL));
	if (is(example, "connection")) {
		data.ptr = "Hello client!";
		data.len = 14;
	} else if (!is_message && usage != (RPMA_MR_USAGE_RECV | RPMA_MR_USAGE_READ_DST)) {
		offer = offered(region, is(example, "atomic_write") ? offsetof(struct log, end) : 0,
				is(example, "flush_to_persistent"));
		data.ptr = &offer;
		data.len = sizeof(offer);
	}
	CHECK(rpma_conn_req_connect(&req, data.ptr ? &data : NULL, &conn));
	event(RPMA_CONN_ESTABLISHED);

	if (is(example, "connection")) {
		CHECK(rpma_conn_get_private_data(conn, &data));
		printf("received: %s\n", (char *)data.ptr);
		ends_first = true;
	} else if (is(example, "read_to_persistent") || is(example, "multiple_connections")) {
		struct rpma_mr_remote *source = taken(&offer);
		size_t length = is(example, "read_to_persistent") ? KILOBYTE : NAME_SIZE;
		CHECK(rpma_read(conn, region, 0, source, offer.offset, length,
				RPMA_F_COMPLETION_ALWAYS, NULL));
		completed();
		printf("read: %s\n", memory);
		CHECK(rpma_mr_remote_delete(&source));
		ends_first = true;
	} else if (is(example, "messages_ping_pong")) {
		answer_ping_pong();
		ends_first = true;
	} else if (is(example, "flush_to_persistent_gpspm")) {
		size_t got = completed().byte_len;
		const char *request = buffer + 512;
		printf("flush: %llu at %llu\n", (unsigned long long)field(request, got, 2),
		       (unsigned long long)field(request, got, 1));
		size_t length = put_field(buffer, 1, field(request, got, 3));
		CHECK(rpma_send(conn, messages, 0, length, RPMA_F_COMPLETION_ALWAYS, NULL));
		completed();
	} else if (is(example, "send_with_imm")) {
		struct ibv_wc wc = completed();
		CHECK(rpma_conn_get_private_data(conn, &data));
		CHECK(data.len < sizeof(uint32_t) || *(uint32_t *)data.ptr != ntohl(wc.imm_data));
		printf("received: %s with %#x\n", memory, ntohl(wc.imm_data));
	} else if (is(example, "write_with_imm")) {
		struct ibv_wc wc = completed();
		CHECK(wc.opcode != IBV_WC_RECV_RDMA_WITH_IMM);
		printf("written: %#x with %#x\n", *(uint32_t *)memory, ntohl(wc.imm_data));
	}
	end(ends_first);
	if (is(example, "atomic_write")) {
		for (char *word = log->data; word < memory + log->end; word += strlen(word) + 1)
			printf("word: %s\n", word);
	} else if (is(example, "write_to_persistent") || is(example, "flush_to_persistent") ||
		   is(example, "flush_to_persistent_gpspm")) {
		printf("written: %s\n", memory);
	}
	CHECK(rpma_ep_shutdown(&ep));
}

static void
initiator(const char *example, const char *address, const char *port)
{
	struct rpma_conn_req *req = NULL;
	struct rpma_conn_private_data data = {0};
	struct rpma_mr_remote *remote = NULL;
	struct offer offer = {0};
	bool ends_first = true;
	uint32_t number = NUMBER;

	region = registered(memory, KILOBYTE + 4,
			    RPMA_MR_USAGE_WRITE_SRC | RPMA_MR_USAGE_READ_SRC |
				    RPMA_MR_USAGE_READ_DST | RPMA_MR_USAGE_RECV);
	messages = registered(buffer, KILOBYTE, RPMA_MR_USAGE_SEND | RPMA_MR_USAGE_RECV);
	if (is(example, "connection")) {
		data.ptr = "Hello server!";
		data.len = 14;
	} else if (is(example, "read_to_persistent") || is(example, "multiple_connections")) {
		/* As in C's: the text is behind a number in a structure. */
		size_t at = is(example, "read_to_persistent") ? 4 : 0;
		strcpy(memory + at, "from C");
		offer = offered(region, at, false);
		data.ptr = &offer;
		data.len = sizeof(offer);
	} else if (is(example, "send_with_imm")) {
		data.ptr = &number;
		data.len = sizeof(number);
	}
	CHECK(rpma_conn_req_new(peer, address, port, NULL, &req));
	CHECK(rpma_conn_req_connect(&req, data.ptr ? &data : NULL, &conn));
	event(RPMA_CONN_ESTABLISHED);

	if (is(example, "connection")) {
		CHECK(rpma_conn_get_private_data(conn, &data));
		printf("received: %s\n", (char *)data.ptr);
		ends_first = false;
	} else if (data.ptr && data.ptr == &offer) {
		ends_first = false;
	} else if (is(example, "messages_ping_pong")) {
		ping_pong(address);
	} else if (is(example, "shared_receive_queue")) {
		ping_pong(address);
		ends_first = false;
	} else if (is(example, "send_with_imm")) {
		strcpy(buffer, "Kaffee");
		CHECK(rpma_send_with_imm(conn, messages, 0, KILOBYTE, RPMA_F_COMPLETION_ALWAYS,
					 number, NULL));
		completed();
	} else {
		remote = taken(&offer);
		size_t size = 0;
		CHECK(rpma_mr_remote_get_size(remote, &size));
		strcpy(memory, "from C");
		if (is(example, "read_to_volatile")) {
			CHECK(size > KILOBYTE);
			CHECK(rpma_read(conn, region, 0, remote, 0, size, RPMA_F_COMPLETION_ALWAYS,
					NULL));
			completed();
			printf("read: %s\n", memory);
		} else if (is(example, "atomic_write")) {
			uint64_t log_end;
			CHECK(rpma_read(conn, region, 0, remote, offer.offset, sizeof(log_end),
					RPMA_F_COMPLETION_ALWAYS, NULL));
			completed();
			memcpy(&log_end, memory, sizeof(log_end));
			strcpy(memory, "from C");
			CHECK(rpma_write(conn, remote, log_end, region, 0, 7,
					 RPMA_F_COMPLETION_ON_ERROR, NULL));
			log_end += 7;
			CHECK(rpma_atomic_write(conn, remote, offer.offset, (char *)&log_end,
						RPMA_F_COMPLETION_ON_ERROR, NULL));
			CHECK(rpma_flush(conn, remote, offer.offset, sizeof(log_end),
					 RPMA_FLUSH_TYPE_VISIBILITY, RPMA_F_COMPLETION_ALWAYS,
					 NULL));
			completed();
		} else if (is(example, "write_with_imm")) {
			memcpy(memory, &number, sizeof(number));
			CHECK(rpma_write_with_imm(conn, remote, offer.offset, region, 0, KILOBYTE,
						  RPMA_F_COMPLETION_ALWAYS, number, NULL));
			completed();
		} else {
			CHECK(size < offer.offset + (size_t)KILOBYTE);
			CHECK(rpma_write(conn, remote, offer.offset, region, 0, KILOBYTE,
					 RPMA_F_COMPLETION_ALWAYS, NULL));
			completed();
			if (is(example, "flush_to_persistent")) {
				struct rpma_peer_cfg *cfg = NULL;
				CHECK(rpma_peer_cfg_from_descriptor(
					offer.descriptors + offer.descriptor_size,
					offer.peer_descriptor_size, &cfg));
				CHECK(rpma_conn_apply_remote_peer_cfg(conn, cfg));
				CHECK(rpma_peer_cfg_delete(&cfg));
				CHECK(rpma_flush(conn, remote, offer.offset, KILOBYTE,
						 RPMA_FLUSH_TYPE_VISIBILITY,
						 RPMA_F_COMPLETION_ALWAYS, NULL));
				completed();
			} else if (is(example, "flush_to_persistent_gpspm")) {
				CHECK(rpma_recv(conn, messages, 512, 512, NULL));
				size_t length = put_field(buffer, 1, offer.offset);
				length += put_field(buffer + length, 2, KILOBYTE);
				length += put_field(buffer + length, 3, CONTEXT);
				CHECK(rpma_send(conn, messages, 0, length, RPMA_F_COMPLETION_ALWAYS,
						NULL));
				struct ibv_wc wc = completed();
				if (wc.opcode != IBV_WC_RECV)
					wc = completed();
				CHECK(field(buffer + 512, wc.byte_len, 1) != CONTEXT);
				printf("answered\n");
			}
		}
		CHECK(rpma_mr_remote_delete(&remote));
	}
	end(ends_first);
}

int
main(int argc, char *argv[])
{
	if (argc != 5)
		return 2;
	bool listens = is(argv[1], "target");
	struct ibv_context *device = NULL;
	CHECK(rpma_utils_get_ibv_context(
		argv[3], listens ? RPMA_UTIL_IBV_CONTEXT_LOCAL : RPMA_UTIL_IBV_CONTEXT_REMOTE,
		&device));
	CHECK(rpma_peer_new(device, &peer));
	(listens ? target : initiator)(argv[2], argv[3], argv[4]);
	CHECK(rpma_mr_dereg(&messages));
	CHECK(rpma_mr_dereg(&region));
	CHECK(rpma_peer_delete(&peer));
	return 0;
}
