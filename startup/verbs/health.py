"""``startup health``: entrypoint.sh answers it, also where Python is broken; here it is only found and executed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace as Arguments

from startup.errors import StartupError
from startup.process.interrupts import Interrupts

#: The process that has asked the script: a script that executes us again would go on for ever.
_ASKED = "_STARTUP_HEALTH_ASKED"


def health(arguments: Arguments, interrupts: Interrupts) -> int:
    """One line, the phase; 0 when ready. Does not return."""
    if os.environ.get(_ASKED) == str(os.getpid()):
        raise StartupError("startup-entrypoint answers health; this one asks us in turn: it is of another release")
    beside_package = Path(__file__).parents[2] / "entrypoint.sh"  # in a checkout
    beside_python = Path(sys.executable).parent / "startup-entrypoint"
    for script in (beside_package, beside_python, shutil.which("startup-entrypoint")):
        if script and os.access(script, os.X_OK):
            os.execve(script, [str(script), "startup", "health"], {**os.environ, _ASKED: str(os.getpid())})
    raise StartupError(
        "health is answered by the shell script that the package comes with, which is not there as an executable file: "
        f"neither {beside_python} nor {beside_package}, nor a startup-entrypoint on PATH"
    )
