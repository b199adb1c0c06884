# SPDX-License-Identifier: BSD-3-Clause
"""Remote pools: named, durable memory of another machine."""
