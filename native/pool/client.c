/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client.c -- a client's small calls: what is posted and waited for in one crossing from Python.
 * The requests are the program's own, and so are their completions, whoever polls: a wait that ends
 * early leaves nothing behind but a completion that is yet to come.
 */
#include "binding.h"

#include "decl/pool.h"

int
rpmapy_write_next(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		  struct rpmapy_local *src, size_t src_offset, size_t length, uint64_t wr_id,
		  int *posted, struct rpmapy_wc *wc)
{
	int ret = rpmapy_write(conn, dst, dst_offset, src, src_offset, length,
			       RPMA_F_COMPLETION_ALWAYS, wr_id);
	if (ret)
		return ret;
	*posted = 1;
	return rpmapy_cq_next_wc(&conn->cq, RPMAPY_FOREVER, wc);
}

int
rpmapy_read_next(struct rpmapy_conn *conn, struct rpmapy_local *dst, size_t dst_offset,
		 struct rpmapy_remote *src, size_t src_offset, size_t length, uint64_t wr_id,
		 int *posted, struct rpmapy_wc *wc)
{
	int ret = rpmapy_read(conn, dst, dst_offset, src, src_offset, length,
			      RPMA_F_COMPLETION_ALWAYS, wr_id);
	if (ret)
		return ret;
	*posted = 1;
	return rpmapy_cq_next_wc(&conn->cq, RPMAPY_FOREVER, wc);
}

static int
write_many(struct rpmapy_conn *conn, struct rpmapy_remote *dst, struct rpmapy_local *src,
	   const struct rpmapy_segment *segments, size_t count, int last_flags, uint64_t wr_id,
	   int *posted)
{
	for (size_t i = 0; i < count; i++) {
		int flags = i + 1 < count ? RPMA_F_COMPLETION_ON_ERROR : last_flags;
		int ret =
			rpmapy_write(conn, dst, segments[i].dst_offset, src, segments[i].src_offset,
				     segments[i].length, flags, wr_id + i);
		if (ret)
			return ret;
		*posted = (int)i + 1;
	}
	return 0;
}

/* Does not wait. The last write leaves a completion, for all of them. */
int
rpmapy_write_many(struct rpmapy_conn *conn, struct rpmapy_remote *dst, struct rpmapy_local *src,
		  const struct rpmapy_segment *segments, size_t count, uint64_t wr_id, int *posted)
{
	return write_many(conn, dst, src, segments, count, RPMA_F_COMPLETION_ALWAYS, wr_id, posted);
}

/*
 * Does not wait. A message follows the writes, which leave no completion; it has the wr_id after
 * the last one's, and with `flags` a completion, for all of them.
 */
int
rpmapy_write_many_send(struct rpmapy_conn *conn, struct rpmapy_remote *dst,
		       struct rpmapy_local *src, const struct rpmapy_segment *segments,
		       size_t count, struct rpmapy_local *messages, size_t at, size_t size,
		       int flags, uint64_t wr_id, int *posted)
{
	int ret = write_many(conn, dst, src, segments, count, RPMA_F_COMPLETION_ON_ERROR, wr_id,
			     posted);
	if (ret)
		return ret;
	ret = rpmapy_send(conn, messages, at, size, flags, wr_id + count);
	if (!ret)
		*posted = (int)count + 1;
	return ret;
}

/*
 * The message has the wr_id after the write's. An answer to it is a completion in any case; with
 * `flags` it leaves one itself, which retires both.
 */
int
rpmapy_write_send_next(struct rpmapy_conn *conn, struct rpmapy_remote *dst, size_t dst_offset,
		       struct rpmapy_local *src, size_t src_offset, size_t length,
		       struct rpmapy_local *messages, size_t at, size_t size, int flags,
		       uint64_t wr_id, int *posted, struct rpmapy_wc *wc)
{
	int ret = rpmapy_write(conn, dst, dst_offset, src, src_offset, length,
			       RPMA_F_COMPLETION_ON_ERROR, wr_id);
	if (ret)
		return ret;
	*posted = 1;
	ret = rpmapy_send(conn, messages, at, size, flags, wr_id + 1);
	if (ret)
		return ret;
	*posted = 2;
	return rpmapy_cq_next_wc(&conn->cq, RPMAPY_FOREVER, wc);
}
