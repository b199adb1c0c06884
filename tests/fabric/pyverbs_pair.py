"""Both sides of a connection of pyverbs over librdmacm, for /usr/bin/python3; rpma has no part.

The client writes into the server's memory, reads from it, and they exchange a message each way.
"""

import struct
import sys

import pyverbs.cm_enums as ce
from pyverbs.cmid import CMID, AddrInfo, ConnParam
from pyverbs.qp import QPCap, QPInitAttr

WRITTEN, OFFERED = b"by the client", b"by the server"
WHERE = struct.Struct("!QIQI")


def queues() -> QPInitAttr:
    return QPInitAttr(cap=QPCap(max_send_wr=8, max_recv_wr=8), sq_sig_all=1)


def parameters() -> ConnParam:
    return ConnParam(resources=1, depth=1, retry=7, rnr_retry=7)


def serve(address: str, port: str) -> None:
    info = AddrInfo(src=address, src_service=port, port_space=ce.RDMA_PS_TCP, flags=ce.RAI_PASSIVE)
    listening = CMID(creator=info, qp_init_attr=queues())
    listening.listen()
    server = listening.get_request()
    message = server.reg_msgs(64)
    server.post_recv(message, 64)
    sink, source = server.reg_write(64), server.reg_read(64)
    source.write(OFFERED, len(OFFERED))
    server.accept(parameters())
    # Where the client may write and read.
    where = server.reg_msgs(WHERE.size)
    where.write(WHERE.pack(sink.buf, sink.rkey, source.buf, source.rkey), WHERE.size)
    server.post_send(where, length=WHERE.size)
    server.get_send_comp()
    server.get_recv_comp()
    print(f"received {message.read(4, 0)}, written {sink.read(len(WRITTEN), 0)}", flush=True)
    message.write(b"pong", 4)
    server.post_send(message, length=4)
    server.get_send_comp()
    server.disconnect()


def ask(address: str, port: str) -> None:
    info = AddrInfo(dst=address, dst_service=port, port_space=ce.RDMA_PS_TCP)
    client = CMID(creator=info, qp_init_attr=queues())
    where, message = client.reg_msgs(WHERE.size), client.reg_msgs(64)
    client.post_recv(where, WHERE.size)
    client.connect(parameters())
    client.get_recv_comp()
    sink, sink_key, source, source_key = WHERE.unpack(where.read(WHERE.size, 0))
    client.post_recv(message, 64)
    data = client.reg_msgs(64)
    data.write(WRITTEN, len(WRITTEN))
    client.post_write(data, len(WRITTEN), sink, sink_key)
    assert client.get_send_comp().status == 0
    back = client.reg_read(64)
    client.post_read(back, len(OFFERED), source, source_key)
    assert client.get_send_comp().status == 0
    data.write(b"ping", 4)
    client.post_send(data, length=4)
    assert client.get_send_comp().status == 0
    client.get_recv_comp()
    print(f"received {message.read(4, 0)}, read {back.read(len(OFFERED), 0)}", flush=True)
    client.disconnect()


if __name__ == "__main__":
    {"server": serve, "client": ask}[sys.argv[1]](*sys.argv[2:])
