# SPDX-License-Identifier: BSD-3-Clause
"""Write the C source of the extension from the declarations in decl/. Run by meson."""

import sys
from pathlib import Path

from cffi import FFI

# verbs.h first: the others name its types.
DECLARATIONS = ("verbs.h", "librpma.h", "binding.h", "pool.h")

PREAMBLE = '#include "binding.h"\n#include "../common/wc_opcodes.h"\n#include "../pool/pool.h"'


def main() -> None:
    """Take the module's name, the folder of declarations and the file to write."""
    module, folder, output = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    ffi = FFI()
    for name in DECLARATIONS:
        ffi.cdef((folder / name).read_text())
    ffi.set_source(module, PREAMBLE)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main()
