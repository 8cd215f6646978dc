"""``python -m startup VERB``, and ``python -I DIRECTORY VERB`` for a package that is not installed."""

import os
import sys

if __name__ == "__main__":
    if not __package__:  # run by its directory: put what holds the package in that directory's place
        sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    import logging

    from startup.cli import main

    logging.raiseExceptions = False
    code = main()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more: that is no failure of a task, which exit code 120 would say
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
