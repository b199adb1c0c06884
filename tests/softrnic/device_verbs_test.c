/* SPDX-License-Identifier: BSD-3-Clause */
/* device_verbs_test.c -- verbs that answer as a kernel's iWARP device, and what they say. */
#include "device_test.h"

#include <sys/mman.h>
#include <sys/wait.h>

/* ---- queue pairs ---- */

static struct ibv_qp *
new_qp(struct side *side)
{
	struct ibv_qp_init_attr init = {
		.send_cq = side->send_cq,
		.recv_cq = side->recv_cq,
		.cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1},
		.qp_type = IBV_QPT_RC};
	struct ibv_qp *qp = ibv_create_qp(side->pd, &init);
	MUST(qp);
	return qp;
}

static struct ibv_qp_attr
query(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;
	MUST(!ibv_query_qp(qp, &attr, IBV_QP_STATE, &init));
	return attr;
}

static void
test_a_new_queue_pair_is_idle(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a;
	struct ibv_qp *qp = new_qp(a);
	struct ibv_sge sge = sge_of(a, 0, 8);
	struct ibv_recv_wr *bad, wr = {.wr_id = 3, .sg_list = &sge, .num_sge = 1};
	CHECK(query(qp).qp_state, IBV_QPS_INIT);
	CHECK(qp->state, IBV_QPS_RESET); /* what libibverbs takes a new one for */
	CHECK(ibv_post_recv(qp, &wr, &bad), 0);
	/* Also for who goes through the states. */
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1};
	CHECK(ibv_modify_qp(qp, &attr,
			    IBV_QP_STATE | IBV_QP_PORT | IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS),
	      0);
	CHECK(query(qp).qp_state, IBV_QPS_INIT);
	CHECK(qp->state, IBV_QPS_INIT);
	CHECK(a->qp->state, IBV_QPS_RTS);
	attr.qp_state = IBV_QPS_ERR;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
	TAKE_THIS(a->recv_cq, 3, IBV_WC_WR_FLUSH_ERR);
	CHECK(ibv_destroy_qp(qp), 0);
	both_fini(&both);
}

/* What has been said on stderr while this ran. */
static char said[4096];

static void
listen_to(void (*run)(struct ibv_qp *), struct ibv_qp *qp)
{
	int kept = dup(2), fds[2];
	MUST(kept >= 0 && !pipe(fds) && dup2(fds[1], 2) == 2);
	run(qp);
	MUST(dup2(kept, 2) == 2);
	close(fds[1]);
	close(kept);
	ssize_t got = read(fds[0], said, sizeof(said) - 1);
	said[got < 0 ? 0 : got] = '\0';
	close(fds[0]);
}

/* As ibv_rc_pingpong does it. */
enum {
	RTR_BY_HAND = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
		      IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER
};

static void
connect_by_hand(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTR,
				   .path_mtu = IBV_MTU_1024,
				   .dest_qp_num = qp->qp_num,
				   .qp_access_flags = IBV_ACCESS_LOCAL_WRITE,
				   .max_dest_rd_atomic = 1,
				   .min_rnr_timer = 12,
				   .ah_attr = {.is_global = 1, .port_num = 1}};
	unsigned access = query(qp).qp_access_flags;
	CHECK(ibv_modify_qp(qp, &attr, RTR_BY_HAND | IBV_QP_ACCESS_FLAGS), EOPNOTSUPP);
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_DEST_QPN), EOPNOTSUPP);
	attr.qp_state = IBV_QPS_RTS;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_DEST_QPN), EOPNOTSUPP);
	/* Nothing has changed by that. */
	CHECK(query(qp).qp_state, IBV_QPS_INIT);
	CHECK(query(qp).dest_qp_num, 0);
	CHECK(query(qp).qp_access_flags, access);
}

static int
count_in(const char *text, const char *word)
{
	int count = 0;
	while ((text = strstr(text, word))) {
		count++;
		text += strlen(word);
	}
	return count;
}

static void
test_connections_are_not_made_by_hand(void)
{
	struct both both;
	both_init(&both, NULL);
	struct ibv_qp *qp = new_qp(&both.a);
	listen_to(connect_by_hand, qp);
	/* Once, in a line that says what to do. */
	CHECK(count_in(said, "rdma_cm"), 1);
	CHECK(count_in(said, "softrnic: ibv_modify_qp"), 1);
	CHECK(count_in(said, "\n"), 1);
	CHECK(ibv_destroy_qp(qp), 0);
	/* One that is connected: it is known, and told. */
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS, .dest_qp_num = both.b.qp->qp_num};
	CHECK(ibv_modify_qp(both.a.qp, &attr, IBV_QP_STATE | IBV_QP_DEST_QPN), 0);
	CHECK(query(both.a.qp).dest_qp_num, both.b.qp->qp_num);
	attr.qp_state = IBV_QPS_RESET;
	CHECK(ibv_modify_qp(both.a.qp, &attr, IBV_QP_STATE), 0);
	CHECK(query(both.a.qp).dest_qp_num, 0);
	both_fini(&both);
}

