"""``python -m startup VERB``, and ``python -I DIRECTORY VERB`` for a package that is not installed."""

import os
import sys

if __name__ == "__main__":
    if not __package__:  # run by its directory: put what holds the package in that directory's place
        sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        sys.path.append(os.path.join(sys.path[0], "behind"))  # the bundle's, where an app's Python has not its own
    if sys.version_info < (3, 10):  # noqa: UP036  the bundle's code runs on whatever STARTUP_PYTHON names
        version = ".".join(map(str, sys.version_info[:2]))
        text = f"STARTUP_PYTHON is {sys.executable}, a Python {version}: it must be 3.10 or newer"
        print(f"startup: error: {text}", file=sys.stderr)
        sys.exit(127 if sys.argv[1:2] == ["_phase"] else 78)  # to entrypoint.sh 127 means that the module never began
    from startup import launch, roots

    in_the_flow = sys.argv[-2:] == ["--shell", str(os.getppid())]
    launch.undo_changes_since(sys.argv[-1] if in_the_flow else "self")
    for name in [name for name in os.environ if name.startswith("STARTUP_LD_")]:  # as release/bundle.sh has it
        os.environ[name.partition("_")[2]] = os.environ.pop(name)
    from startup.process import proof

    roots.forget_the_images_openssl()

    words = sys.argv[1:]
    if words[:1] in ([], ["init"], ["run"]):
        words = proof.supervise(words)
    from startup.cli import main

    try:
        code = main(words)
    except SystemExit as end:  # argparse
        code = end.code if isinstance(end.code, int) else 0
    proof.leave(code)
