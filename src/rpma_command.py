# SPDX-License-Identifier: BSD-3-Clause
"""Where the `rpma` command starts: outside the package, whose import may fail.

`import rpma` needs librpma. Without it the command must still tell what is missing: then the
package is there in name only, its __init__ not run, and `rpma.cli` gets the reason. So it is for
`rpma trace`, too: librpma's debug build would write into the very log that is to be read.
"""

import importlib.util
import sys


def main() -> None:
    """Run the `rpma` command."""
    broken = None
    try:
        if sys.argv[1:2] == ["trace"]:
            _take_name_only()
        else:
            import rpma  # noqa: F401 -- to see whether it works
    except ImportError as error:
        broken = error
        _take_name_only()
    from rpma.cli import main as run

    run(broken)


def _take_name_only() -> None:
    spec = importlib.util.find_spec("rpma")
    if spec is None:
        raise ModuleNotFoundError("No module named 'rpma'", name="rpma")
    sys.modules["rpma"] = importlib.util.module_from_spec(spec)
