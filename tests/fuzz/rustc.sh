#!/bin/sh
# RUSTC_WORKSPACE_WRAPPER of `make fuzz`: adds libFuzzer's coverage to our own crate, and to nothing else, so that the
# dependencies are those of every other build. Works with a stable compiler. Level 1 halves the build, and what a target
# spends its time in are the dependencies.
rustc=$1
shift
case " $* " in
*" --crate-name scalingnote "* | *" --crate-name fuzz "*)
	exec "$rustc" "$@" \
		-Cpasses=sancov-module \
		-Cllvm-args=-sanitizer-coverage-level=4 \
		-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
		-Cllvm-args=-sanitizer-coverage-pc-table \
		-Cllvm-args=-sanitizer-coverage-trace-compares \
		-Clto=off \
		-Copt-level=1
	;;
*) exec "$rustc" "$@" ;;
esac
