# SPDX-License-Identifier: BSD-3-Clause
"""The side that serves: sessions, tasks, pools and their files."""
