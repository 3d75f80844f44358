#!/bin/sh
# Stands in for rustc: adds coverage counters to our crates and to the parsers that they lean on; the rest, most of it
# cryptography, stays as fast as it is.
compiler=$1
shift
case "$CARGO_PKG_NAME:$CARGO_CRATE_NAME" in
*:build_script_*) ;;
ginnel* | postcard:* | serde_json:* | stun-rs:* | toml*:* | winnow:*)
    set -- "$@" -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$compiler" "$@"
