"""An app that ends with exit code 7 as soon as it can read something; from "up" on SIGUSR1 does nothing."""

import os
import signal

signal.signal(signal.SIGUSR1, signal.SIG_IGN)
os.write(1, b"up\n")
os.read(0, 1)
os._exit(7)