/* ---- a child ---- */

static void
use_it_all(struct ibv_qp *qp)
{
	struct ibv_wc wc;
	struct rdma_cm_id *id;
	CHECK(ibv_poll_cq(qp->send_cq, 1, &wc), -EPERM);
	CHECK(ibv_alloc_pd(qp->context) == NULL, 1);
	CHECK(errno, EPERM);
	CHECK_FAILS(rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP), EPERM);
}

static void
check_what_a_child_says(struct ibv_qp *qp, const char *level, int lines)
{
	int status;
	pid_t child = fork();
	MUST(child >= 0);
	if (child == 0) {
		MUST(!(level ? setenv("VERBS_LOG_LEVEL", level, 1) : unsetenv("VERBS_LOG_LEVEL")));
		listen_to(use_it_all, qp);
		CHECK(count_in(said, "\n"), lines);
		CHECK(count_in(said, "softrnic: this process is a fork"), lines);
		CHECK(count_in(said, "EPERM"), lines);
		fflush(stdout);
		_exit(failures != 0);
	}
	MUST(waitpid(child, &status, 0) == child);
	CHECK(status, 0);
}

static void
test_a_forked_child_is_told_why(void)
{
	struct both both;
	both_init(&both, NULL);
	check_what_a_child_says(both.a.qp, NULL, 1);
	check_what_a_child_says(both.a.qp, "0", 0);
	both_fini(&both);
}

static void
test_what_is_said_goes_into_a_file(void)
{
	char path[] = "/tmp/verbs_test_XXXXXX", line[512] = "";
	int fd = mkstemp(path), status;
	struct both both;
	MUST(fd >= 0);
	both_init(&both, NULL);
	pid_t child = fork();
	MUST(child >= 0);
	if (child == 0) {
		MUST(!setenv("VERBS_LOG_FILE", path, 1));
		listen_to(use_it_all, both.a.qp);
		CHECK(strlen(said), 0);
		fflush(stdout);
		_exit(failures != 0);
	}
	MUST(waitpid(child, &status, 0) == child);
	CHECK(status, 0);
	MUST(read(fd, line, sizeof(line) - 1) > 0);
	CHECK(count_in(line, "softrnic: this process is a fork"), 1);
	close(fd);
	unlink(path);
	both_fini(&both);
}

/* ---- completion queues ---- */

static void
test_a_completion_vector_that_is_not_there(void)
{
	struct rdma_cm_id *id = new_id(new_channel());
	union address address = address_of("127.0.0.1", 0);
	MUST(!rdma_bind_addr(id, &address.any));
	struct ibv_cq_init_attr_ex attr = {.cqe = 4};
	for (int vector = -1; vector <= 2; vector++) {
		attr.comp_vector = (uint32_t)vector;
		struct ibv_cq *cq = ibv_create_cq(id->verbs, 4, NULL, NULL, vector);
		CHECK(cq ? 0 : errno, vector ? EINVAL : 0);
		struct ibv_cq_ex *ex = ibv_create_cq_ex(id->verbs, &attr);
		CHECK(ex ? 0 : errno, vector ? EINVAL : 0);
		if (cq)
			CHECK(ibv_destroy_cq(cq), 0);
		if (ex)
			CHECK(ibv_destroy_cq(ibv_cq_ex_to_cq(ex)), 0);
	}
	destroy_with_channel(id);
}

/* ---- prefetching ---- */

static int
count_resident(const void *memory, size_t pages)
{
	unsigned char resident[64];
	int count = 0;
	MUST(pages <= sizeof(resident) &&
	     !mincore((void *)(uintptr_t)memory, pages * 4096, resident));
	for (size_t i = 0; i < pages; i++)
		count += resident[i] & 1;
	return count;
}

