#!/bin/sh
# What is done with the package in a booted root, one step for each call. The state of
# one step is what the next one finds on the disk, as on a user's host.
# usage: inside.sh STEP
set -eu

PROFILE=/etc/pbkfs/main.toml
TARGET=/srv/clone/main
DIFF=/srv/clone/main.diff
SEEN=/root/seen

say() {
    echo "    $*" >&2
}

die() {
    echo "inside.sh: $*" >&2
    exit 1
}

# Holds that a command succeeds, and says what it shows.
holds() {
    what=$1
    shift
    "$@" || die "it does not hold that $what: $*"
    say "$what"
}

fails() {
    ! "$@"
}

# One value out of a query on the clone that is up, as the user that its server runs as.
query() {
    conninfo=$(pbkfs status "$PROFILE" | grep -o 'host=.*dbname=[^ ]*')
    (cd / && setpriv --reuid=postgres --regid=postgres --init-groups \
        psql -XAtq -d "$conninfo" -c "$1")
}

units() {
    systemctl list-units --all --plain --no-legend 'pbkfs*' | grep -v '\.slice'
}

main_pid() {
    systemctl show -P MainPID pbkfs@main.service
}

# Whether a process has pbkfs as its program, be it removed or not.
runs() {
    ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q /usr/bin/pbkfs
}

# How many entries the history has: one for each backup that was verified.
history() {
    cat /var/lib/pbkfs/verify/*.jsonl | grep -c '"verdict"'
}

# --no-remove: an installation that takes something away is none.
install_version() {
    apt-get install -q -y --no-remove "/packages/$1" </dev/null >/root/apt.log 2>&1 || {
        cat /root/apt.log
        die "apt-get could not install $1"
    }
}

step_install() {
    apt-get update -q >/dev/null
    install_version before.deb
    holds "pbkfs runs: $(pbkfs --version)" test -x /usr/bin/pbkfs
    holds "fuse3 came with it" test -x /usr/bin/fusermount3
    holds "a server came with it" test -n "$(ls -d /usr/lib/postgresql/*/bin/postgres)"
    holds "no unit of it is started" fails units
    enabled=$(find /etc/systemd/system -name 'pbkfs*')
    holds "no unit of it is enabled" test -z "$enabled"
    for dir in /etc/pbkfs /run/pbkfs /var/lib/pbkfs; do
        is=$(stat -c '%U:%G %a' "$dir")
        holds "$dir is root's, and all may enter it" test "$is" = "root:root 755"
    done
    holds "bash completes it" bash -c '. /usr/share/bash-completion/completions/pbkfs
        complete -p pbkfs >/dev/null'
    for file in /usr/share/zsh/vendor-completions/_pbkfs \
        /usr/share/fish/vendor_completions.d/pbkfs.fish \
        /usr/share/pbkfs/schema/verify.schema.json \
        /usr/share/doc/pbkfs/examples/verify.toml; do
        holds "$file is there" test -s "$file"
    done
    pages=$(dpkg -L pbkfs | grep -c '/man/.*\.gz$')
    holds "it has $pages manual pages" test "$pages" -ge 20
}

step_quick_start() {
    holds "there is no compiler" fails command -v cargo
    holds "there is no cc" fails command -v cc
    /src/examples/quickstart.sh >/root/quickstart.log 2>&1 || {
        cat /root/quickstart.log
        die "the quick start failed"
    }
    sed 's/^/    | /' /root/quickstart.log >&2
    holds "the clone answered as the live cluster" \
        grep -q 'that is what the live cluster answered' /root/quickstart.log
    holds "the clone took the change" grep -q '^ *UPDATE 1000$' /root/quickstart.log
}

# The catalog of the server that is here, and a profile that keeps its diff.
step_profile() {
    for major in 15 17; do
        [ ! -x "/usr/lib/postgresql/$major/bin/postgres" ] || break
    done
    case $major in
    15) backup=TOW7JV ;;
    17) backup=TOW7O6 ;;
    esac
    mkdir -p /srv/clone
    zstd -dc "/src/postgres/fixtures/pg$major-chain/catalog.tar.zst" |
        tar -x --no-same-owner -C /srv
    cat >"$PROFILE" <<END
catalog  = "/srv/catalog"
instance = "main"
backup   = "$backup"
target   = "$TARGET"
diff_dir = "$DIFF"
[fence]
require = "namespace"
[verify]
html = "/var/lib/pbkfs/main.html"
[[verify.sql]]
name = "it answers"
database = "postgres"
query = "select 1"
expect = "1"
END
    echo '# a word of the administrator' >>/etc/pbkfs/config.toml
    say "$PROFILE names backup $backup, and keeps its diff"
}

step_clone() {
    systemctl enable --now pbkfs@main.service 2>/dev/null || {
        journalctl -u pbkfs@main.service --no-pager
        die "the clone's service failed"
    }
    holds "the host sees the mount" mountpoint -q "$TARGET"
    holds "the clone answers at once" test "$(query 'select 1')" = 1
    holds "it is fenced by namespaces" sh -c \
        'journalctl -u pbkfs@main.service | grep -q "fence namespace"'
    holds "systemd shows how to connect" sh -c \
        'systemctl show -P StatusText pbkfs@main.service | grep -q "^ready host="'
    query "create table kept as select 'before' as word"
    query 'checkpoint'
    main_pid >$SEEN
}

