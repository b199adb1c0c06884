# SPDX-License-Identifier: BSD-3-Clause
"""The `rpma` command."""

import sys


def main(broken: ImportError | None = None) -> None:
    """Run the command, or say what to install where its libraries are missing.

    Args:
        broken: why `import rpma` fails, where it does; see rpma_command.py.
    """
    try:
        from rpma.cli.app import run
    except ImportError as error:
        if error.name in ("typer", "rich"):
            sys.exit(f"the rpma command needs {error.name}: pip install 'rpma[cli]'")
        sys.exit(str(error))
    run(broken)
