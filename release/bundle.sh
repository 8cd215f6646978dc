#!/bin/sh
# The bundle's startup-entrypoint, and its startup: entrypoint.sh, with the programs beside it instead of the image's.
# release/bundle.py writes the directory into the first line and this one:
bundle=/opt/startup
set -- :functions "$@"
. "$bundle/lib/packages/entrypoint.sh"
shift
here=$bundle/bin packages=$bundle/lib/packages python3=$bundle/bin/python3
probe='env' # GNU env is here, so that nothing is probed; env and grep are the shell's own

# What the image sets for its own C library would end these programs (ld.so(8)). They run without it, and hand it on: name
# by name, since a value may hold any lines.
loading='LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_BIND_NOT LD_DEBUG LD_DEBUG_OUTPUT LD_PROFILE LD_SHOW_AUXV'
loading="$loading LD_TRACE_LOADED_OBJECTS"

# An applet of the shell's own would be taken for the image's command of that name by exec.
by_env() {
    options=$1 && shift
    for name in $loading; do eval "[ -z \"\${$name+set}\" ] || set -- \"$name=\$$name\" \"\$@\""; done
    unset $loading
    exec "$here/env" $options "$@"
}

# STARTUP_PYTHON names one of the image's: that has the image's C library.
by_python() {
    case $python in
    "$here"/*)
        for name in $loading; do eval "[ -z \"\${$name+set}\" ] || export \"STARTUP_$name=\$$name\""; done
        unset $loading
        ;;
    esac
    eval "exec $through $given \"\$python\" -I \"\$@\""
}

case ${0##*/} in startup) run_verb "$@" ;; *) main "$@" ;; esac