# While the profile's clone is up.
step_verify() {
    systemctl enable --now pbkfs-verify@main.timer 2>/dev/null
    holds "the timer waits for the night" \
        sh -c 'systemctl list-timers --no-legend | grep -q pbkfs-verify@main.timer'
    systemctl start pbkfs-verify@main.service || {
        journalctl -u pbkfs-verify@main.service --no-pager
        die "the timer's service failed"
    }
    result=$(systemctl show -P ExecMainStatus pbkfs-verify@main.service)
    holds "the timer's service proved the backup" test "$result" = 0
    holds "the history has one entry" test "$(history)" = 1
    holds "the report is there" grep -q TOW7 /var/lib/pbkfs/main.html
    holds "the clone ran on meanwhile" test "$(main_pid)" = "$(cat $SEEN)"
}

# A service that is killed leaves nothing but the diff; one that fails ends nobody's clone.
step_kill() {
    systemctl kill --signal KILL --kill-whom main pbkfs@main.service
    for _ in $(seq 300); do
        [ "$(systemctl show -P ActiveState pbkfs@main.service)" != failed ] || break
        sleep 0.1
    done
    holds "the service says that it was killed" \
        test "$(systemctl show -P Result pbkfs@main.service)" = signal
    holds "it left no mount" fails mountpoint -q "$TARGET"
    holds "it left no session" fails pbkfs status "$PROFILE"
    pbkfs up "$PROFILE" --detach >/dev/null
    holds "a second clone of the diff is refused" fails systemctl start pbkfs@main.service
    holds "the one that was started by hand is still up" test "$(query 'select 1')" = 1
    pbkfs down "$PROFILE"
    systemctl start pbkfs@main.service
    holds "the diff goes on" test "$(query 'select word from kept')" = before
    main_pid >$SEEN
}

step_upgrade() {
    before=$(dpkg-query -W -f '${Version}' pbkfs)
    install_version after.deb
    after=$(dpkg-query -W -f '${Version}' pbkfs)
    holds "$before was upgraded to $after" dpkg --compare-versions "$before" lt "$after"
    holds "the clone ran on through it" \
        test "$(main_pid)" = "$(cat $SEEN)"
    holds "its program is the one from before" \
        sh -c "readlink /proc/$(cat $SEEN)/exe | grep -q deleted"
    holds "it takes writes" query "insert into kept values ('during')"
    holds "the new program shows it" pbkfs status "$PROFILE"
    holds "what the administrator wrote is there" grep -q administrator /etc/pbkfs/config.toml
    holds "the timer still waits" systemctl is-active -q pbkfs-verify@main.timer
    systemctl restart pbkfs@main.service
    query "insert into kept values ('after')"
    holds "the new version has the changes of the old one" \
        test "$(query "select string_agg(word, ' ') from kept")" = "before during after"
}

# What systemd does not know of runs on without its program, and can be ended.
step_remove() {
    hand=/srv/clone/hand
    pbkfs up "$PROFILE" --detach --set target=$hand --set diff_dir=$hand.diff >/dev/null
    apt-get remove -q -y pbkfs </dev/null >/root/remove.log 2>&1 || {
        cat /root/remove.log
        die "apt-get could not remove it"
    }
    holds "the program is gone" test ! -e /usr/bin/pbkfs
    holds "its clone as a service was ended" fails mountpoint -q "$TARGET"
    holds "the kept diff survived" test -s "$DIFF/meta.redb"
    holds "the history survived" test "$(history)" = 1
    holds "the profile survived" test -s "$PROFILE"
    holds "the clone that was started by hand was told of" \
        grep -q 'a clone is still up' /root/remove.log
    state=$(ls /run/pbkfs/hand-*/session.json)
    kill "$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$state" | head -n 1)"
    for _ in $(seq 300); do
        runs || break
        sleep 0.1
    done
    holds "nothing of pbkfs runs" fails runs
    holds "it ended in good order without its program" fails mountpoint -q $hand
}

# Installed again, everything goes on.
step_again() {
    install_version after.deb
    systemctl start pbkfs@main.service
    holds "the kept diff goes on" \
        test "$(query "select string_agg(word, ' ') from kept")" = "before during after"
    systemctl start pbkfs-verify@main.service
    holds "the history goes on" test "$(history)" = 2
    systemctl stop pbkfs@main.service
}

step_purge() {
    apt-get purge -q -y pbkfs </dev/null >/root/purge.log 2>&1 || {
        cat /root/purge.log
        die "apt-get could not purge it"
    }
    grep '^pbkfs:' /root/purge.log | sed 's/^/    | /' >&2
    for word in /var/lib/pbkfs "$PROFILE" "$DIFF"; do
        holds "the purge says that $word stays" grep -q "^pbkfs: .*$word" /root/purge.log
    done
    holds "the diff is there" test -s "$DIFF/meta.redb"
    holds "the history is there" test "$(history)" = 2
    holds "the host's settings are gone" test ! -e /etc/pbkfs/config.toml
    holds "no unit is enabled any more" test -z "$(find /etc/systemd/system -name 'pbkfs*')"
    holds "/run/pbkfs is gone" test ! -e /run/pbkfs
    left=$(dpkg-query -W -f '${Status}' pbkfs 2>/dev/null || true)
    holds "dpkg knows nothing of it" sh -c "case '$left' in *not-installed* | '') ;; *) false ;; esac"
}

"step_$1"
