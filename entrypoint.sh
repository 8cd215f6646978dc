#!/bin/sh
# A container ENTRYPOINT, for any image's command:
#   start the app in the background -> ping it until it answers -> run the startup tasks -> stay as its parent
# Names are in lower case: none is an app's. A test may have the functions alone: `set -- :functions; . entrypoint.sh`.
# shellcheck disable=SC2086,SC2317,SC2329,SC3067,SC3045,SC3040,SC3028,SC2154,SC2064,SC2174,SC2046,SC2059  # several words; what traps call; test -O in all; bash's own
set -u

main() {
    trap_signals && trap on_exit EXIT
    look_at_own_process
    leave_the_flow_for_one_offs "$@"
    open_events
    make_state_dir
    find_python
    find_app "$@"
    run_pre_start
    start_app "$@"
    ping_then_run_tasks
    wait_for_the_app
    finish
}

# ------------------------------------------------------------------------------------------------ the flow
run_pre_start() {
    has_tasks pre_start "${STARTUP_PRE_START:-none}"; mode=${STARTUP_ENV:-${APP_ENV:-prod}} file=${STARTUP_DOTENV:-.env}
    case $mode,${STARTUP_DOTENV:-} in dev, | test, | *,?*) for file in "$file" "$file.$mode"; do # they may set it, too
        [ ! -f "$file" ] || ! grep -qs STARTUP_WAIT_FOR "$file" || has_tasks=1; done ;; esac
    [ "$has_tasks${STARTUP_WAIT_FOR:-none}" != none ] || return 0
    tell phase 'running the pre_start tasks' && run_module pre_start
    [ -n "$stop_signals" ] || [ "$module_code" -eq 0 ] || fail "$module_code" 'the app was not started'
}

start_app() {
    tell phase 'starting the app'
    choose_launcher "$1"
    [ -z "$stop_signals" ] ||
        conclude $((128 + ${stop_signals##* })) "stopped by signal ${stop_signals##* } before the app was started"
    # The shell would give a background child /dev/null as its stdin: a copy of ours goes around that.
    spare=9 stdin=
    while [ "$spare" -gt 2 ] && [ -e "/proc/$$/fd/$spare" ]; do spare=$((spare - 1)); done
    case $closed,$spare in
    *'<&-'* | *,2) ;; # it is closed; or seven descriptors were handed in: rather they than stdin
    *) stdin="<&$spare $spare<&-" && eval "exec $spare<&0" ;;
    esac
    { eval "exec $stdin $closed $no_events" && launch "$@"; } &
    app=$!
    [ -z "$stdin" ] || eval "exec $spare<&-"
    exec </dev/null >&2 # from here on stdin and stdout are the app's alone
}

# One process does both, so that the database is at hand the moment the app answers.
ping_then_run_tasks() {
    tell phase 'waiting for the app to answer'
    run_module post_start
    case $module_code,$stop_signals in
    "$app_ended",* | "$app_ended_unanswered",*) reason ;;
    0,) tell phase ready && tell ready "$$" ;;
    *,) explain "$module_code"; run_failed; [ ! -e "$state/failed" ] || module_code=0 ;; # the app stays up
    esac
    stage=waiting # not before: a stop signal's `stopping` must not be followed by `ready`
    case $module_code,$stop_signals in 0, | "$app_ended", | "$app_ended_unanswered",) ;; *,) end_app ;; *) stop_app ;; esac
}

wait_for_the_app() {
    # Then nothing is left to pass one on to, and it could cost bash the exit code.
    [ -z "$no_events" ] || { until_dead "$app"; trap_signals ''; }
    wait_for "$app"
    code=$? app=''
    [ -z "$no_events" ] || trap_signals
}

finish() {
    [ -z "$timer" ] || kill -TERM "$timer" 2>/dev/null
    has_tasks post_stop "${STARTUP_POST_STOP:-none}"
    case $stop_signals,$has_tasks in ?*,?*) run_module post_stop ;; esac
    end_leftovers
    in_words "$code"
    ended="the app ended$how with $words"
    case $module_code,$code,$failure$stop_signals in
    0,*) conclude "$code" "$ended" ;;
    "$app_ended,0,") text=${why:+; $why} && text=${text#; *; } && conclude 0 "$ended${text:+; ${text%; the app*}}" ;;
    "$app_ended_unanswered,0,") give_up 70 "the app ended with exit code 0, $why" ;;
    "$app_ended",* | "$app_ended_unanswered",*) conclude "$code" "$ended${why:+, $why}" ;;
    *,\ *) conclude "$code" "$ended, before the startup was done" ;;
    esac
    fail "$module_code" 'the app was stopped'
}

# usage: run_module PHASE [OPTION]; the exit code of a *_start one is left in $module_code
run_module() {
    phase=$1
    module _phase "$@" --state "$state" --app "$app" --shell "$$" </dev/null >&2 &
    helper=$!
    case $1,$stop_signals in *_start,?*) end_helper ;; esac
    wait_for "$helper"
    case $1 in *_start) module_code=$? && prove "$1" ;; esac
    helper=
}

# usage: prove PHASE; the module's last act is a mark: a task may have ended it before that, with whatever code.
prove() {
    proof='' doing=starting
    read -r proof 2>/dev/null <"$state/proof"
    case $proof,$module_code,$state in "$1",* | *,12[679],* | *,1[3-6]?,* | *,/dev/null) return 0 ;; esac
    [ -e "$state/log" ] || case $module_code in 70) return 0 ;; *) module_code=127 && return 0 ;; esac # it never began
    read -r doing 2>/dev/null <"$state/phase"
    tell reason "the startup module was ended with exit code $module_code by a task (os._exit, exec), while ${doing%,}"
    module_code=70
}
end_helper() { until_executed "$helper"; kill -TERM "$helper" 2>/dev/null; }

module() {
    eval "exec $no_events"
    [ ! -f "$packages/startup/launch.py" ] || by_python "$packages/startup" "$@"
    by_python -m startup "$@"
}

run_verb() {
    case ${1:-},$# in health,1) tell_health ;; esac # also where Python is broken
    find_python && look_at_environ "$python"
    module "$@"
}

# STARTUP_PYTHON, else the one that the package was installed with, else python3.
find_python() {
    python=${STARTUP_PYTHON:-} shebang=
    [ -n "$python" ] || [ ! -f "$here/startup" ] || read -r shebang <"$here/startup"
    case $shebang in '#!'*python*) python=${shebang#??} ;; esac
    : "${python:=$python3}"
    case $python in */*) [ -f "$python" ] && [ -x "$python" ] ;; *) command -v "$python" >/dev/null ;; esac ||
        refuse "STARTUP_PYTHON is '${STARTUP_PYTHON:-}': '$python' is not there; set it to a Python 3.10 or newer"
}

has_tasks() { # usage: has_tasks PHASE LIST; sets $has_tasks. The module leaves a mark for what it alone knows (dotenv files).
    has_tasks=''
    for file in "$state/$1"* "${STARTUP_HOOKS_DIR:-/etc/startup/hooks}/$1.d"/*; do # one that is not there keeps its asterisk
        case $2,$file in none,*'*') ;; *) has_tasks=1 ;; esac; done
}

# A background child of a shell has SIGINT and SIGQUIT ignored, and shells change the environment: GNU env mends both in
# 1 ms; where it cannot, startup/launch.py does.
choose_launcher() {
    launcher=python
    case $terminal,$group,$1 in *leader*,* | *,true,* | *=*) return 0 ;; esac
    odd=$($probe LC_ALL=C grep -czE "$shells" "/proc/$$/environ" 2>/dev/null)
    [ "$odd" != 0 ] || launcher='env'
}

# The word $launching is no variable: until_executed knows the launcher by it, and nobody else writes it.
launch() {
    options="-u $launching -u STARTUP_DATABASE_URL $added"
    [ $((ignored & 2)) -ne 0 ] || options="$options --default-signal=INT,QUIT"
    [ "$launcher" != env ] || by_env "$options" "$@"
    set -- "$launching" "$$" "$ignored" "$terminal" "$group" "$@"
    case $python in */*) lib=${python%/*}/../lib ;; *) lib=/nonexistent ;; esac
    for dir in "$packages" "$lib"/python3*/site-packages; do [ ! -f "$dir/startup/launch.py" ] || break; done
    [ ! -f "$dir/startup/launch.py" ] || by_python -S "$dir/startup/launch.py" "$@" # it starts in half the time
    by_python -m startup.launch "$@"
}

