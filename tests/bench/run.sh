#!/bin/bash
# Measures a clone and a plain copy of the same data, each figure of both in
# the same run, and prints a table in Markdown for tests/bench/RESULTS.md.
#
#   tests/bench/run.sh [--scale N] [--rounds N] [--quick] [--only SECTION]
#                      [--seconds N] [--user root|postgres] [--data DIR] [--set KEY=VALUE]
#
# The data is a pgbench database (--scale 100, 1.5 GB, unless told otherwise)
# in a chain of FULL + 4 DELTA, zlib, created by examples/make-catalog; one more
# DELTA is taken after a scan that sets all hint bits. --quick is a small
# run that shows that everything works. Sections: start, scan, pgbench, write,
# files, names, promote, lists, codecs. --data keeps the data for the next run, or reuses the
# data of the last one; --set gives a setting to every clone. Needs root: the clone
# of an unprivileged user is run as postgres. Needs some ten times the space of the
# data, below TMPDIR.
{ # Read as a whole, so that it can be edited while it is running.
set -eu
scale=100 rounds=5 seconds=30 only= users="root postgres" data= settings=() lists="1000 10000 100000 1000000"
while [ $# -gt 0 ]; do
    case $1 in
    --scale) scale=$2 && shift ;;
    --rounds) rounds=$2 && shift ;;
    --only) only=$2 && shift ;;
    --data) data=$(realpath -m "$2") && shift ;;
    --set) settings+=(--set "$2") && shift ;;
    --seconds) seconds=$2 && shift ;;
    --user) users=$2 && shift ;;
    --quick) scale=5 rounds=2 seconds=3 lists="1000 10000" ;;
    *) echo "unknown argument: $1" >&2 && exit 2 ;;
    esac
    shift
done
cd "$(dirname "$0")/../.."
. tests/lib.sh
[ "$(id -u)" -eq 0 ] || die "run this as root"
install_missing
open_fuse_device
say "building"
cargo build --release --locked --quiet --bin pbkfs --example make-catalog
built="$(cargo metadata --format-version 1 --no-deps --locked |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release"

work=$(mktemp -d "${TMPDIR:-/tmp}/pbkfs-bench.XXXXXX")
chmod 755 "$work"
cp "$built/pbkfs" "$built/examples/make-catalog" "$work"
mkdir "$work/home" "$work/root" "$work/postgres"
chown postgres "$work/home" "$work/postgres"
figures=$work/figures
touch "$figures"
PATH=$PG_BIN:$PATH

as() {
    local user=$1
    shift
    if [ "$user" = root ]; then "$@"; else
        setpriv --reuid "$user" --regid "$user" --clear-groups \
            env HOME="$work/home" XDG_RUNTIME_DIR="$work/home" "$@"
    fi
}

# -- figures ------------------------------------------------------------------

