/* SPDX-License-Identifier: BSD-3-Clause */
/* sound.c -- a program without a mistake: every operation once, and nothing left behind. */
#include "pair.h"

int
main(void)
{
	static struct pair pair;
	struct rpma_peer_cfg *pcfg;
	struct ibv_wc wc;
	pair.target = persistent_memory();
	pair.target_usage = EVERY_USAGE | RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT;
	pair_new(&pair);
	must(rpma_peer_cfg_new(&pcfg));
	must(rpma_peer_cfg_set_direct_write_to_pmem(pcfg, true));
	must(rpma_conn_apply_remote_peer_cfg(pair.conn, pcfg));
	must(rpma_peer_cfg_delete(&pcfg));
	memcpy(pair.source, "12345678", 8);

	must(rpma_write(pair.conn, pair.remote, 0, pair.local, 0, PAGE, RPMA_F_COMPLETION_ON_ERROR,
			(void *)1));
	must(rpma_atomic_write(pair.conn, pair.remote, 8, "abcdefgh", RPMA_F_COMPLETION_ON_ERROR,
			       (void *)2));
	must(rpma_flush(pair.conn, pair.remote, 0, PAGE, RPMA_FLUSH_TYPE_PERSISTENT,
			RPMA_F_COMPLETION_ALWAYS, (void *)3));
	wc = completion(pair.cq);
	if (wc.status != IBV_WC_SUCCESS || wc.wr_id != 3 ||
	    memcmp(pair.target, "12345678abcdefgh", 16) != 0)
		return 4;
	must(rpma_read(pair.conn, pair.local, PAGE, pair.remote, 0, 16, RPMA_F_COMPLETION_ALWAYS,
		       (void *)4));
	wc = completion(pair.cq);
	if (wc.wr_id != 4 || memcmp(pair.source + PAGE, "12345678abcdefgh", 16) != 0)
		return 4;
	/* A completion tells of those before it that ask for none, however many there were. */
	for (int i = 0; i < 16; i++) {
		for (int j = 0; j < 3; j++)
			must(rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 8,
					RPMA_F_COMPLETION_ON_ERROR, (void *)7));
		must(rpma_write(pair.conn, pair.remote, 0, pair.local, 0, 8,
				RPMA_F_COMPLETION_ALWAYS, (void *)8));
		wc = completion(pair.cq);
		if (wc.wr_id != 8)
			return 4;
	}
	must(rpma_recv(pair.passive, pair.target_mr, 0, PAGE, (void *)5));
	must(rpma_send_with_imm(pair.conn, pair.local, 0, 8, RPMA_F_COMPLETION_ALWAYS, 7,
				(void *)6));
	wc = completion(pair.cq);
	if (wc.wr_id != 6)
		return 4;
	wc = completion(pair.passive_cq);
	if (wc.wr_id != 5 || wc.byte_len != 8)
		return 4;
	pair_disconnect(&pair);
	pair_delete(&pair);
	return 0;
}
