"""An app that notes every signal it gets, a line each, after a first line with its pid.

    python -I -S recorder.py FILE [SECONDS_BEFORE_IT_ENDS]

TERM, INT and QUIT end it with exit code 40 + n; it goes on for SECONDS_BEFORE_IT_ENDS then and notes what still comes.
"""

import os
import signal
import sys
import time

seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
output = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
os.write(output, f"{os.getpid()}\n".encode())
end = None
first = 0
while end is None or time.monotonic() < end:
    got = signal.sigtimedwait(wanted, 3600 if end is None else max(0.0, end - time.monotonic()))
    if got is None:
        break
    os.write(output, f"{got.si_signo}\n".encode())
    if got.si_signo in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) and end is None:
        first, end = got.si_signo, time.monotonic() + seconds
sys.exit(40 + first)