# Prints the seconds that a command takes; discards the command's output.
timed() {
    local begin=$EPOCHREALTIME
    "$@" >/dev/null
    echo "$begin $EPOCHREALTIME" | awk '{printf "%.6f\n", $2 - $1}'
}
# figure NAME UNIT PLAIN CLONE: one round of both. PLAIN is - if there is
# nothing to compare with.
figure() {
    printf '%s\t%s\t%s\t%s\n' "$@" >>"$figures"
    echo "    $*" >&2
}
# Prints the target for each figure's median: a pattern for its name, whether the ratio
# or the clone's own value counts, and the limit.
targets() {
    cat <<'END'
mount to the first ls, 5 layers, .*:value:at most:0.05
up in addition to the server's own start, .*:value:at most:0.3
cold sum\(\) over the largest table, .*:ratio:at most:2.5
warm sum\(\), hint bits set, .*:ratio:at most:1.05
pgbench -S, root:ratio:at least:0.95
pgbench -S, postgres:ratio:at least:0.90
pgbench TPC-B, root:ratio:at least:0.95
pgbench TPC-B, postgres:ratio:at least:0.85
cat of every file, .*:value:at least:1000
create 20000 empty files, .*:ratio:at most:4
decode of zlib pages .*:ratio:at least:0.9
mount to the first ls, 1000000 lines .*:value:at most:1.5
peak memory until then, 1000000 lines .*:value:at most:400
memory after .*:value:at most:320
diff after the scan, hint bits set, .*:value:at most:1
TPC-B while the clone is hydrated, .*:ratio:at least:0.8
hydration under TPC-B, .*:ratio:at most:3
cut-over, .*:value:at most:2
cut-over with 100000 more files, .*:value:at most:7
memory after hydration, .*:value:at most:320
sum\(\) in a promoted directory, .*:ratio:at most:1.1
pgbench .* in a promoted directory, .*:ratio:at least:0.9
END
}
table() {
    targets | awk -F '\t' '
        function median(list, n, v, i, j, t) {
            n = split(list, v, " ")
            for (i = 2; i <= n; i++)
                for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
            low = v[1]; high = v[n]
            return v[int((n + 1) / 2)]
        }
        function verdict(name, ratio, value, i, part, found, met) {
            for (i = 1; i <= limits; i++) {
                split(limit[i], part, ":")
                if (name !~ "^(" part[1] ")$") continue
                found = part[2] == "ratio" ? ratio : value
                met = part[3] == "at most" ? found <= part[4] + 0 : found >= part[4] + 0
                return part[3] " " part[4] (part[2] == "ratio" ? " x" : "") (met ? ": met" : ": missed")
            }
            return ""
        }
        FILENAME == "-" { limit[++limits] = $0; next }
        !($1 in unit) { names[++count] = $1; unit[$1] = $2 }
        {
            plain[$1] = plain[$1] " " $3; clone[$1] = clone[$1] " " $4
            if ($3 != "-" && $3 > 0) ratio[$1] = ratio[$1] " " $4 / $3
        }
        END {
            print "| figure | unit | plain copy | clone | ratio (min .. max) | target |"
            print "|---|---|---|---|---|---|"
            for (i = 1; i <= count; i++) {
                name = names[i]
                value = median(clone[name])
                printf "| %s | %s | ", name, unit[name]
                if (name in ratio) printf "%.4g | %.4g | ", median(plain[name]), value
                else printf "| %.4g | ", value
                middle = median(name in ratio ? ratio[name] : clone[name])
                if (name in ratio) printf "%.2f (%.2f .. %.2f) | ", middle, low, high
                else printf "(%.4g .. %.4g) | ", low, high
                print verdict(name, middle, value) " |"
            }
        }' - "$figures"
}

sum='select sum(abalance) from pgbench_accounts'

# -- the plain copy and the clone ---------------------------------------------

plain_start() { as postgres pg_ctl -s -w -D "$work/plain" -l "$work/home/log" -o "-h '' -k $work/home" start; }
plain_stop() { as postgres pg_ctl -s -w -D "$work/plain" -m fast stop; }
# Selects the data for the plain copy and the clone: before or after the scan that set
# the hint bits.
choose() {
    source=$data/$1
    backup=$(cat "$data/$1.backup")
}
# Recreates the plain copy, and writes it back before anything is measured.
plain_copy() { rm -rf "$work/plain" && cp -a "$source" "$work/plain" && sync -f "$work/plain"; }
plain_sql() { as postgres psql -XAtq -v ON_ERROR_STOP=1 "host=$work/home dbname=postgres" -c "$1"; }

