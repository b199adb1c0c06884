/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device_touches_test.c -- the device tells whenever it reads or writes memory of the program, and
 * when it is done: nobody may touch the pages of both sides in between. A touch that is not told
 * ends the test, or the connection, where it is a system call's.
 */
#include "device_test.h"

#include <sys/mman.h>

#define PAGE 4096u
#define PAGES 512
#define HALF (PAGES * PAGE / 2)

typedef void memory_watcher(void *memory, size_t length, bool begins);
void softrnic_watch_memory(memory_watcher *watcher);

/* How many touches there are of each page of a side's memory. */
static struct watched {
	uint8_t *bytes;
	size_t pages;
	unsigned touches[PAGES];
} watched[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool are_closed;
static unsigned long told;

static void
change_page(struct watched *of, size_t page, bool begins)
{
	bool was_touched = of->touches[page] > 0;
	of->touches[page] += begins ? 1u : -1u;
	if (are_closed && was_touched != (of->touches[page] > 0))
		MUST(!mprotect(of->bytes + page * PAGE, PAGE,
			       begins ? PROT_READ | PROT_WRITE : PROT_NONE));
}

static void
touched(void *memory, size_t length, bool begins)
{
	uintptr_t start = (uintptr_t)memory, end = start + length;
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < 2; i++) {
		uintptr_t first = (uintptr_t)watched[i].bytes;
		for (size_t page = 0; page < watched[i].pages; page++) {
			uintptr_t at = first + page * PAGE;
			if (start < at + PAGE && at < end) {
				told++;
				change_page(&watched[i], page, begins);
			}
		}
	}
	pthread_mutex_unlock(&lock);
}

/* For the program: to and from it. */
static void
close_memory(bool closes)
{
	pthread_mutex_lock(&lock);
	are_closed = closes;
	for (unsigned i = 0; i < 2; i++) {
		for (size_t page = 0; page < watched[i].pages; page++) {
			if (!watched[i].touches[page])
				MUST(!mprotect(watched[i].bytes + page * PAGE, PAGE,
					       closes ? PROT_NONE : PROT_READ | PROT_WRITE));
		}
	}
	pthread_mutex_unlock(&lock);
}

static void
watch(const struct both *both)
{
	const struct side *const sides[] = {&both->a, &both->b};
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < 2; i++) {
		MUST(sides[i]->size <= PAGES * PAGE);
		watched[i] =
			(struct watched){.bytes = sides[i]->bytes, .pages = sides[i]->size / PAGE};
	}
	pthread_mutex_unlock(&lock);
	softrnic_watch_memory(touched);
}

static void
watch_no_more(void)
{
	softrnic_watch_memory(NULL);
	for (unsigned i = 0; i < 2; i++) {
		for (size_t page = 0; page < watched[i].pages; page++)
			CHECK(watched[i].touches[page], 0);
		watched[i].pages = 0;
	}
}

static void
test_what_is_touched_is_told(void)
{
	static const size_t lengths[] = {8, 100, 5000, 65520, 700000};
	struct both both;
	both_init(&both, &(struct options){.size = PAGES * PAGE});
	struct side *a = &both.a, *b = &both.b;
	watch(&both);
	for (uint32_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		size_t size = lengths[i];
		struct ibv_sge from = sge_of(a, 0, size), into = sge_of(a, HALF, size);
		struct ibv_sge word = sge_of(a, 8, 8);
		struct ibv_send_wr write = wr_of(IBV_WR_RDMA_WRITE, 1, &from, 1, b, 16);
		struct ibv_send_wr read = wr_of(IBV_WR_RDMA_READ, 2, &into, 1, b, 16);
		struct ibv_send_wr send = wr_of(IBV_WR_SEND, 3, &from, 1, NULL, 0);
		struct ibv_send_wr add = wr_of(IBV_WR_ATOMIC_FETCH_AND_ADD, 4, &word, 1, b, 0);
		add.wr.atomic.compare_add = 1;
		CHECK(post_receive(b, 9, HALF, HALF), 0);
		fill(a->bytes, size, i);
		memset(b->bytes, 0, 8);
		unsigned long before = told;
		close_memory(true);
		CHECK(post(a, &write), 0);
		TAKE_THIS(a->send_cq, 1, IBV_WC_SUCCESS);
		CHECK(post(a, &send), 0);
		TAKE_THIS(a->send_cq, 3, IBV_WC_SUCCESS);
		TAKE_THIS(b->recv_cq, 9, IBV_WC_SUCCESS);
		CHECK(post(a, &read), 0);
		TAKE_THIS(a->send_cq, 2, IBV_WC_SUCCESS);
		CHECK(post(a, &add), 0);
		TAKE_THIS(a->send_cq, 4, IBV_WC_SUCCESS);
		close_memory(false);
		CHECK(told > before, 1);
		CHECK(b->bytes[0], 1);
		CHECK_FILLED(b->bytes + HALF, size, i);
		CHECK_FILLED(a->bytes + HALF, size, i);
	}
	watch_no_more();
	both_fini(&both);
}

/* What waits for room in the socket is touched again when it goes on, and not in between. */
static void
test_what_waits_is_not_touched(void)
{
	struct both both;
	struct ibv_wc wc;
	both_init(&both, &(struct options){.size = PAGES * PAGE, .send_wr = 64, .ord = 16});
	struct side *a = &both.a, *b = &both.b;
	fill(a->bytes, a->size, 7);
	watch(&both);
	close_memory(true);
	struct ibv_sge from = sge_of(a, 0, a->size);
	struct ibv_sge into = sge_of(a, 0, a->size);
	for (uint64_t i = 0; i < 16; i++) {
		/* The last one reads what the others have written. */
		struct ibv_send_wr wr = i < 15 ? wr_of(IBV_WR_RDMA_WRITE, i, &from, 1, b, 0)
					       : wr_of(IBV_WR_RDMA_READ, i, &into, 1, b, 0);
		CHECK(post(a, &wr), 0);
	}
	for (uint64_t i = 0; i < 16; i++) {
		wc = TAKE(a->send_cq);
		CHECK(wc.status, IBV_WC_SUCCESS);
		CHECK(wc.wr_id, i);
	}
	close_memory(false);
	CHECK_FILLED(a->bytes, a->size, 7);
	CHECK_FILLED(b->bytes, b->size, 7);
	watch_no_more();
	both_fini(&both);
}

int
main(void)
{
	alarm(120);
	test_what_is_touched_is_told();
	test_what_waits_is_not_touched();
	return report();
}
