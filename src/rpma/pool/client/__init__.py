# SPDX-License-Identifier: BSD-3-Clause
"""The side that uses pools: one logic, a driver that blocks and one for asyncio."""
