"""What the fabric tests run on: the soft RNIC, a device of this machine, or the Soft-RoCE guest.

`fabric` has what a test needs to know of one, and where they differ; `soft` and `native` find them
on this machine; `plugin` lets pytest choose, and runs the tests there.
"""
