#!/bin/sh
# The Airflow DAG under the real Airflow, on the quick start's notes (fake tower, two shards):
#   day 1  one task is killed, one transient failure (75): both tried again, snapshot 1 is published
#   day 2  nothing changed: everything between the plan and the gc is skipped; the gc fails, and the run does not
#   day 3  a gate refuses (3): the run fails, and nothing is tried again
#   then   a plan of more than 1,000 tasks: what travels through XCom stays small
#   shares a corpus of several files is read and gathered by mapped tasks; one of a single file by the plan, as ever
#   nights a tower is to take over: the first night encodes its share behind the day's snapshot; on the second the day has
#          nothing to do, and a gate refuses the switch; the third switches; on the fourth nothing is left
#   pods   the same DAG as pods: imported, rendered, its pods and its exit codes checked
#
#   airflow_daily.sh PROGRAM CACHE     (`make test-airflow`; AIRFLOW_VENV: an environment to use instead)
set -eu
cd "$(dirname "$0")/../.."
program=$1
cache=$2
venv=${AIRFLOW_VENV:-$cache/airflow}
packages='apache-airflow==3.* apache-airflow-providers-cncf-kubernetes'
if ! "$venv/bin/python" -c 'import airflow, airflow.providers.cncf.kubernetes' 2>/dev/null; then
    echo "installing Airflow into $venv"
    python3 -m venv --clear "$venv"
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $packages
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/pipelines" "$work/.cache/notes" "$work/dags"
cp "$cache/notes/cwe-699.csv" "$work/.cache/notes/"
cp pipelines/airflow/scalingnote_daily.py "$work/dags/"
sed '/^\[query.tower\]$/,/^\[encode\]$/{/^\[encode\]$/!d}; s|^model = .*|model = "fake:64"|; /^adapter = /d; s|^\[index\]$|[index]\nshards = 2|' \
    pipelines/quickstart.toml >"$work/pipelines/p.toml"
sed 's|^shards = 2$|shards = 800|; s|quickstart-699|many|' "$work/pipelines/p.toml" >"$work/pipelines/many.toml"
{
    sed 's|quickstart-699|nights|' "$work/pipelines/p.toml"
    printf '[next]\ntokens_per_run = TOKENS\n[next.tower]\nmodel = "fake:32"\npooling = "mean"\nmax_tokens = 512\n'
} >"$work/pipelines/nights.toml"
# The first task that is started is killed, as an evicted worker would be; the second meets a transient failure.
cat >"$work/program" <<PROGRAM
#!/bin/sh
echo "\$1" >>"$work/calls"
if [ "\$1" = task ]; then
    mkdir "$work/killed" 2>/dev/null && kill -9 \$\$
    mkdir "$work/faulted" 2>/dev/null && exit 75
fi
[ "\$1" = snapshot ] && [ -e "$work/no-gc" ] && exit 1
exec "$program" "\$@"
PROGRAM
chmod +x "$work/program"

export SCALINGNOTE="$work/program"
export SCALINGNOTE_PIPELINE="$work/pipelines/p.toml"
export SCALINGNOTE_SHARES=4
export SCALINGNOTE_RETRY_SECONDS=1
export AIRFLOW_HOME="$work/airflow"
export AIRFLOW__CORE__DAGS_FOLDER="$work/dags"
export AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__LOGGING__LOGGING_LEVEL=WARNING
airflow="$venv/bin/airflow"
passed=0

fail() {
    tail -n 60 "$work/log"
    echo "FAILED: $*"
    exit 1
}

"$airflow" version
"$airflow" db migrate >"$work/log" 2>&1 || fail "airflow db migrate"
"$airflow" pools set scalingnote_gpu 2 "one slot a GPU" >>"$work/log" 2>&1
"$airflow" pools set scalingnote_cpu 2 "index builds at a time" >>"$work/log" 2>&1
"$airflow" dags list-import-errors >"$work/errors" 2>>"$work/log"
grep -q "No data found" "$work/errors" || fail "the DAG does not import: $(cat "$work/errors")"

# day DATE, how it ends, which calls of the program it makes
day() {
    : >"$work/calls"
    ended=success
    "$airflow" dags test scalingnote_daily "$1" >>"$work/log" 2>&1 || ended=failed
    calls=$(sort "$work/calls" | uniq -c | awk '{ printf "%s%s %s", sep, $1, $2; sep = ", " }')
    [ "$ended, $calls" = "$2, $3" ] || fail "$1 ended with $ended, calls: $calls; expected: $2, $3"
    echo "$1: $ended, calls: $calls"
    passed=$((passed + 1))
}

# Two shares of encode, the calibration, two of build; the killed and the faulted one twice.
day 2026-01-01 success "1 plan, 1 publish, 1 snapshot, 7 task"
touch "$work/no-gc"
day 2026-01-02 success "1 plan, 1 snapshot"
rm "$work/no-gc"
published=$(ls "$work/.cache/quickstart-699/snapshots")
[ "$published" = 00000000000000000001.json ] || fail "published: $published"

