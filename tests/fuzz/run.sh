#!/bin/sh
# usage: run.sh SECONDS CACHE CARGO
# Fuzzes every target for SECONDS and prints a table; stops with an error where one found something.
set -eu
seconds=$1 cache=$2 cargo=$3
here=$(cd "$(dirname "$0")" && pwd)
export RUSTC_WORKSPACE_WRAPPER="$here/rustc.sh"
built=$($cargo build --release --features fuzz --example fuzz --message-format=json |
	sed -n 's/.*"name":"fuzz".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
unset RUSTC_WORKSPACE_WRAPPER
[ -x "$built" ] || { echo "error: cargo named no fuzz binary" >&2; exit 1; }
kinds=${SCALINGNOTE_FUZZ_KINDS:-$(sed -n '/^pub const KINDS/,/^];/s/^ *"\(.*\)",$/\1/p' "$here/targets/mod.rs")}
export CARGO_MANIFEST_DIR="${CARGO_MANIFEST_DIR:-$(cd "$here/../.." && pwd)}"
failed=0
printf '%-16s %12s %10s %8s\n' target executions edges seconds
for kind in $kinds; do
	corpus="$cache/fuzz/$kind"
	found="$cache/fuzz-found/$kind"
	mkdir -p "$corpus" "$found"
	log="$found/log"
	if SCALINGNOTE_FUZZ=$kind SCALINGNOTE_FUZZ_SEEDS=$corpus "$built" "$corpus" \
		-max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=65536 -len_control=0 \
		-artifact_prefix="$found/" -print_final_stats=1 >"$log" 2>&1; then
		verdict=
	else
		verdict="FOUND: see $found"
		failed=1
	fi
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
	edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
	printf '%-16s %12s %10s %8s %s\n' "$kind" "${runs:-?}" "${edges:-?}" "$seconds" "$verdict"
done
exit $failed
