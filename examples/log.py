# SPDX-License-Identifier: BSD-3-Clause
"""Where librpma's log messages go. It has one side only, and runs without an RDMA device.

librpma writes to syslog, and what passes the auxiliary threshold to stderr as well. A program can
take the messages itself, or hand them to Python's logging. Whatever the thresholds, the last error
message of a thread is kept for rpma.errormsg(); exceptions carry it as well.
"""

from __future__ import annotations

import argparse
import logging
import sys

import rpma
from rpma import log

NOT_HERE = "192.0.2.1"
"""An address for documentation (RFC 5737): no device has it."""


def have_librpma_complain() -> rpma.RpmaError:
    """Ask for a device that is not there: librpma logs an error."""
    try:
        rpma.Peer.for_address(NOT_HERE)
    except rpma.RpmaError as error:
        log.flush()  # messages for a Python function arrive a moment later
        return error
    sys.exit(f"there is an RDMA device with the address {NOT_HERE}")


def show_default() -> None:
    """librpma's own way: syslog, and stderr."""
    print("to syslog and stderr:", flush=True)
    log.set_threshold(log.Threshold.AUX, log.Level.ERROR)
    have_librpma_complain()


def show_function() -> None:
    """A function of the program."""
    records: list[log.Record] = []
    log.set_function(records.append)
    have_librpma_complain()
    for record in records:
        print(f"to a function: [{record.level.name}] {record.function_name}: {record.message}")
    if not any(record.level is log.Level.ERROR for record in records):
        sys.exit("the function got no error message")


def show_logging() -> None:
    """Python's logging, which decides by its own levels and handlers."""
    logging.basicConfig(
        format="to logging: %(levelname)s %(name)s: %(message)s", stream=sys.stdout, force=True
    )
    log.use_logging()
    have_librpma_complain()


def show_errormsg() -> None:
    """Nowhere; the message is still to be had."""
    log.set_function(None)
    log.set_threshold(log.Threshold.MAIN, log.Level.DISABLED)
    error = have_librpma_complain()
    print(f"with the log disabled, errormsg(): {rpma.errormsg()}")
    if not error.message or error.message != rpma.errormsg():
        sys.exit(f"the exception has another message: {error.message}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    show_default()
    show_function()
    show_logging()
    show_errormsg()