export SCALINGNOTE__GATES__MIN_NOTES=1000000 SCALINGNOTE__TOWER__MAX_TOKENS=64
day 2026-01-03 failed "1 plan, 1 publish, 1 snapshot, 5 task"
unset SCALINGNOTE__GATES__MIN_NOTES SCALINGNOTE__TOWER__MAX_TOKENS
published=$(ls "$work/.cache/quickstart-699/snapshots")
[ "$published" = 00000000000000000001.json ] || fail "published in spite of a gate: $published"

SCALINGNOTE_PIPELINE="$work/pipelines/many.toml" day 2026-01-04 success "1 plan, 1 publish, 1 snapshot, 9 task"
"$venv/bin/python" - "$work" <<'PYTHON' || fail "XCom"
import glob, json, sqlite3, sys
work = sys.argv[1]
(plan,) = (json.load(open(name)) for name in glob.glob(f"{work}/.cache/many/runs/*/plan.json"))
tasks = len(plan["encode"]) + len(plan["build"]) + (plan["calibrate"] is not None)
assert tasks > 1000, f"only {tasks} tasks"
rows = sqlite3.connect(f"{work}/airflow/airflow.db").execute(
    "select run_id, task_id, length(cast(value as blob)) from xcom").fetchall()
last = max(run for run, _, _ in rows)  # runs are named by when they began
many = [size for run, _, size in rows if run == last]
assert len(many) >= 4, f"the plan and its shares are not among {rows}"
largest = max(many)
print(f"XCom of a plan of {tasks} tasks: {len(many)} values, the largest {largest} bytes, {sum(many)} in all")
assert largest < 1024 and sum(many) < 4096, "XCom grows with the plan"
PYTHON
passed=$((passed + 1))

mkdir "$work/shared"
"$venv/bin/python" - "$work/shared" <<'PYTHON'
import json, sys
for number in range(3):
    with open(f"{sys.argv[1]}/{number}.jsonl", "w") as file:
        for at in range(number, 300, 3):
            file.write(json.dumps({"id": at, "body": f"note {at}", "unread": f"{at:07}" * 1000}) + "\n")
PYTHON
cat >"$work/pipelines/shared.toml" <<'TOML'
version = 2
[corpus]
sql = "SELECT id AS note_id, body FROM notes"
template = "{{ body }}"
share_mib = 1
[[corpus.tables]]
name = "notes"
uri = "../shared/*.jsonl"
[tower]
model = "fake:64"
pooling = "mean"
[index]
shards = 2
[publish]
root = "../.cache/shared"
TOML
export SCALINGNOTE_CORPUS_SHARES=3
# Two shares of the corpus and two shards of it, two of encode, the calibration, two of build.
SCALINGNOTE_PIPELINE="$work/pipelines/shared.toml" day 2026-01-09 success "2 plan, 1 publish, 1 snapshot, 9 task"
"$program" snapshot verify "$work/.cache/shared" --quiet >>"$work/log" 2>&1 || fail "what was read in shares does not verify"
day 2026-01-10 success "2 plan, 1 snapshot"
unset SCALINGNOTE_CORPUS_SHARES

# Two nights are enough: one for more than half of the tokens, one for the rest.
export SCALINGNOTE_PIPELINE="$work/pipelines/nights.toml"
sed -i 's|TOKENS|1000000000|' "$SCALINGNOTE_PIPELINE"
tokens=$("$program" plan "$SCALINGNOTE_PIPELINE" --set publish.root=memory://plan --brief 2>>"$work/log" |
    "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["backfill"]["tokens"] * 3 // 5)')
sed -i "s|1000000000|$tokens|" "$SCALINGNOTE_PIPELINE"
space() { # the dimensions of snapshot $1, and how many there are
    "$venv/bin/python" - "$work/.cache/nights/snapshots" "$1" <<'PYTHON'
import json, pathlib, sys
snapshots = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
print(json.loads(snapshots[int(sys.argv[2]) - 1].read_text())["content"]["space"]["dimensions"], len(snapshots))
PYTHON
}
day 2026-01-05 success "1 plan, 2 publish, 1 snapshot, 8 task"
[ "$(space 1)" = "64 1" ] || fail "after the first night: $(space 1)"
export SCALINGNOTE__GATES__MIN_NOTES=1000000
day 2026-01-06 failed "1 plan, 1 publish, 1 snapshot, 4 task"
unset SCALINGNOTE__GATES__MIN_NOTES
[ "$(space 1)" = "64 1" ] || fail "switched in spite of a gate: $(space 1)"
day 2026-01-07 success "1 plan, 1 publish, 1 snapshot, 3 task"
[ "$(space 2)" = "32 2" ] || fail "after the switch: $(space 2)"
day 2026-01-08 success "1 plan, 1 snapshot"

SCALINGNOTE_POD="$PWD/pipelines/kubernetes/tasks-job.yaml" \
    "$venv/bin/python" tests/python/airflow_pods.py "$work/dags/scalingnote_daily.py" 2>>"$work/log" || fail "the DAG of pods"
passed=$((passed + 1))
echo "$passed passed, 0 failed"
