"""``python -m startup VERB``, and ``python -I DIRECTORY VERB`` for a package that is not installed."""

import os
import sys

if __name__ == "__main__":
    if not __package__:  # run by its directory: put what holds the package in that directory's place
        sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if for_the_image := os.environ.pop("STARTUP_LD", ""):  # what the bundle's programs run without: for tasks and hooks
        for line in for_the_image.splitlines():
            name, _, os.environ[name] = line.partition("=")
    from startup.process import proof

    if sys.argv[1:2] in ([], ["init"], ["run"]):
        proof.supervise()
    from startup.cli import main

    try:
        code = main()
    except SystemExit as end:  # argparse
        code = end.code if isinstance(end.code, int) else 0
    proof.leave(code)