# usage: by_env OPTIONS COMMAND ...; this and by_python() are the bundle's own in release/bundle.sh
by_env() { options=$1 && shift && exec env $options "$@"; }
by_python() { eval "exec $through $given \"\$python\" -I \"\$@\""; }

# An app that cannot be started is told before anything is done for it.
find_app() {
    found=127 where='' path=/
    case $1 in */*) [ ! -e "$1" ] || found=126 ;; *) path=${PATH-/bin:/usr/bin} where=" in PATH, which is ${PATH-unset}" ;; esac
    ifs=$IFS IFS=: path=$path: && set -f # an empty last element counts, as in execvp(3)
    for dir in $path; do
        case $1 in */*) file=$1 ;; *) file=${dir:-.}/$1 ;; esac
        [ "$found" -eq 0 ] || [ ! -f "$file" ] || found=126
        [ "$found" -ne 126 ] || [ ! -f "$file" ] || [ ! -x "$file" ] || found=0
    done
    IFS=$ifs && set +f
    [ "$found" -ne 127 ] || give_up 127 "the app was not found: there is no '$1'$where"
    [ "$found" -eq 0 ] || give_up 126 "the app cannot be executed: '$1' is not an executable file$where"
}

# --------------------------------------------------------------------------------------- signals, waiting, ending
# usage: trap_signals [ACTION]; on_signal by default, with the number as it is now
trap_signals() { for signal in $signals $job_control; do trap "${1-on_signal $signal}" "$signal"; done; }

on_signal() {
    case $reading,$1 in
    ?*,*) pending="$pending $1"; echo >&"$events" ;;
    ,2 | ,3 | ,15) on_stop_signal "$1" ;;
    *) to_app "$1" ;;
    esac
}

# TERM, INT and QUIT end what is running, then reach the app; a second one ends the waiting. What traps run asks by `case`:
# in dash and busybox a test is false when another trap comes between it and what depends on it.
on_stop_signal() {
    case $terminal,$1,$app in shared,[23],?*) return 0 ;; esac # Ctrl-C: the terminal sends it to the app as well
    case $passed_on,$app in ?*,?*) to_app "$1"; return 0 ;; esac
    stop_signals="$stop_signals $1"
    case $helper,$phase,$stop_signals in ,* | *,failed,\ [23] | *,failed,\ 15) ;; *) end_helper ;; esac # failed: the second
    case $stage in waiting) stop_app ;; esac
}

# pre_stop tasks, then the signals in the order they came; from there on each is passed on at once. Nothing is forked before
# them for our own sake, as to take the ready mark away: at the pids limit that would end us.
stop_app() {
    case $stopping,$app in 1,* | *,) return 0 ;; esac
    stopping=1; tell phase stopping
    has_tasks pre_stop "${STARTUP_PRE_STOP:-none}"
    case $has_tasks in ?*) run_module pre_stop ;; esac
    passed_on=1 how=" (after signal$stop_signals was passed on)"
    for signal in $stop_signals; do to_app "$signal"; done
}

