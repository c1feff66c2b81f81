#!/bin/sh
# From nothing to a query on a backup: installs what is missing, builds pbkfs, and runs
# PostgreSQL on a pg_probackup backup that is bundled with the project. If pbkfs is
# installed, that program is used and nothing is built.
# For Debian 12 or 13, with Rust or with the package; as root, or as a user with sudo.
# It works in its own directory under /tmp, and removes that at the end.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh

# With each catalog, what the live cluster answered just before the backup was made.
choose_server
case $PG_MAJOR in
15)
    FIXTURE=postgres/fixtures/pg15-chain
    BACKUP=TOW7JV
    database=shop
    sql='select count(*), sum(abalance) from pgbench_accounts'
    wanted='100000|-57372'
    change='update pgbench_accounts set abalance = 0 where aid <= 1000'
    ;;
17)
    FIXTURE=postgres/fixtures/pg17-chain
    BACKUP=TOW7O6
    database=postgres
    sql='select count(*), sum(hashtext(v)::bigint) from a'
    wanted='30000|-3938773886162'
    change="update a set v = 'changed' where id <= 1000"
    ;;
esac

if pbkfs=$(command -v pbkfs); then
    say "using $pbkfs, which is installed"
    # shellcheck disable=SC2046
    install_packages $(missing_packages)
else
    install_missing
    say "building pbkfs (a few minutes the first time)"
    cargo build --release --locked
    pbkfs=$(target_directory)/release/pbkfs
fi
open_fuse_device

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

say "unpacking a real pg_probackup catalog: PostgreSQL $PG_MAJOR, a chain of FULL, DELTA, PAGE and DELTA"
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

say "a query on the clone: $sql"
answer=$(query "$database" "$sql")
echo "    $answer"
[ "$answer" = "$wanted" ] ||
    die "the live cluster had answered $wanted just before the backup was taken"
say "that is what the live cluster answered just before the backup was taken"

say "the clone is writable: the catalog does not change, writes go to clone.diff"
# Not through a pipe, which would hide that it failed.
changed=$(query "$database" "$change")
echo "    $changed"

say "pbkfs status: shows what is running"
"$pbkfs" status "$profile" | sed 's/^/    /'

say "pbkfs down: stops the server and unmounts"
"$pbkfs" down "$profile"
say "done; removing $work"
