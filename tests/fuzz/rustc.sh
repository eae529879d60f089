#!/bin/sh
# RUSTC_WORKSPACE_WRAPPER of `make fuzz`: adds libFuzzer's coverage to our own crate, and to nothing else, so that the
# dependencies are those of every other build. Works with a stable compiler.
rustc=$1
shift
case " $* " in
*" --crate-name scalingnote "* | *" --crate-name fuzz "*)
	exec "$rustc" "$@" --cfg fuzzing \
		-Cpasses=sancov-module \
		-Cllvm-args=-sanitizer-coverage-level=4 \
		-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
		-Cllvm-args=-sanitizer-coverage-pc-table \
		-Cllvm-args=-sanitizer-coverage-trace-compares \
		-Ccodegen-units=1
	;;
*) exec "$rustc" "$@" ;;
esac
