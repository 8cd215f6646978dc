"""An app that notes every signal it gets, a line each, after a first line with its pid.

    python -I -S recorder.py FILE [UNTIL]

TERM, INT and QUIT end it with exit code 40 + n. UNTIL a file is there, or for so many seconds, it goes on then, and
notes what still comes.
"""

import os
import signal
import sys
import time

until = sys.argv[2] if len(sys.argv) > 2 else "/"
output = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
os.write(output, f"{os.getpid()}\n".encode())
first, since = 0, 0.0


def is_over() -> bool:
    return os.path.exists(until) if os.path.isabs(until) else time.monotonic() >= since + float(until)


while not (first and is_over()):
    got = signal.sigtimedwait(wanted, 0.01 if first else 3600)
    if got is None:
        continue
    os.write(output, f"{got.si_signo}\n".encode())
    if got.si_signo in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) and not first:
        first, since = got.si_signo, time.monotonic()
sys.exit(40 + first)
