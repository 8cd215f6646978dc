#!/bin/sh
# The entrypoint that people write: start the app, loop on a ping, migrate, wait. Address and ready mark come from outside.
"$@" &
until curl -fs -o /dev/null "$PING"; do sleep 1; done
dbmate --no-dump-schema up && touch "$READY"
wait
