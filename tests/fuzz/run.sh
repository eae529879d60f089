#!/bin/sh
# usage: run.sh SECONDS CACHE CARGO
# Fuzzes every target for SECONDS and prints a table; ends with 1 where one found something. Inputs that took a new way
# through the code are kept in CACHE/fuzz, so the next run goes on from there; findings in CACHE/fuzz-found.
# SCALINGNOTE_FUZZ_KINDS chooses targets.
set -eu
seconds=$1 cache=$2 cargo=$3
here=$(cd "$(dirname "$0")" && pwd)
echo "building the fuzzer"
export RUSTC_WORKSPACE_WRAPPER="$here/rustc.sh"
built=$($cargo build --release --features fuzz --example fuzz --message-format=json-render-diagnostics |
	sed -n 's/.*"name":"fuzz".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
unset RUSTC_WORKSPACE_WRAPPER
[ -x "$built" ] || { echo "error: cargo named no fuzz binary" >&2; exit 1; }
kinds=${SCALINGNOTE_FUZZ_KINDS:-$(sed -n '/^pub const KINDS/,/^];/s/^ *"\(.*\)",$/\1/p' "$here/targets/mod.rs")}
export CARGO_MANIFEST_DIR="${CARGO_MANIFEST_DIR:-$(cd "$here/../.." && pwd)}"
failed=0
printf '%-16s %10s %8s %8s %8s\n' target executions edges inputs seconds
for kind in $kinds; do
	corpus="$cache/fuzz/$kind"
	found="$cache/fuzz-found/$kind"
	mkdir -p "$corpus" "$found"
	for known in "$here/found/$kind@"*; do
		[ -e "$known" ] && cp "$known" "$corpus/"
	done
	log="$found/log"
	began=$(date +%s)
	if SCALINGNOTE_FUZZ=$kind SCALINGNOTE_FUZZ_SEEDS=$corpus "$built" "$corpus" \
		-max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=65536 -len_control=0 \
		-artifact_prefix="$found/" -print_final_stats=1 >"$log" 2>&1; then
		verdict=
	else
		verdict=" FOUND: $found"
		failed=1
	fi
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
	edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
	inputs=$(find "$corpus" -type f | wc -l)
	printf '%-16s %10s %8s %8s %8s%s\n' \
		"$kind" "${runs:-?}" "${edges:-?}" "$inputs" "$(($(date +%s) - began))" "$verdict"
	[ -z "$verdict" ] || grep -h -m 3 '^FOUND:\|^==.*ERROR:\|^SUMMARY:' "$log" || true
done
exit $failed