static void
test_prefetching(void)
{
	enum { PAGES = 16 };
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a;
	char *memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
	MUST(memory != MAP_FAILED);
	struct ibv_mr *mr = ibv_reg_mr(a->pd, memory, PAGES * 4096, IBV_ACCESS_LOCAL_WRITE);
	struct ibv_mr *read_only = ibv_reg_mr(a->pd, memory, PAGES * 4096, 0);
	MUST(mr && read_only);
	struct ibv_sge sges[2] = {
		{.addr = (uintptr_t)memory + 4096 + 100, .length = 4096, .lkey = mr->lkey},
		{.addr = (uintptr_t)memory + 8 * 4096, .length = 1, .lkey = mr->lkey},
	};
	const uint32_t flush = IBV_ADVISE_MR_FLAG_FLUSH;
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT, flush, sges, 2), 0);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, sges, 2), 0);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, 0, sges, 2), 0);
	CHECK(count_resident(memory, PAGES), 0);
	/* Every page that they touch is there when it returns. */
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, flush, sges, 2), 0);
	CHECK(count_resident(memory, PAGES), 3);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 2), 0);
	sges[0].length = 0;
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 1), 0);

	/* Refused, as ibv_advise_mr(3) has it. */
	sges[0] = (struct ibv_sge){(uintptr_t)memory, 4096, mr->lkey};
	CHECK(ibv_advise_mr(a->pd, 99, flush, sges, 1), EOPNOTSUPP);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 2, sges, 1), EINVAL);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 0), EINVAL);
	CHECK(ibv_advise_mr(both.b.pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 1), EPERM);
	sges[0].addr += 1;
	sges[0].length = PAGES * 4096;
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 1), EFAULT);
	sges[0].addr -= 2;
	sges[0].length = 1;
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 1), EFAULT);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT, 0, sges, 1), EFAULT);
	sges[0] = (struct ibv_sge){(uintptr_t)memory, 4096, read_only->lkey};
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 1), 0);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, flush, sges, 1), EPERM);
	CHECK(ibv_dereg_mr(read_only), 0);
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 1), ENOENT);
	/* A mistake in the second one: the first is not advised either. */
	sges[0] = (struct ibv_sge){(uintptr_t)memory + 12 * 4096, 4096, mr->lkey};
	sges[1].lkey = 0;
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 2), ENOENT);
	CHECK(count_resident(memory, PAGES), 4);
	/* Memory that has gone. */
	MUST(!munmap(memory, PAGES * 4096));
	CHECK(ibv_advise_mr(a->pd, IBV_ADVISE_MR_ADVICE_PREFETCH, flush, sges, 1), EFAULT);
	CHECK(ibv_dereg_mr(mr), 0);
	both_fini(&both);
}

/* A file's pages come from the file, and end with it. */
static void
test_prefetching_a_file(void)
{
	struct both both;
	both_init(&both, NULL);
	struct side *a = &both.a;
	FILE *file = tmpfile();
	MUST(file && !ftruncate(fileno(file), 2 * 4096));
	char *memory = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
	MUST(memory != MAP_FAILED);
	struct ibv_mr *mr = ibv_reg_mr(a->pd, memory, 4 * 4096, IBV_ACCESS_LOCAL_WRITE);
	MUST(mr);
	struct ibv_sge sge = {(uintptr_t)memory, 2 * 4096, mr->lkey};
	const enum ibv_advise_mr_advice kinds[] = {IBV_ADVISE_MR_ADVICE_PREFETCH,
						   IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE};
	for (int i = 0; i < 2; i++) {
		sge.length = 2 * 4096;
		CHECK(ibv_advise_mr(a->pd, kinds[i], 0, &sge, 1), 0);
		CHECK(ibv_advise_mr(a->pd, kinds[i], IBV_ADVISE_MR_FLAG_FLUSH, &sge, 1), 0);
		sge.length = 3 * 4096;
		CHECK(ibv_advise_mr(a->pd, kinds[i], IBV_ADVISE_MR_FLAG_FLUSH, &sge, 1), EFAULT);
	}
	CHECK(ibv_dereg_mr(mr), 0);
	MUST(!munmap(memory, 4 * 4096));
	fclose(file);
	both_fini(&both);
}

int
main(void)
{
	/* What is made once and stays. */
	struct both both;
	both_init(&both, NULL);
	both_fini(&both);

	RUN(test_a_new_queue_pair_is_idle);
	RUN(test_connections_are_not_made_by_hand);
	RUN(test_a_forked_child_is_told_why);
	RUN(test_what_is_said_goes_into_a_file);
	RUN(test_a_completion_vector_that_is_not_there);
	RUN(test_prefetching);
	RUN(test_prefetching_a_file);
	return report();
}
