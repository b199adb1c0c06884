# SPDX-License-Identifier: BSD-3-Clause
"""Token files: the secrets that clients show and targets want.

A token file has one line with the token, or lines ``user:token``, or both. Blank lines and lines
that begin with ``#`` say nothing. A token with a colon in it needs one in front, too.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rpma.cli.common import naming
from rpma.pool.protocol.errors import AuthenticationError

if TYPE_CHECKING:
    from rpma.pool.protocol.address import TargetAddress

MOST_BYTES = 1 << 20
"""A longer file is no token file, in bytes."""

LONGEST_USER = 64
"""In characters, as the protocol has it."""


NEW_BYTES = 32
"""How many random bytes a new token has."""


_FOR_OTHERS = {
    "g+r": (stat.S_IRGRP, "its group may read it, and its owner is not root"),
    "g+w": (stat.S_IWGRP, "its group may write it"),
    "g+x": (stat.S_IXGRP, "its group may execute it"),
    "o+r": (stat.S_IROTH, "everyone may read it"),
    "o+w": (stat.S_IWOTH, "everyone may write it"),
    "o+x": (stat.S_IXOTH, "everyone may execute it"),
}
"""What the bits of a file's mode mean that a token file is not to have, as chmod names them."""


@dataclass(frozen=True)
class Tokens:
    """What a token file holds.

    Attributes:
        path: its path.
        token: the token of nobody in particular, or None.
        users: the tokens of users by name.
    """

    path: str
    token: bytes | None
    users: dict[str, bytes] = field(default_factory=dict)

    def of(self, address: TargetAddress) -> bytes:
        """The one to show to a target.

        Raises:
            AuthenticationError: the file does not say which.
        """
        found = self.users.get(address.user or "", self.token)
        if found is None:
            names = ", ".join(sorted(self.users))
            raise AuthenticationError(
                f"token file {self.path} has no token for {str(address)!r}, only those of users: "
                f"{names}; say whose with USER@{address}"
                if address.user is None
                else f"token file {self.path} has no token of {address.user!r}, only of: {names}"
            )
        return found


def read(path: Path) -> Tokens:
    """Read a token file.

    Its owner may read it, and where that is root, its group: so Kubernetes and systemd give secrets
    to those who are to have them.

    Raises:
        AuthenticationError: others may read it, or there is no token in it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        check_mode(path, os.fstat(file.fileno()))
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise AuthenticationError(f"{path} is too long for a token file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise AuthenticationError(f"token file {path} is not text in UTF-8") from None
    return parse(text, str(path))


def check_mode(path: Path, status: os.stat_result) -> None:
    """Raise AuthenticationError if others than those who are to have a token may open its file."""
    mode = stat.S_IMODE(status.st_mode)
    wrong = {
        bit: words
        for bit, (mask, words) in _FOR_OTHERS.items()
        if mode & mask and not (bit == "g+r" and status.st_uid == 0)
    }
    if wrong:
        who = " and ".join(f"{words} ({bit})" for bit, words in wrong.items())
        taken = ",".join(bit.replace("+", "-") for bit in wrong)
        raise AuthenticationError(
            f"token file {path} has mode {mode:04o}: {who}; chmod {taken} {path}, and change the "
            "token if others may have read it"
        )


def parse(text: str, path: str) -> Tokens:
    """The tokens in the text of a token file.

    Raises:
        AuthenticationError: it has none, or does not say whose they are.
    """
    common: bytes | None = None
    users: dict[str, bytes] = {}
    for number, whole in enumerate(text.splitlines(), 1):
        line = whole.strip()
        if not line or line.startswith("#"):
            continue
        user, colon, token = (part.strip() for part in line.partition(":"))
        if not colon:
            user, token = "", line
        where = f"token file {path}, line {number}"
        if not token:
            raise AuthenticationError(f"{where}: no token follows {user + ':'!r}")
        if len(user) > LONGEST_USER:
            raise AuthenticationError(f"{where}: no user has a name of {len(user)} characters")
        if user in users or (not user and common is not None):
            whose = f"of user {user!r}" if user else "without a user"
            raise AuthenticationError(f"{where}: a second token {whose}; write user:token")
        if user:
            users[user] = token.encode()
        else:
            common = token.encode()
    if common is None and not users:
        raise AuthenticationError(f"token file {path} has no token in it")
    return Tokens(path, common, users)


def token_for(address: TargetAddress, path: Path | None) -> bytes | None:
    """The token for a target; None without a token file."""
    return None if path is None else read(path).of(address)


def new(user: str | None) -> str:
    """A line for a token file with a token that nobody can find by trying.

    Raises:
        AuthenticationError: that cannot be the name of a user.
    """
    token = secrets.token_urlsafe(NEW_BYTES)
    if user is None:
        return token
    line = f"{user}:{token}"
    if not user or line.startswith("#") or parse(line, "").users != {user: token.encode()}:
        raise AuthenticationError(f"{user!r} cannot be a user: it has a colon, or spaces around it")
    return line


def write(line: str, path: Path) -> None:
    """Make a token file for its owner's eyes only.

    Raises:
        OSError: there is such a file, or it cannot be written.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with naming(path), os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise
