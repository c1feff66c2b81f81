#!/bin/bash
# How long `pbkfs wal-get` takes for a compressed 16 MB segment, beside a plain
# copy of the same segment and `gzip -dc` of it, all in one run. Prints the
# median of each and its ratio to the plain copy.
#
#   tests/bench/wal-get.sh [ROUNDS]     (default 15)
#
# archive-get of pg_probackup does one stream decode too (gzread); it is not
# here to be measured, so gzip stands for that.
set -eu
cd "$(dirname "$0")/../.."
rounds=${1:-15}
cargo build --release --locked --quiet
pbkfs="$(cargo metadata --format-version 1 --no-deps --locked |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/pbkfs"

work=$(mktemp -d "${TMPDIR:-/tmp}/pbkfs-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
zstd -dc postgres/fixtures/pg17-chain/catalog.tar.zst | tar -x --no-same-owner -C "$work"
catalog=$work/catalog
# The fixture's segments are of 16 MB, but plain; level 1 is what archive-push
# --compress takes unless told otherwise.
segment=$(cd "$catalog/wal/main" && printf '%s\n' 0000000100000000000000?? | sed -n 2p)
cp "$catalog/wal/main/$segment" "$work/plain"
gzip -1 "$catalog/wal/main/$segment"
echo "segment $segment: $(stat -c %s "$catalog/wal/main/$segment.gz") bytes compressed," \
    "$(stat -c %s "$work/plain") plain; $rounds rounds"

# Seconds that a command takes.
timed() {
    local begin=$EPOCHREALTIME
    "$@"
    echo "$begin $EPOCHREALTIME" | awk '{printf "%.6f\n", $2 - $1}'
}
copy() { cp "$work/plain" "$work/out"; }
decode() { gzip -dc "$catalog/wal/main/$segment.gz" >"$work/out"; }
fetch() { "$pbkfs" wal-get -B "$catalog" --instance main "$segment" "$work/out"; }

for round in $(seq "$rounds"); do
    for what in copy decode fetch; do
        rm -f "$work/out"
        timed $what >>"$work/$what"
        cmp -s "$work/out" "$work/plain" || { echo "$what gave something else" >&2; exit 1; }
    done
done
median() { sort -n "$work/$1" | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
for what in copy decode fetch; do
    awk -v what="$what" -v mine="$(median $what)" -v copy="$(median copy)" \
        'BEGIN {printf "%-8s %8.1f ms   %5.2f x plain copy\n", what, mine * 1000, mine / copy}'
done
