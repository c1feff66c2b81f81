#!/bin/sh
# Fuzzes every target, one after the other: `tests/fuzz/run.sh [SECONDS] [TARGET..]`.
# Prints one line with the result of each target; findings are in `artifacts`.
set -eu
cd "$(dirname "$0")"
. ../lib.sh

SECONDS_EACH=${1:-600}
[ $# -eq 0 ] || shift
SANITIZER=${SANITIZER:-address}
# Sanitizers and coverage need a nightly compiler, unless this is set.
RUSTC_BOOTSTRAP=1
CARGO_TARGET_DIR=$PWD/target
export RUSTC_BOOTSTRAP CARGO_TARGET_DIR

command -v cargo-fuzz >/dev/null || die "cargo-fuzz is missing: run cargo install cargo-fuzz"
command -v c++ >/dev/null || die "libFuzzer needs a C++ compiler: install g++"
[ $# -gt 0 ] || set -- $(cargo fuzz list --fuzz-dir .)
# Use the project's versions of all shared dependencies.
[ -e Cargo.lock ] || cp ../../Cargo.lock Cargo.lock

make_corpus() {
    unpacked=$(mktemp -d)
    trap 'rm -rf "$unpacked"' EXIT
    for archive in ../../postgres/fixtures/*/catalog.tar.zst; do
        name=$(basename "$(dirname "$archive")")
        mkdir "$unpacked/$name"
        zstd -dc "$archive" | tar -x -C "$unpacked/$name"
    done
    cargo run --quiet --example corpus -- "$unpacked" ../../config corpus >&2
    rm -rf "$unpacked"
}

# Prints the maximum size of an input in bytes: large enough for every feature of the
# format, small enough to be fast.
max_len() {
    case $1 in
    wal_pages | records) echo 40000 ;;
    codecs | header_map | content_list | profile | server_conf) echo 20000 ;;
    *) echo 4096 ;;
    esac
}

[ -d corpus ] || make_corpus

failed=0
for target; do
    log=target/$target.log
    mkdir -p "artifacts/$target" "corpus/$target"
    # No input may take 5 seconds, 512 MB, or 64 MB at once.
    cargo fuzz run --fuzz-dir . --sanitizer "$SANITIZER" "$target" -- \
        -max_total_time="$SECONDS_EACH" -max_len="$(max_len "$target")" \
        -timeout=5 -rss_limit_mb=512 -malloc_limit_mb=64 -print_final_stats=1 \
        >"$log" 2>&1 || failed=1
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    findings=$(find "artifacts/$target" -type f | wc -l)
    echo "$target: ${executions:-none} executions, coverage ${coverage:-0}, $findings findings"
done
exit $failed
