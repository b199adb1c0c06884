# SPDX-License-Identifier: BSD-3-Clause
"""`python -m rpma.cli` is the `rpma` command."""

from rpma_command import main

main()
