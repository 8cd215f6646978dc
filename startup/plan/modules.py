"""The app's own Python modules: how they are found and imported, and where in them an error stands."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

from startup import roots
from startup.errors import Interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def see_the_apps_modules(environ: dict[str, str]) -> None:
    """Append the working directory and PYTHONPATH: after our own, so that an app's ``dotenv.py`` shadows nothing."""
    for path in (os.getcwd(), *environ.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.append(path)
    roots.make_known_in_bundle()


def load(name: str, environ: dict[str, str]) -> Any:
    """Import the module; ImportError, with words for a person, when it is ours or raises."""
    if name.partition(".")[0] == "startup":
        raise ImportError("'startup' is this tool's own package: give the module another name")
    see_the_apps_modules(environ)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the app's, or a verb's
            return importlib.import_module(name)
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error.__cause__, Interrupted):  # as Python before 3.12 gives what is raised in __set_name__
            raise error.__cause__ from None
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ImportError(
                f"there is no module '{error.name}' in the working directory ({os.getcwd()}), in PYTHONPATH "
                f"({environ.get('PYTHONPATH') or 'not set'}) or among the packages of {sys.executable}"
            ) from error
        why = f"it cannot be imported: {type(error).__name__}: {error}{place(error)}"
        if isinstance(error, ModuleNotFoundError):
            why += f": {sys.executable} has no such package; STARTUP_PYTHON names the Python that has"
        raise ImportError(why) from error


def place(error: BaseException) -> str:
    """File and line of the innermost frame that is the user's: not ours, nor a library's where there is another."""
    import re
    import sysconfig
    import traceback

    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<frozen", own))]
    frames = [frame for frame in frames if f"{os.sep}importlib{os.sep}" not in frame.filename]
    library = re.compile(rf"{re.escape(sysconfig.get_path('stdlib'))}/|.*/(site|dist)-packages/")
    frames = [frame for frame in frames if not library.match(frame.filename)] or frames
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