to_app() {
    case $app in '') return 0 ;; esac
    until_executed "$app"               # what it is before that would lose the signal
    kill "-$1" "$whole$app" 2>/dev/null # no "--": Debian 12's dash takes it for a number
    case $terminal,$1 in leader,15) kill -CONT "-$app" 2>/dev/null ;; esac # Ctrl-Z may have stopped it, and its children
}

until_executed() { # usage: until_executed PID; until it is no copy of this shell, and no launcher, any more
    own_command='' nameless=0 # an app may have emptied its own command line; within execve(2) it is empty for a moment
    read -r own_command 2>/dev/null <"/proc/$$/cmdline"
    while :; do
        command='' stat=''
        read -r command 2>/dev/null <"/proc/$1/cmdline"
        case $command in '') read -r stat 2>/dev/null <"/proc/$1/stat" ;; "$own_command" | *"$launching"*) ;; *) return ;; esac
        case $command,${stat##*) },$nameless in ,[!RSDTt]* | ,*,50) return ;; ,*) nameless=$((nameless + 1)) ;; esac
        sleep 0.01
    done
}

# Ctrl-Z does nothing in a container without us, whose first process cannot be stopped. The app's child may see it later.
on_child() {
    stat=''; read -r stat 2>/dev/null <"/proc/$app/stat"
    case ${stat##*) } in T*) kill -CONT "-$app"; sleep 0.05; kill -CONT "-$app" ;; esac
}

# bash loses signals and exit codes that coincide in its wait(1). There it sits in read(1), on a pipe of its own into which
# signals write: what a trap does within read(1) must not read.
open_events() {
    [ "${BASHPID:-}" = "$$" ] && [ -d "/proc/$$/fd" ] || return 0 # not BASH_VERSION, which may have been handed in
    trap - CHLD                           # it would come within a $(...), over which bash trips then
    set +o posix                          # or read -t would use ALRM, and swallow the app's
    eval 'exec {events}<> <(:)' && no_events="$events>&-" # a descriptor from 10 on, so none that was handed in
}

# usage: until_dead PID; it looks, since bash holds CHLD back within read -t: once a second, often while an end is near.
until_dead() {
    while read -r stat 2>/dev/null <"/proc/$1/stat"; do
        case $terminal,${stat##*) } in *,Z*) break ;; leader,T*) on_child ;; esac
        case $helper$passed_on in '') reading=1 ;; *) reading=0.02 ;; esac
        read -r -t "$reading" -u "$events" _
        reading='' taken=$pending pending=''
        for signal in $taken; do on_signal "$signal"; done
    done
}

# usage: wait_for PID; returns its exit code. A trapped signal makes wait(1) return early, with 128 and more.
wait_for() {
    case $no_events in ?*) until_dead "$1" ;; esac
    while :; do
        wait "$1" 2>/dev/null # dash would print "Terminated"
        set -- "$1" "$?"      # not in a variable: a trap may come in between, and wait too
        case $2 in ? | ?? | 1[01]? | 12[0-7]) return "$2" ;; esac
        if ! kill -0 "$1" 2>/dev/null && [ ! -d "/proc/$1" ]; then break; fi
    done
    wait "$1" 2>/dev/null # its own, if that was another one's
    set -- "$2" "$?"
    case $2 in 127) return "$1" ;; *) return "$2" ;; esac
}

end_app() { # TERM, and KILL after STARTUP_STOP_TIMEOUT seconds: for an app whose startup failed.
    passed_on=1; to_app 15
    limit=${STARTUP_STOP_TIMEOUT:-10}
    [ ! -e "$state/stop_timeout" ] || read -r limit <"$state/stop_timeout"
    case $limit in *[!0-9.]*) return 0 ;; *[1-9]*) ;; *) return 0 ;; esac # 0, 0.0: no limit
    (
        trap 'kill "$!"; exit' TERM
        sleep "$limit" & wait "$!" && kill -KILL "$whole$app"
    ) </dev/null >/dev/null 2>&1 &
    timer=$!
}

