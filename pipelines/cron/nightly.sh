#!/bin/sh
# One night's run, for cron and for systemd: a log of its own, a time window, retries of transient failures,
# and output only when a person is needed (cron mails what a job prints).
#
#   nightly.sh PIPELINE LOG_DIR
#
# Environment: SCALINGNOTE (the program), WINDOW_MINUTES (default 240), PAUSE_SECONDS between
# tries (default 300), TELL_AFTER (default 2), KEEP_LOGS_DAYS (default 30), and whatever the program reads
# (SCALINGNOTE_METRICS_FILE, credentials).
#
# A failure (1), a wrong pipeline (2), a refused gate (3) and a killed run are reported at once. A night that only
# did not finish (75, or stopped from outside) is reported when it is the TELL_AFTER-th in a row, because the next run
# resumes. Until then this script prints nothing and ends with 0. If nights cannot be counted, it reports at once.
#
# No lock file is needed: while another run is active, a run ends with 75 and is retried within its window.
set -u

if [ $# -ne 2 ]; then
    echo "usage: nightly.sh PIPELINE LOG_DIR" >&2
    exit 2
fi
pipeline=$1
logs=$2
program=${SCALINGNOTE:-scalingnote}

# $2, the value of the variable $1, in $number, without leading zeros: they would make an octal number of it.
whole() {
    case $2 in
        '' | *[!0-9]* | ??????????*)
            echo "nightly.sh: $1 must be a whole number of 0 or more, with 9 digits at most, not \"$2\"" >&2
            exit 2
            ;;
    esac
    number=$2
    while [ ${#number} -gt 1 ] && [ "${number#0}" != "$number" ]; do
        number=${number#0}
    done
}
whole PAUSE_SECONDS "${PAUSE_SECONDS:-300}"
pause=$number
whole WINDOW_MINUTES "${WINDOW_MINUTES:-240}"
window=$((number * 60))
whole TELL_AFTER "${TELL_AFTER:-2}"
tell_after=$number
whole KEEP_LOGS_DAYS "${KEEP_LOGS_DAYS:-30}"
keep=$number
grace=600 # seconds between the deadline, when a run stops itself, and being killed

mkdir -p "$logs" || exit 1
log="$logs/$(date -u +%Y%m%dT%H%M%SZ).$$.log"
# Without its log the run would not start either, and that would look like an error of its own.
(: >>"$log") || exit 1
# Only what this script wrote: the folder may be anybody's, /var/log for one. The slash follows a link to a folder.
find "$logs/" -maxdepth 1 -type f -name '[0-9]*T[0-9]*Z.[0-9]*.log' -mtime "+$keep" -exec rm -f {} +

# Told to stop: the run is told once (a second signal would end it at once) and waited for.
child=
stopped=
told=
trap 'stopped=yes; tell' TERM INT
tell() {
    [ -n "$child" ] && [ "$told" != "$child" ] || return 0
    told=$child
    kill -TERM "$child" 2>/dev/null
}

# Waits for a command that a signal may reach through the trap; its exit code is in $code.
follow() {
    child=$!
    # A signal that came before the line above found nobody to tell.
    [ -z "$stopped" ] || tell
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
        code=$?
    done
    child=
}

# The seconds of the window that are left, in $left. A clock that is set back does not give time back.
look_at_clock() {
    now=$(date +%s)
    [ "$now" -ge "$seen" ] || start=$((start - (seen - now)))
    seen=$now
    left=$((window - (now - start)))
}

start=$(date +%s)
seen=$start
left=$window
try=1
code=130
while [ -z "$stopped" ]; do
    echo "try $try, $left seconds left" >>"$log"
    timeout --foreground --signal=TERM --kill-after=60 $((left + grace)) \
        "$program" run "$pipeline" --deadline "${left}s" --progress lines >>"$log" 2>&1 &
    follow
    # 75: run again. That is also how a reached deadline ends: then no time is left, and tomorrow's run goes on.
    [ $code -eq 75 ] && [ -z "$stopped" ] || break
    look_at_clock
    [ $left -gt "$pause" ] || break
    sleep "$pause" &
    follow
    code=75 # of the try, not of the pause
    # A machine that was suspended in the pause wakes after the window.
    look_at_clock
    [ $left -gt 0 ] || break
    try=$((try + 1))
done
# Stopped before it could handle the signal.
[ -z "$stopped" ] || [ $code -ne 143 ] || code=130
unfinished="$logs/unfinished" # how many nights in a row
if [ $code -eq 0 ]; then
    rm -f "$unfinished"
    exit 0
fi
nights=
if [ $code -eq 75 ] || [ $code -eq 130 ]; then
    nights=$(cat "$unfinished" 2>/dev/null)
    case $nights in
        # Empty after a full disk, or not ours.
        '' | 0* | *[!0-9]* | ??????????*) nights=0 ;;
    esac
    nights=$((nights + 1))
    if echo "$nights" >"$unfinished" && [ "$nights" -lt "$tell_after" ]; then
        echo "exit code $code, not finished; told from night $tell_after in a row" >>"$log"
        exit 0
    fi
fi

case $code in
    2) meaning="wrong flag or configuration" ;;
    3) meaning="a gate refused the snapshot; the last one stays published" ;;
    75) meaning="not finished in its window; the next run goes on from here" ;;
    130) meaning="told to stop; the next run goes on from here" ;;
    124) meaning="killed: it did not stop at its deadline" ;;
    137) meaning="killed: out of memory, or it did not stop at its deadline" ;;
    *) meaning="failed" ;;
esac
echo "scalingnote run $pipeline: exit code $code, $meaning (try $try${nights:+, night $nights in a row})"
echo "log: $log; its last lines:"
tail -n 40 "$log"
exit $code
