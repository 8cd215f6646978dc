#!/bin/sh
# The bundle's startup-entrypoint, and its startup: entrypoint.sh, with the programs beside it instead of the image's.
# release/bundle.py writes the directory into the first line and this one:
bundle=/opt/startup
set -- :functions "$@"
. "$bundle/lib/packages/entrypoint.sh"
shift
here=$bundle/bin packages=$bundle/lib/packages python3=$bundle/bin/python3
probe='env' # GNU env is here, so that nothing is probed; env and grep are the shell's own

# What the image sets for its own C library would end these programs (ld.so(8)). They run without it, and hand it on.
for_the_image=''
[ -z "${LD_PRELOAD-}${LD_LIBRARY_PATH-}${LD_AUDIT-}" ] || for_the_image=$(env | grep '^LD_')

# An applet of the shell's own would be taken for the image's command of that name by exec.
by_env() {
    options=$1 && shift && set -f && IFS='
'
    set -- $for_the_image "$@"
    [ -z "$for_the_image" ] || unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT
    IFS=' '
    exec "$here/env" $options "$@"
}

# STARTUP_PYTHON names one of the image's: that has the image's C library.
by_python() {
    case $python,$for_the_image in
    "$here"/*,?*) export "STARTUP_LD=$for_the_image" && unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT ;;
    esac
    eval "exec $through $given \"\$python\" -I \"\$@\""
}

case ${0##*/} in startup) run_verb "$@" ;; *) main "$@" ;; esac