# Writes the profile of a clone of the newest backup by root or postgres, followed by
# the further arguments.
profile() {
    local user=$1 top=$2 postgres=$3
    cat >"$work/$user.toml" <<END
catalog = "$data/catalog"
instance = "main"
backup = "$backup"
target = "$work/$user/clone"
$top
[postgres]
$postgres
$([ "$user" = root ] && echo 'user = "postgres"')
END
}
clone_up() { clone=$(as "$1" "$work/pbkfs" up "$work/$1.toml" --detach --json "${settings[@]}"); }
clone_down() { as "$1" "$work/pbkfs" down "$work/$1.toml" >/dev/null; }
clone_field() { echo "$clone" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
clone_sql() { as postgres psql -XAtq -v ON_ERROR_STOP=1 "$(clone_field conninfo)" -c "$1"; }
clone_memory() { awk "/^$1:/ {print \$2 / 1024}" "/proc/$(clone_field pid)/status"; }
both_up() { # starts a user's clone, and the plain copy
    plain_start
    profile "$1" "diff_dir = \"$work/$1/diff\"" ""
    clone_up "$1"
}
both_down() {
    clone_down "$1"
    plain_stop
    rm -rf "$work/$1/diff"
}

cleanup() {
    for user in $users; do
        [ ! -e "$work/$user.toml" ] || clone_down "$user" 2>/dev/null || true
    done
    [ ! -e "$work/plain/postmaster.pid" ] || plain_stop || true
    rm -rf "$work"
}
trap cleanup EXIT

# Stops the cluster and takes the next backup of it.
cluster_start() {
    as postgres pg_ctl -s -w -D "$cluster" -l "$work/home/log" \
        -o "-c fsync=off -h '' -k $work/home" start
}
cluster_backup() {
    as postgres pg_ctl -s -w -D "$cluster" -m fast stop
    "$work/make-catalog" -B "$data/catalog" -D "$cluster" --mode "$1" >&2
}
# keep NAME: keeps the cluster and its newest backup under this name.
keep() {
    cp -a "$cluster" "$data/$1"
    # shellcheck disable=SC2012 # the names are IDs: digits and letters
    ls "$data/catalog/backups/main" | grep -v conf | tail -1 >"$data/$1.backup"
}
make_chain() {
    say "creating a cluster of scale $scale and its chain"
    cluster=$work/home/cluster
    as postgres mkdir "$cluster"
    as postgres initdb -k -N -A trust -D "$cluster" >/dev/null
    cat >>"$cluster/postgresql.conf" <<END
shared_buffers = 128MB # the same as in a clone, whatever the backup says
max_wal_size = 8GB
checkpoint_timeout = 1h
autovacuum = off
max_parallel_workers_per_gather = 0
END
    cluster_start
    as postgres pgbench -i -q -s "$scale" -h "$work/home" postgres 2>/dev/null
    cluster_backup full
    for _ in 1 2 3 4; do
        cluster_start
        as postgres pgbench -n -h "$work/home" -c 4 -j 2 -t $((scale * 25)) postgres >/dev/null
        cluster_backup delta
    done
    keep changed
    cluster_start
    as postgres psql -XAtq -h "$work/home" -c "$sum" postgres >/dev/null
    cluster_backup delta
    keep scanned
    rm -rf "$cluster"
    chown -R postgres "$data/catalog"
    echo "$scale" >"$data/scale"
}

# Makes sure that no measurement includes writes or hint bits of an earlier one, and
# that everything is in memory.
settle() {
    for sql in "$sum" checkpoint; do
        plain_sql "$sql" >/dev/null
        clone_sql "$sql" >/dev/null
    done
    sync -f "$work"
}

# -- the sections -------------------------------------------------------------

copy_and_answer() { plain_copy && plain_start && plain_sql 'select 1'; }
up_and_answer() { clone_up "$1" && clone_sql 'select 1'; }
section_start() {
    for round in $(seq "$rounds"); do
        full=$(timed copy_and_answer)
        plain_stop
        start=$(timed plain_start)
        plain_stop
        for user in $users; do
            profile "$user" "" ""
            begin=$EPOCHREALTIME
            up_and_answer "$user" >/dev/null
            took=$(echo "$begin $EPOCHREALTIME" | awk '{print $2 - $1}')
            clone_down "$user"
            figure "up to the first answer, compared with copying and starting, $user" s "$full" "$took"
            figure "up in addition to the server's own start, $user" s - "$(echo "$took $start" | awk '{print $1 - $2}')"
            profile "$user" "" "launch = false"
            begin=$EPOCHREALTIME
            clone_up "$user"
            as "$user" ls "$work/$user/clone" >/dev/null
            figure "mount to the first ls, 5 layers, $user" s - \
                "$(echo "$begin $EPOCHREALTIME" | awk '{print $2 - $1}')"
            clone_down "$user"
        done
    done
}

# Prints the size of the diff in megabytes, without the server's WAL.
diff_size() { du -s --block-size=1 --exclude .pbkfs-wal "$work/$1/diff" | awk '{print $1 / 1e6}'; }
minus() { echo "$1 $2" | awk '{print $1 - $2}'; }
# Waits until the diff has not shrunk for 10 s, and prints its size.
settled() {
    local last=0 size
    size=$(diff_size "$1")
    while [ "$last" != "$size" ]; do
        last=$size
        sleep 10
        size=$(diff_size "$1")
    done
    echo "$size"
}
# Measures a scan of DATA, described by WORDS.
scan_of() {
    local user=$1 words=$3 before
    choose "$2"
    plain_copy
    cat "$work"/plain/base/*/* >/dev/null
    lsn="select (pg_current_wal_insert_lsn() - '0/0') / 1e6"
    both_up "$user"
    clone_sql checkpoint
    before=$(diff_size "$user")
    wal=$(clone_sql "$lsn")
    # Everything the plain copy has written is synced before the clone is measured.
    figure "cold sum() over the largest table, $words, $user" s \
        "$(timed plain_sql "$sum")" "$(sync -f "$work" && timed clone_sql "$sum")"
    sync -f "$work"
    for _ in 1 2 3; do
        figure "warm sum(), $words, $user" s "$(timed plain_sql "$sum")" "$(timed clone_sql "$sum")"
    done
    clone_sql checkpoint
    figure "WAL of the scan, $words, $user" MB - "$(minus "$(clone_sql "$lsn")" "$wal")"
    figure "diff after the scan, $words, $user" MB - "$(minus "$(diff_size "$user")" "$before")"
    if [ "$2" = changed ]; then
        begin=$EPOCHREALTIME
        figure "diff once it has stopped shrinking, $user" MB - "$(minus "$(settled "$user")" "$before")"
        figure "time until then, $user" s - "$(minus "$EPOCHREALTIME" "$begin")"
    fi
    figure "memory after the scan, $words, $user" MB - "$(clone_memory VmHWM)"
    both_down "$user"
}
section_scan() {
    for round in $(seq "$rounds"); do
        for user in $users; do
            scan_of "$user" scanned "hint bits set"
            scan_of "$user" changed "setting hint bits"
        done
    done
}

tps() { as postgres pgbench -n -c 4 -j 2 -T "$seconds" "$@" 2>/dev/null | sed -n 's/^tps = \([0-9.]*\).*/\1/p'; }
section_pgbench() {
    for user in $users; do
        both_up "$user"
        index='select count(*) from pgbench_accounts where aid > 0'
        plain_sql "$index" >/dev/null
        clone_sql "$index" >/dev/null
        for round in $(seq "$rounds"); do
            for kind in -S -N ''; do
                settle
                # shellcheck disable=SC2086
                plain=$(tps $kind "host=$work/home dbname=postgres")
                settle
                # shellcheck disable=SC2086
                figure "pgbench ${kind:-TPC-B}, $user" tps "$plain" "$(tps $kind "$(clone_field conninfo)")"
            done
        done
        both_down "$user"
        plain_copy
    done
}

section_write() {
    # The old and new versions of the rows take up some 100 MB of pages.
    change='update pgbench_accounts set abalance = abalance + 1 where aid <= 390000'
    for round in $(seq "$rounds"); do
        for user in $users; do
            both_up "$user"
            for sql in checkpoint "$change"; do
                plain_sql "$sql"
                clone_sql "$sql"
            done
            sync -f "$work"
            figure "checkpoint after 100 MB of changes, $user" s \
                "$(timed plain_sql checkpoint)" "$(timed clone_sql checkpoint)"
            settle
            index='create index on pgbench_accounts (abalance, aid)'
            figure "CREATE INDEX, warm, $user" s "$(timed plain_sql "$index")" \
                "$(sync -f "$work" && timed clone_sql "$index")"
            both_down "$user"
            plain_copy
        done
    done
}

cat_all() { find "$1" -type f -exec cat {} + >/dev/null; }
section_files() {
    bytes=$(du -s --apparent-size --block-size=1 "$work/plain" | cut -f 1)
    cat_all "$work/plain"
    for round in $(seq "$rounds"); do
        for user in $users; do
            profile "$user" "" "launch = false"
            clone_up "$user"
            rate() { as "$1" bash -c "$(declare -f timed cat_all); timed cat_all $2" | awk -v b="$bytes" '{print b / 1e6 / $1}'; }
            figure "cat of every file, cold, $user" MB/s "$(rate "$user" "$work/plain")" \
                "$(rate "$user" "$work/$user/clone")"
            figure "memory after cat of every file, $user" MB - "$(clone_memory VmHWM)"
            clone_down "$user"
        done
    done
}

# Creates files as PostgreSQL does. Any further query about a file costs a request:
# perl's own open asks whether it is a terminal.
make_files() {
    mkdir "$1" && perl -MPOSIX -MFcntl -e 'for (1 .. 20000) {
        my $file = POSIX::open("$ARGV[0]/$_", O_CREAT | O_EXCL | O_RDWR, 0600) // die "$_: $!";
        POSIX::close($file) }' "$1"
}
list_files() { ls -l "$1"; }
delete_files() { perl -e 'unlink "$ARGV[0]/$_" or die "$_: $!" for 1 .. 20000' "$1" && rmdir "$1"; }
# both_files WHAT FUNCTION USER ROUND: one figure of a directory in both.
both_files() {
    in_dir() { as postgres bash -c "$(declare -f timed "$1"); timed $1 $2"; }
    figure "$1, $3" s "$(in_dir "$2" "$work/plain/many$4")" "$(in_dir "$2" "$work/$3/clone/many$4")"
}
section_names() {
    for user in $users; do
        both_up "$user"
        for round in $(seq "$rounds"); do
            both_files "create 20000 empty files" make_files "$user" "$round"
            both_files "list them with their attributes" list_files "$user" "$round"
            tables="do \$\$ begin for i in 1 .. 1000 loop
                execute format('create table many_%s_%s (id int primary key, t text)', $round, i);
                end loop; end \$\$"
            settle
            figure "create 1000 tables, $user" s "$(timed plain_sql "$tables")" "$(timed clone_sql "$tables")"
        done
        # Only after all were created: ext4 is slow to create files where others were
        # deleted moments ago.
        for round in $(seq "$rounds"); do
            both_files "delete 20000 files" delete_files "$user" "$round"
        done
        both_down "$user"
        plain_copy
    done
}

# number NAME: reads a JSON document, and prints the first number of that name.
number() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" | head -1; }
hydration() { as "$1" "$work/pbkfs" status "$work/$1.toml" --json | sed -n '/"hydration"/,$p'; }
# Starts a promotion that waits, and returns when the clone is hydrated.
hydrate() {
    as "$1" "$work/pbkfs" promote "$work/$1.toml" --to "$work/$1/made" >/dev/null 2>&1 &
    until hydration "$1" | grep -q '"complete"'; do sleep 0.2; done
}
# Stops the clone, and prints what the cut-over says of itself.
finish() { as "$1" "$work/pbkfs" promote "$work/$1.toml" --finish --json "${@:2}"; }
# A server on what was promoted, beside the plain copy.
made_sql() { as postgres psql -XAtq -v ON_ERROR_STOP=1 "host=$work/home port=5433 dbname=postgres" -c "$1"; }
made_start() { as postgres pg_ctl -s -w -D "$work/$1/made" -l "$work/home/log" -o "-h '' -k $work/home -p 5433" start; }
made_stop() {
    as postgres pg_ctl -s -w -D "$work/$1/made" -m fast stop
    rm -rf "$work/$1/made" "$work/$1/diff"
}
# What a promoted clone is like, compared with the plain copy.
promoted() {
    local user=$1
    profile "$user" "diff_dir = \"$work/$user/diff\"" ""
    clone_up "$user"
    hydrate "$user"
    figure "memory after hydration, $user" MB - "$(clone_memory VmHWM)"
    figure "cut-over, scale $scale, $user" s - "$(finish "$user" | number cut_over_seconds)"
    plain_start
    made_start "$user"
    local made="host=$work/home port=5433 dbname=postgres"
    # The backup has no WAL segments that can be used again, and a server that makes new
    # ones waits for them. So both get the same load first, and its segments are kept.
    for sql in "alter system set min_wal_size = '4GB'" 'select pg_reload_conf()' "$sum"; do
        plain_sql "$sql" >/dev/null
        made_sql "$sql" >/dev/null
    done
    tps "host=$work/home dbname=postgres" >/dev/null
    tps "$made" >/dev/null
    for sql in checkpoint "$sum"; do
        plain_sql "$sql" >/dev/null
        made_sql "$sql" >/dev/null
    done
    sync -f "$work"
    figure "sum() in a promoted directory, $user" s "$(timed plain_sql "$sum")" "$(timed made_sql "$sum")"
    for kind in -S ''; do
        # shellcheck disable=SC2086
        plain=$(tps $kind "host=$work/home dbname=postgres")
        sync -f "$work"
        # shellcheck disable=SC2086
        figure "pgbench ${kind:-TPC-B} in a promoted directory, $user" tps "$plain" "$(tps $kind "$made")"
        sync -f "$work"
    done
    plain_stop
    made_stop "$user"
    plain_copy
}
# Hydration while the clone is used.
promoted_under_load() {
    local user=$1 alone base begin loaded
    profile "$user" "diff_dir = \"$work/$user/diff\"" ""
    sync -f "$work"
    alone=$(timed as "$user" "$work/pbkfs" materialize "$work/$user.toml" --jobs 2 --to "$work/$user/made")
    rm -rf "$work/$user/made"
    clone_up "$user"
    clone_sql "$sum" >/dev/null
    base=$(tps "$(clone_field conninfo)")
    as postgres pgbench -n -c 4 -j 2 -T 3600 -P 1 "$(clone_field conninfo)" 2>"$work/progress" >&2 &
    loaded=$!
    sleep 2
    : >"$work/progress"
    begin=$EPOCHREALTIME
    hydrate "$user"
    took=$(minus "$EPOCHREALTIME" "$begin")
    kill "$loaded" && wait "$loaded" 2>/dev/null || true
    figure "TPC-B while the clone is hydrated, compared with before, $user" tps "$base" \
        "$(awk '/tps/ {sum += $4; n++} END {print n ? sum / n : 0}' "$work/progress")"
    figure "hydration under TPC-B, compared with materialize alone, $user" s "$alone" "$took"
    finish "$user" >/dev/null
    rm -rf "$work/$user/made" "$work/$user/diff"
}
# The cut-over of a clone with 100 000 more files.
promoted_files() {
    local user=$1
    profile "$user" "diff_dir = \"$work/$user/diff\"" "launch = false"
    clone_up "$user"
    for many in 1 2 3 4 5; do
        as postgres bash -c "$(declare -f make_files); make_files $work/$user/clone/many$many"
    done
    hydrate "$user"
    figure "cut-over with 100000 more files, $user" s - "$(finish "$user" | number cut_over_seconds)"
    rm -rf "$work/$user/made" "$work/$user/diff"
}
section_promote() {
    for round in $(seq "$rounds"); do
        for user in $users; do
            promoted "$user"
            promoted_under_load "$user"
            promoted_files "$user"
        done
    done
}

# Creates a catalog whose content lists have LINES lines in total, in LAYERS layers.
synthetic() {
    local lines=$1 layers=$2 dir=$work/synthetic
    rm -rf "$dir"
    mkdir -p "$dir/backups/main" "$dir/wal/main"
    cp "$data/catalog/backups/main/pg_probackup.conf" "$dir/backups/main"
    local model parent= id first
    first=$(ls "$data/catalog/backups/main" | head -1)
    model=$data/catalog/backups/main/$first
    for layer in $(seq "$layers"); do
        # An ID is the start time in seconds, in base 36.
        id=$(printf 'TAAA%02d' "$((layer % 100))")
        start=$(date -u -d "@$((36#$id))" '+%Y-%m-%d %H:%M:%S+00')
        mkdir -p "$dir/backups/main/$id/database"
        sed -e "/^content-crc/d; s/^start-time.*/start-time = '$start'/" \
            -e "s/^backup-mode.*/backup-mode = $([ -z "$parent" ] && echo FULL || echo DELTA)/" \
            "$model/backup.control" >"$dir/backups/main/$id/backup.control"
        [ -z "$parent" ] || echo "parent-backup-id = '$parent'" >>"$dir/backups/main/$id/backup.control"
        parent=$id
        cp -r "$model/database/PG_VERSION" "$dir/backups/main/$id/database"
        mkdir "$dir/backups/main/$id/database/global"
        cp "$model/database/global/pg_control" "$dir/backups/main/$id/database/global"
        {
            grep '"path":"\(PG_VERSION\|global\|global/pg_control\|base\)"' "$model/backup_content.control"
            awk -v n=$((lines / layers)) 'BEGIN {
                for (d = 0; d * 1000 < n; d++)
                    printf "{\"path\":\"base/%d\", \"size\":\"0\", \"mode\":\"16832\", \"is_datafile\":\"0\", \"is_cfs\":\"0\", \"crc\":\"0\", \"compress_alg\":\"none\", \"external_dir_num\":\"0\", \"dbOid\":\"%d\"}\n", d + 5, d + 5
                for (i = 0; i < n; i++)
                    printf "{\"path\":\"base/%d/%d\", \"size\":\"1740\", \"mode\":\"33152\", \"is_datafile\":\"1\", \"is_cfs\":\"0\", \"crc\":\"3076913477\", \"compress_alg\":\"zlib\", \"external_dir_num\":\"0\", \"dbOid\":\"%d\",\"full_size\":\"16384\",\"segno\":\"0\",\"n_blocks\":\"2\",\"n_headers\":\"2\",\"hdr_crc\":\"2851033981\",\"hdr_off\":\"%d\",\"hdr_size\":\"61\"}\n", int(i / 1000) + 5, i + 16384, int(i / 1000) + 5, i * 61
            }'
        } >"$dir/backups/main/$id/backup_content.control"
    done
    chown -R postgres "$dir"
}
section_lists() {
    backup=latest
    for shape in $(for lines in $lists; do echo "$lines:1 $lines:5"; done) "${lists##* }:100"; do
        synthetic "${shape%:*}" "${shape#*:}"
        profile root "" "launch = false"
        sed -i "s#^catalog.*#catalog = \"$work/synthetic\"#" "$work/root.toml"
        for round in $(seq "$rounds"); do
            begin=$EPOCHREALTIME
            clone_up root
            ls "$work/root/clone" >/dev/null
            took=$(echo "$begin $EPOCHREALTIME" | awk '{print $2 - $1}')
            name="${shape%:*} lines in ${shape#*:} layers"
            figure "mount to the first ls, $name" s - "$took"
            figure "resident memory then, $name" MB - "$(clone_memory VmRSS)"
            figure "peak memory until then, $name" MB - "$(clone_memory VmHWM)"
            clone_down root
        done
    done
}

