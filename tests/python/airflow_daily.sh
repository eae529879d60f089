#!/bin/sh
# The Airflow DAG under the real Airflow: two days on the quick start's notes (fake tower, two shards).
# Day 1: one task is killed once, is tried again, and snapshot 1 is published. Day 2: nothing changed,
# everything after the plan is skipped.
#
#   airflow_daily.sh PROGRAM CACHE     (`make test-airflow`)
set -eu
cd "$(dirname "$0")/../.."
program=$1
cache=$2
venv=$cache/airflow
if ! "$venv/bin/python" -c 'import airflow' 2>/dev/null; then
    echo "installing Airflow into $venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'apache-airflow==3.*'
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/pipelines" "$work/.cache/notes" "$work/dags"
cp "$cache/notes/cwe-699.csv" "$work/.cache/notes/"
cp pipelines/airflow/scalingnote_daily.py "$work/dags/"
sed 's|^model = .*|model = "fake:64"|; s|^\[index\]$|[index]\nshards = 2|' pipelines/quickstart.toml >"$work/pipelines/p.toml"
# The first task that is started is killed, as an evicted worker would be.
cat >"$work/program" <<EOF
#!/bin/sh
echo "\$1" >>"$work/calls"
[ "\$1" != task ] || [ -e "$work/killed" ] || { touch "$work/killed"; kill -9 \$\$; }
exec "$program" "\$@"
EOF
chmod +x "$work/program"

export SCALINGNOTE="$work/program"
export SCALINGNOTE_PIPELINE="$work/pipelines/p.toml"
export SCALINGNOTE_RETRY_SECONDS=1
export AIRFLOW_HOME="$work/airflow"
export AIRFLOW__CORE__DAGS_FOLDER="$work/dags"
export AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__LOGGING__LOGGING_LEVEL=WARNING
airflow="$venv/bin/airflow"
"$airflow" db migrate >"$work/log" 2>&1
"$airflow" pools set scalingnote_gpu 2 "one slot a GPU" >>"$work/log" 2>&1
"$airflow" pools set scalingnote_cpu 2 "index builds at a time" >>"$work/log" 2>&1

day() {
    : >"$work/calls"
    if ! "$airflow" dags test scalingnote_daily "$1" >>"$work/log" 2>&1; then
        tail -n 60 "$work/log"
        exit 1
    fi
    calls=$(sort "$work/calls" | uniq -c | awk '{ printf "%s%s %s", sep, $1, $2; sep = ", " }')
    if [ "$calls" != "$2" ]; then
        echo "$1: the program was called: $calls; expected: $2"
        tail -n 60 "$work/log"
        exit 1
    fi
    echo "$1: $calls"
}
# Two encode tasks, one of them twice, the calibration, two builds.
day 2026-01-01 "1 plan, 1 publish, 6 task"
day 2026-01-02 "1 plan"
published=$(ls "$work/.cache/quickstart-699/snapshots")
[ "$published" = 00000000000000000001.json ] || { echo "published: $published"; exit 1; }
echo "2 passed, 0 failed"
