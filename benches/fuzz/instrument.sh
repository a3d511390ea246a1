#!/bin/sh
# A compiler with coverage feedback for libFuzzer, for the crates whose branches matter. Cargo calls it for members of
# the workspace when RUSTC_WORKSPACE_WRAPPER names it, and keeps what it builds apart from other builds; everything else
# that is built stays shared. Optimised, with the checks of a debug build.
rustc=$1
shift
case " $* " in
*' --crate-name millrace_schemas '* | *' --crate-name millrace_collector '* | *' --crate-name millrace_consumer '*)
    case " $* " in
    *' --crate-type lib '*)
        set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares
        ;;
    esac
    ;;
esac
case " $* " in
*' --crate-name millrace_'*) set -- "$@" -Copt-level=1 -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=4 ;;
esac
exec "$rustc" "$@"