# What the app left behind gets TERM, and a second at the most; KILL comes from the kernel when PID 1 ends.
end_leftovers() {
    { [ "$$" -eq 1 ] && kill -TERM -1 2>/dev/null; } || return 0 # -1 means everybody
    for _ in 1 2 3 4 5 6 7 8 9; do kill -0 -1 2>/dev/null || return 0; sleep 0.1 & wait "$!"; done
}

# The failed tasks, once, and before the app is stopped: the module is given $failure, and finds $why in `reason`.
run_failed() {
    tell reason "$why"; tell phase "failed: $why"
    has_tasks failed "${STARTUP_FAILED:-none}"
    case $told,$module_code,$has_tasks${STARTUP_METRICS_FILE:+1} in
    1,* | ,12[67],* | *,) ;; # told already; no Python to do it; nobody to be told
    *) told=1 && run_module failed "--code=$failure" ;;
    esac
}

# What the module wrote down of why it ended, in $why: bash may trip over a signal that comes within $(...)
reason() { why='before the startup was done'; [ ! -e "$state/reason" ] || read -r why <"$state/reason"; }
explain() { # usage: explain CODE_OF_THE_MODULE; the exit code that comes of it is left in $failure, the reason in $why
    reason; failure=$1
    case $1 in
    69 | 70 | 75 | 78 | 124) ;;
    127 | 126) failure=78 why="'$python' (STARTUP_PYTHON) could not run the module: $no_module" ;;
    *) in_words "$1"; failure=70 why="the startup module ended with $words" ;;
    esac
}
fail() { explain "$1"; give_up "$failure" "$why" "; $2"; } # usage: fail CODE_OF_THE_MODULE WHAT_BECAME_OF_THE_APP
give_up() { failure=$1 why=$2 && run_failed; conclude "$1" "$2${3:-} (exit code $1)" error; } # usage: give_up CODE WHY [MORE]

# usage: conclude CODE TEXT [LEVEL]; who ended it and why, as the last line, for `result` and for Kubernetes.
conclude() {
    code=$1; tell result "$2"; tell phase "ended: $2"
    if [ -w /dev/termination-log ]; then printf '%s\n' "$2" >/dev/termination-log; fi
    say "${3:-info}" "$2" "$1"
    [ ! -e "$state/ready" ] || rm -f "$state/ready"
    exit "$1"
}
refuse() { conclude 78 "$1 (exit code 78)" error; }

# However this shell ends, "Cannot fork" at the pids limit too, the app is told, and its end waited for.
on_exit() {
    case $app,$code,$?,$module_code in ,,0,* | ,,12[67],*) return 0 ;; ,,*) exit 70 ;;
    ",$code,$code,"* | ,*,[034]) exit "$code" ;; ,*) exit 70 ;; esac # as concluded; else as the app ended, or the module did not
    for signal in ${stop_signals:-15}; do kill "-$signal" "$whole$app" 2>/dev/null; done
    wait_for "$app"; code=$?
    tell result "no process could be started any more; the app ended with exit code $code"
    [ -n "$stop_signals" ] || code=70
    exit "$code"
}

in_words() { # usage: in_words EXIT_CODE; leaves them in $words
    words="exit code $1"
    case $1 in
    137) words="$words (SIGKILL: out of memory, or kill -9)" ;;
    129 | 1[3-5]? | 16[0-5]) words="$words (SIG$(kill -l "$1" 2>/dev/null))" ;;
    esac
}

