"""A client that knows nothing of rpma: pyverbs over librdmacm, for /usr/bin/python3.

It connects to an address and port, writes a text to an address under a key, and reads it back.
"""

import sys

import pyverbs.cm_enums as ce
import pyverbs.device
from pyverbs.cmid import CMID, AddrInfo, ConnParam
from pyverbs.qp import QPCap, QPInitAttr


def main() -> None:
    """Take the device, where to connect, and where to write what."""
    device, host, port, address, rkey, text = sys.argv[1:]
    with pyverbs.device.Context(name=device) as context:
        print("device", context.query_device().max_mr_size > 0, flush=True)
    info = AddrInfo(dst=host, dst_service=port, port_space=ce.RDMA_PS_TCP)
    queues = QPInitAttr(cap=QPCap(max_send_wr=4, max_recv_wr=1), sq_sig_all=1)
    client = CMID(creator=info, qp_init_attr=queues)
    client.connect(ConnParam(resources=1, depth=1, retry=7, rnr_retry=7))
    data = text.encode()
    source = client.reg_msgs(len(data))
    source.write(data, len(data))
    client.post_write(source, len(data), int(address), int(rkey))
    print("write", client.get_send_comp().status, flush=True)
    back = client.reg_read(len(data))
    client.post_read(back, len(data), int(address), int(rkey))
    print("read", client.get_send_comp().status, flush=True)
    print("back", back.read(len(data), 0).decode(), flush=True)
    client.disconnect()


main()
