# SPDX-License-Identifier: BSD-3-Clause
"""The `rpma` command."""

import sys


def main() -> None:
    """Run the command, or say what to install where its libraries are missing."""
    try:
        from rpma.cli.app import app
    except ImportError as error:
        if error.name in ("typer", "rich"):
            sys.exit(f"the rpma command needs {error.name}: pip install 'rpma[cli]'")
        sys.exit(str(error))
    app()