say() { # usage: say LEVEL TEXT [EXIT_CODE]; in the same form as startup/log.py does
    format=${STARTUP_LOG_FORMAT:-text} level=${STARTUP_LOG_LEVEL:-info} node=${STARTUP_NODE:-}
    [ ! -e "$state/log" ] || read -r format level node <"$state/log" # as dotenv files have it
    case $level,$1 in error,info | error,warning | warning,info) return 0 ;; esac
    case $2 in *[[:cntrl:]]*) set -- "$1" "$(no_controls "$2")" "${3:-}" ;; esac # no line can be forged
    trap '' PIPE # a reader that went away must not look like a signal for the app
    if [ "$format" = json ]; then
        [ -n "$node" ] || read -r node 2>/dev/null </proc/sys/kernel/hostname
        now=$(date -u +%Y-%m-%dT%H:%M:%S.%3N)
        case $now in *[!0-9T:.-]*) now=${now%.*}.000 ;; esac # busybox knows no fractions
        printf '{"@timestamp": "%sZ", "log.level": "%s", "message": "%s", "host.name": "%s", %s%s%s%s}\n' \
            "$now" "$1" "$(json_text "$2")" "$(json_text "$node")" '"event.dataset": "startup"' \
            "${TRACEPARENT:+$(printf %s "$TRACEPARENT" | LC_ALL=C sed -nE '1!d; /[^0-9a-f-]|^ff|-0+-/d; $s/^[^-]{2}-([^-]{32})-([^-]{16})-[^-]{2}$/, "trace.id": "\1", "span.id": "\2"/p')}" \
            "${phase:+, \"startup.phase\": \"$phase\"}" "${3:+, \"process.exit_code\": $3}" >&2
    else
        colour='' prefix="startup: $1:"
        case $1 in error) colour=31 ;; warning) colour=33 ;; info) prefix=startup: ;; esac
        [ -t 2 ] && [ -z "${NO_COLOR:-}" ] || colour=''
        printf "${colour:+\033[${colour}m}%s %s${colour:+\033[0m}\n" "$prefix" "$2" >&2
    fi
    trap 'on_signal 13' PIPE
}

# usage: json_text TEXT; as it stands between the quotes of a JSON string (RFC 8259, section 7), in valid UTF-8 (RFC 3629)
json_text() {
    t='[\200-\277]' # and the first bytes that one, two or three of these may follow
    valid="[\302-\337]$t|\340[\240-\277]$t|[\341-\354\356\357]$t$t|\355[\200-\237]$t"
    valid="$valid|\360[\220-\277]$t$t|[\361-\363]$t$t$t|\364[\200-\217]$t$t"
    # marked, so that what is not between two marks can become U+FFFD
    valid=$(printf "s/$valid/\001&\002/g; s/(^|[\002-\177])[\200-\377]+/\\\\1\357\277\275/g; s/[\001\002]//g")
    no_controls "$1" | LC_ALL=C sed -E "$valid; s/[\\\\\"]/\\\\&/g"
}
no_controls() { printf '%s' "$1" | LC_ALL=C tr '\000-\037\177' ' '; }

# ---------------------------------------------------------------------------- one-offs, the process, its state
leave_the_flow_for_one_offs() {
    case $# in 0) make_state_dir && refuse "$no_command" ;; esac
    case ${STARTUP_ENABLED:-true} in
    true | 1 | yes | on) ;;
    false | 0 | no | off) case $*,$# in 'startup health,2') tell_health ;; *) exec_directly "$@" ;; esac ;;
    *) make_state_dir && refuse "STARTUP_ENABLED is '$STARTUP_ENABLED': it must be true, false, 1, 0, yes, no, on or off" ;;
    esac
    case ${1##*/},${2:-},$# in
    sh,,1 | [akz]sh,,1 | [bd]ash,,1 | fish,,1 | *sh,-[il],2 | bash,--login,2) [ ! -t 0 ] || exec_directly "$@" ;;
    esac
    [ "$1" != startup ] || { shift && run_verb "$@"; }
}

exec_directly() {
    unset STARTUP_DATABASE_URL && look_at_environ "$1"
    [ -z "$through" ] || eval "by_env '$added --' $given \"\$@\""
    exec "$@"
}

