# SPDX-License-Identifier: BSD-3-Clause
"""What both sides share: messages, their channel, what is checked alike."""
