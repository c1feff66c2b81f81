#!/bin/sh
# Production is lost, and is back within a second: on a clone of the last backup, which
# becomes an ordinary data directory while an application works on it. Each row that the
# application was told is committed is there at the end.
# For Debian 12 with PostgreSQL 15 and an installed pbkfs; as root, or as a user who can
# use /dev/fuse. It works in its own directory under /tmp, and removes that at the end.
set -eu
cd "$(dirname "$0")/../.."
. tests/lib.sh

PG_MAJOR=15
PG_BIN=/usr/lib/postgresql/$PG_MAJOR/bin
pbkfs=$(command -v pbkfs) || die "install pbkfs first, or put it on PATH"
[ -x "$PG_BIN/postgres" ] || die "install postgresql-$PG_MAJOR first"

work=$(mktemp -d /tmp/pbkfs-story.XXXXXX)
profile=$work/main.toml
main=$work/pg/main
application=
# Whatever happens, stop everything and remove the directory.
clean_up() {
    status=$?
    trap - EXIT
    [ -z "$application" ] || kill "$application" 2>/dev/null || true
    "$pbkfs" down "$profile" >/dev/null 2>&1 || true
    [ ! -e "$main/postmaster.pid" ] || as_server "$PG_BIN/pg_ctl" stop -m immediate -D "$main" >/dev/null
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$work"
mkdir "$work/pg"

# Root's servers run as the user postgres.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        set -- setpriv --reuid=postgres --regid=postgres --init-groups "$@"
    fi
    (cd / && "$@")
}
[ "$(id -u)" -ne 0 ] || chown postgres:postgres "$work/pg"

query() {
    as_server "$PG_BIN/psql" -XAtq -v ON_ERROR_STOP=1 -d "$1 dbname=shop" -c "$2"
}

say "production is gone; what is left is the catalog of its backups"
zstd -dc postgres/fixtures/pg15-chain/catalog.tar.zst | tar -x --no-same-owner -C "$work"
cat >"$profile" <<END_OF_PROFILE
catalog  = "$work/catalog"
instance = "main"
backup   = "TOW7JV"
target   = "$work/clone"
diff_dir = "$work/pg/main.diff"
END_OF_PROFILE

say "pbkfs up: the last backup answers, and applications can go on"
begun=$(date +%s%N)
ready=$("$pbkfs" up "$profile" --detach)
ended=$(date +%s%N)
conninfo=$(echo "$ready" | grep -o "host=.*user=[^ ]*")
echo "    $ready"
echo "    after $(((ended - begun) / 1000000)) ms"

# It takes orders, one after the other, and notes those that the server has acknowledged.
take_orders() {
    number=0
    while number=$((number + 1)); do
        query "$conninfo" "insert into taken values ($number)" 2>/dev/null || return 0
        echo "$number" >>"$work/acknowledged"
    done
}
query "$conninfo" "create table taken (number int primary key)"
: >"$work/acknowledged"
take_orders &
application=$!

say "pbkfs promote: the clone becomes a data directory, while the application works on it"
"$pbkfs" promote "$profile" --to "$main" --at-once | sed 's/^/    /'
[ -e "$main/PG_VERSION" ] || die "there is no data directory"
wait "$application" || true
application=

say "the settings that are production's own again are looked at before it is started"
printf '%s\n' "archive_mode = off" "listen_addresses = ''" \
    "unix_socket_directories = '$work/pg'" >>"$main/postgresql.auto.conf"
as_server "$PG_BIN/pg_ctl" start -w -D "$main" -l "$work/pg/log" -o "-p 5432" >/dev/null
conninfo="host=$work/pg port=5432 user=postgres"

acknowledged=$(wc -l <"$work/acknowledged")
[ "$acknowledged" -gt 0 ] || die "the application did nothing"
kept=$(query "$conninfo" "select count(*) from taken where number <= $acknowledged")
say "the application was told of $acknowledged orders, and production has $kept of them"
[ "$kept" -eq "$acknowledged" ] || die "orders are lost"
sum=$(query "$conninfo" "select count(*), sum(abalance) from pgbench_accounts")
[ "$sum" = "100000|-57372" ] || die "the accounts are not those of the backup: $sum"
say "production runs on $main, and needs neither pbkfs nor the catalog"
"$pbkfs" cleanup --force -d "$work/pg/main.diff" | sed 's/^/    /'
as_server "$PG_BIN/pg_ctl" stop -w -m fast -D "$main" >/dev/null
say "done; removing $work"