# usage: look_at_environ COMMAND; how env(1) starts it with the environment that we were given, in $through and, for eval, $given
look_at_environ() {
    case $1,$(command -v env) in *=* | *,) return 0 ;; esac
    given=$(LC_ALL=C grep -azE "$shells" "/proc/$$/environ" 2>/dev/null | tr '\0\n' '\n\001' |
        LC_ALL=C sed "/^[^=]/!d; s/'/'\\\\''/g; s/.*/'&'/" | tr '\n\001' ' \n')
    through="env $added --"
}

look_at_own_process() {
    [ -e "/proc/$$/fd/0" ] || [ ! -d "/proc/$$/fd" ] || closed='<&-'
    # Or others' output lands in a file that took its place, as bash's script does at once.
    true >&2 && [ ! "/proc/$$/fd/2" -ef "$0" ] || { closed="$closed 2>&-" && exec 2>/dev/null; }
    case ${STARTUP_SIGNAL_GROUP:-false} in true | 1 | yes | on) group=true whole=- ;; esac
    [ -r "/proc/$$/stat" ] || return 0
    read -r stat <"/proc/$$/stat" # short, as dash reads byte by byte
    set -- ${stat##*) } # from the third field on: $3 process group, $4 session, $5 terminal, $6 its foreground group
    started=${20} ignored=${31} launching=STARTUP_LAUNCHING_$$_${20}
    if [ "$5" -eq 0 ] || [ "$3" != "$6" ]; then return 0; fi
    trap - $job_control && job_control= # the terminal's own
    case $4,$group in "$$",*) terminal=leader && trap on_child CHLD ;; *,false) terminal=shared ;; esac
}

make_state_dir() {
    if [ -n "${STARTUP_STATE_DIR:-}" ]; then
        ! is_live "$STARTUP_STATE_DIR" || refuse "STARTUP_STATE_DIR is '$STARTUP_STATE_DIR': another entrypoint's; set a free one"
        claim_state_dir "$STARTUP_STATE_DIR" && return
        refuse "STARTUP_STATE_DIR is '$STARTUP_STATE_DIR': it must be a directory that can be made and written, ours or root's"
    fi
    uid_of "$$"
    for dir in /run/startup "${TMPDIR:-/tmp}/startup-$uid" "/tmp/startup-$uid" "/dev/shm/startup-$uid"; do
        for name in "$dir" "$dir-$$"; do
            if [ ! -L "$name" ] && ! is_live "$name" && claim_state_dir "$name"; then return; fi
        done
    done
    say warning "no place for the state was found (/run/startup, \$TMPDIR, /tmp, /dev/shm): 'health' cannot tell a thing"
}

# usage: claim_state_dir DIRECTORY; all may read it (docker exec --user), we alone may write, through no link: it is made anew
claim_state_dir() {
    if [ -d "$1" ]; then
        is_trusted "$1" || return 1
        (
            CDPATH='' cd -- "$1" || exit
            [ -n "${STARTUP_STATE_DIR:-}" ] || [ ! -O . ] || chmod go-w . || exit # with our name: it is ours alone
            exec rm -f pid phase ready result reason proof log metrics elsewhere failed failed_tasks pre_stop post_stop stop_timeout
        ) 2>/dev/null || return 1
    elif ! mkdir -p -m 755 "$1" 2>/dev/null || ! is_trusted "$1"; then return 1; fi
    { printf '%s %s\n' "$$" "$started" >"$1/pid"; } 2>/dev/null && state=$1
}

is_trusted() { # usage: is_trusted DIRECTORY; only we, root, and the user $uid may have made what is in it
    [ ! -O "$1" ] || return 0
    set -- $(LC_ALL=C ls -ldn -- "$1" 2>/dev/null)
    case ${3:-} in 0 | "$uid") ;; *) return 1 ;; esac
}
uid_of() { while read -r key _ uid _ && [ "$key" != Uid: ]; do :; done 2>/dev/null <"/proc/$1/status"; } # of the PID $1, in $uid

