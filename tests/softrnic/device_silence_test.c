/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device_silence_test.c -- a host that falls silent: no reset, no end, nothing. In a network of its
 * own, whose only interface goes down. SOFTRNIC_SILENCE_MS says how soon it is noticed.
 */
#include "device_test.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

static void
set_network(bool is_up)
{
	struct ifreq request = {.ifr_name = "lo"};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	MUST(fd >= 0 && !ioctl(fd, SIOCGIFFLAGS, &request));
	request.ifr_flags =
		(short)(is_up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	MUST(!ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

static void
test_a_request_under_way(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a, *b = &both.b;
	struct ibv_sge sge = sge_of(a, 0, 1);
	set_network(false);
	CHECK(post_receive(b, 7, 0, 1), 0);
	struct ibv_send_wr wr = wr_of(IBV_WR_SEND, 1, &sge, 1, NULL, 0);
	CHECK(post(a, &wr), 0);
	TAKE_THIS(a->send_cq, 1, IBV_WC_WR_FLUSH_ERR);
	EXPECT(a->id, RDMA_CM_EVENT_DISCONNECTED, 0);
	TAKE_THIS(b->recv_cq, 7, IBV_WC_WR_FLUSH_ERR);
	EXPECT(b->id, RDMA_CM_EVENT_DISCONNECTED, 0);
	set_network(true);
	both_fini(&both);
}

static void
test_nothing_under_way(void)
{
	struct both both;
	both_init(&both, NULL);
	set_network(false);
	EXPECT(both.a.id, RDMA_CM_EVENT_DISCONNECTED, 0);
	EXPECT(both.b.id, RDMA_CM_EVENT_DISCONNECTED, 0);
	set_network(true);
	both_fini(&both);
}

int
main(void)
{
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
		printf("no network of its own: %s\n", strerror(errno));
		return 0;
	}
	set_network(true);
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_a_request_under_way);
	RUN(test_nothing_under_way);
	return report();
}