section_codecs() {
    # "fastest CODEC library NS image NS" for 1 MiB of pages; no benchmark of
    # criterion has a name that matches.
    cargo bench --locked --quiet --bench decode -- fastest 2>/dev/null |
        awk '/^fastest/ {print $2, 1048576 * 1000 / $4, 1048576 * 1000 / $6}' |
        while read -r codec library image; do
            figure "decode of $codec pages in one thread, compared with the library alone" MB/s "$library" "$image"
        done
}

# -----------------------------------------------------------------------------

machine() {
    sed -n 's/^model name[^:]*: /- /p' /proc/cpuinfo | head -1
    echo "- $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo), Linux $(uname -r)," \
        "the data on $(df --output=fstype "$work" | tail -1)"
    echo "- $(postgres --version), pbkfs of commit $(git rev-parse --short HEAD)"
    echo "- scale $scale, $rounds rounds, $seconds s of each pgbench ${settings[*]}"
    echo "- load before: $load; after: $(cut -d ' ' -f 1-3 /proc/loadavg)"
}
load=$(cut -d ' ' -f 1-3 /proc/loadavg)
case $only in lists | codecs) scale=1 ;; esac
case $only in codecs) ;; *)
    data=${data:-$work/data}
    if [ -e "$data/scale" ]; then
        scale=$(cat "$data/scale")
        say "using the data in $data, scale $scale"
    else
        mkdir -p "$data"
        [ -z "$(ls -A "$data")" ] || die "$data is not empty, and does not hold complete data of this script"
        make_chain
    fi
    ;;
esac
for section in start scan pgbench write files names promote lists codecs; do
    [ -z "$only" ] || [ "$only" = $section ] || continue
    say "$section"
    [ $section = codecs ] || { choose changed && plain_copy; }
    section_$section
done
machine
echo
table
exit
}