# usage: is_live DIRECTORY; of an entrypoint that runs now? Pids are used again: the start time tells.
is_live() {
    [ -f "$1/pid" ] || return 1 # a FIFO would be waited for
    read -r pid since 2>/dev/null <"$1/pid" || return 1
    read -r stat 2>/dev/null <"/proc/$pid/stat" || return 1
    set -- ${stat##*) }
    [ "$pid" != "$$" ] && [ "${20-}" = "${since:-none}" ]
}

tell_health() {
    case ${STARTUP_ENABLED:-true} in false | 0 | no | off) answer 0 disabled ;; esac
    code=1 && uid_of 1
    [ -n "${STARTUP_STATE_DIR:-}" ] || set -- /run/startup-* "${TMPDIR:-/tmp}"/startup-* /tmp/startup-* /dev/shm/startup-*
    for state in "${STARTUP_STATE_DIR:-/run/startup}" "$@"; do
        case ${STARTUP_STATE_DIR:-} in '') [ ! -L "$state" ] || continue ;; esac
        if ! is_trusted "$state" || ! is_live "$state"; then continue; fi
        [ ! -e "$state/ready" ] || code=0 # written after the phase, so read before it
        [ ! -e "$state/phase" ] || read -r phase <"$state/phase"
        case $phase in stopping | ended:*) code=1 ;; esac # the mark is taken away at the end
        answer "$code" "${phase:-starting}"
    done
    answer 1 'not running'
}
answer() { trap '' PIPE && printf '%s\n' "$2" 2>/dev/null; exit "$1"; } # whether it can be written or not

tell() { # usage: tell FILE TEXT; for the health verb and for people
    [ -L "$state/$1" ] || [ -p "$state/$1" ] || { printf '%s\n' "$2" >"$state/$1"; } 2>/dev/null || :
}

app_ended=3 app_ended_unanswered=4 # the module's exit codes: while tasks were left; without an answer to an explicit ping
# All but KILL and STOP, CHLD, and those that a fault of the shell's own would raise (ILL TRAP BUS FPE SEGV).
signals='1 2 3 6 10 12 13 14 15 16 18 23 24 25 26 27 28 29 30 31 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51'
signals="$signals 52 53 54 55 56 57 58 59 60 61 62 63 64"
job_control='20 21 22' state=/dev/null here=. group=false whole='' terminal='' closed='' no_events='' ignored=0 uid=0 started=0
no_module='it must be a Python from 3.10 on that has startup-tasks'
no_command='no command was given: an image that sets ENTRYPOINT loses the CMD of its base image and must repeat it'
case $0 in */*) here=${0%/*} ;; esac
packages=$here python3=python3 launching=STARTUP_LAUNCHING probe='env --default-signal=INT,QUIT'
# What shells set for themselves, change, or drop as no names of theirs; and, as env(1) drops it, what they add.
shells='BASH.*|COLUMNS|E?UID|FUNCNEST|GROUPS|IFS|LINENO|LINES|OLDPWD|OPT(IND|ARG|ERR)|P?PID|POSIXLY_CORRECT|PS[0-4]'
shells="$shells|PWD|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|DIRSTACK|EPOCH.*|HIST.*|PIPESTATUS|TMOUT|_"
shells="^(($shells)=|[^=]*[^A-Z0-9_=]|[^A-Z_])" added='-u PWD -u OLDPWD -u SHLVL -u _' through='' given=''

# Set in traps, too, or read there.
app='' helper='' timer='' phase='' module_code=0 code='' failure='' why='' told=''
stage=boot stop_signals='' stopping='' passed_on='' how=' by itself' reading='' pending=''

[ "${1-}" = :functions ] || main "$@"
