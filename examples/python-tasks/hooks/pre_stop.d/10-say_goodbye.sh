#!/bin/sh
# Before the app gets the stop signal: here a load balancer would be told.
echo "this node says goodbye"
