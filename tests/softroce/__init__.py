"""Soft-RoCE for the tests: an RDMA device of a real kernel, on a machine that has none.

The kernel of a Debian package is unpacked into a cache folder (`kernel`), packed into an initramfs
with the modules that it needs (`initramfs`) and booted under QEMU's software emulation with the
machine's own file system as its root (`guest`). Nothing is installed, no kernel module is loaded on
the machine itself, and neither KVM nor a network is used.

`python tests/softroce -- COMMAND` runs any command there; `remote` and `inside` are the two halves
of a run of pytest there, which `fabrics.plugin` starts.
"""
