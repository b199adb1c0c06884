# SPDX-License-Identifier: BSD-3-Clause
"""Where the `rpma` command starts: outside the package, whose import may fail.

`import rpma` needs librpma. Without it the command must still tell what is missing: then the
package is there in name only, its __init__ not run, and `rpma.cli` gets the reason.
"""

import importlib.util
import sys


def main() -> None:
    """Run the `rpma` command."""
    broken = None
    try:
        import rpma  # noqa: F401 -- to see whether it works
    except ImportError as error:
        broken = error
        spec = importlib.util.find_spec("rpma")
        if spec is None:
            raise
        sys.modules["rpma"] = importlib.util.module_from_spec(spec)
    from rpma.cli import main as run

    run(broken)
