#!/bin/sh
# A command, so at least once: it may be cut off, and run again, when its node vanishes.
echo "the mail is sent by $(hostname), once for all nodes"
