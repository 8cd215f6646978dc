"""An app that notes every signal it gets, a line each, after a first line with its pid.

    python -I -S recorder.py FILE [UNTIL]

TERM, INT and QUIT end it with exit code 40 + n; until there is a file UNTIL it goes on then and notes what still comes.
"""

import os
import signal
import sys

until = sys.argv[2] if len(sys.argv) > 2 else "/"
output = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
os.write(output, f"{os.getpid()}\n".encode())
first = 0
while not first or not os.path.exists(until):
    got = signal.sigtimedwait(wanted, 0.01 if first else 3600)
    if got is None:
        continue
    os.write(output, f"{got.si_signo}\n".encode())
    if got.si_signo in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) and not first:
        first = got.si_signo
sys.exit(40 + first)
