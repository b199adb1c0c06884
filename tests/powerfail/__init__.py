"""Losing power: durability is tested by taking it away.

A target serves pools in a guest, from emulated persistent memory and from a disk. Clients on this
side of the guest write records into them, over the soft RNIC, and keep the books of what was
acknowledged (`ledger`, `workload`). A kernel's RDMA device reaches nobody but the guest: over it,
the clients are in there, and do what they are told from here (`agent`). At a random moment the
guest is killed, its disk forgets what was not flushed (`disk`), its persistent memory what was not
flushed out of the processor's caches (`caches`), and after the next boot the books are compared
with what the pools hold (`rounds`).

`python tests/powerfail N` loses power N times. docs/durability.md tells what that shows.
"""
