#!/bin/sh
# From nothing to a query on a backup: installs what is missing, builds pbkfs,
# and runs PostgreSQL on a pg_probackup backup that is bundled with the project.
# For a Debian 12 machine with Rust; as root, or as a user with sudo.
# It works in its own directory under /tmp, and removes that at the end.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh

FIXTURE=postgres/fixtures/pg15-chain
BACKUP=TOW7JV

install_missing
open_fuse_device

say "building pbkfs (a few minutes the first time)"
cargo build --release --locked
pbkfs="$(cargo metadata --format-version 1 --no-deps --locked |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/pbkfs"

work=$(mktemp -d /tmp/pbkfs-quickstart.XXXXXX)
profile=$work/profile.toml
# Whatever happens, stop the clone and remove the directory.
clean_up() {
    status=$?
    trap - EXIT
    "$pbkfs" down "$profile" >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# If root runs this, PostgreSQL runs as the user postgres, who must be able to enter.
chmod 755 "$work"

say "unpacking a real pg_probackup catalog: PostgreSQL 15, a chain of FULL, DELTA, PAGE and DELTA"
zstd -dc "$FIXTURE/catalog.tar.zst" | tar -x --no-same-owner -C "$work"

cat >"$profile" <<END
catalog  = "$work/catalog"
instance = "main"
backup   = "$BACKUP"
target   = "$work/clone"
diff_dir = "$work/clone.diff"
END
say "this is the whole profile:"
sed 's/^/    /' "$profile"

say "pbkfs up: mounts the backup, without restoring it, and starts PostgreSQL on it"
ready=$("$pbkfs" up "$profile" --detach)
echo "    $ready"
conninfo=$(echo "$ready" | grep -o "host=.*dbname=[^ ]*") ||
    die "the output of up has no connection string"

# Root connects as the user that the server runs as.
query() {
    set -- "$PG_BIN/psql" -XAt -d "$conninfo dbname=$1" -c "$2"
    if [ "$(id -u)" -eq 0 ]; then
        set -- setpriv --reuid=postgres --regid=postgres --init-groups "$@"
    fi
    (cd / && "$@")
}

sql='select count(*), sum(abalance) from pgbench_accounts'
wanted='100000|-57372'
say "a query on the clone: $sql"
answer=$(query shop "$sql")
echo "    $answer"
[ "$answer" = "$wanted" ] ||
    die "the live cluster had answered $wanted just before the backup was taken"
say "that is what the live cluster answered just before the backup was taken"

say "the clone is writable: the catalog does not change, writes go to clone.diff"
query shop "update pgbench_accounts set abalance = 0 where aid <= 1000" | sed 's/^/    /'

say "pbkfs status: shows what is running"
"$pbkfs" status "$profile" | sed 's/^/    /'

say "pbkfs down: stops the server and unmounts"
"$pbkfs" down "$profile"
say "done; removing $work"
