# Clean roots of Debian, and systemd in them. Sourced by run.sh.
#
# A root is booted in namespaces of its own: systemd is process 1 there, mounts and
# control groups are its own, and so is /run. The network is the host's, for apt. What it
# uses of run.sh: $work, a directory that goes away, and $packages, which the root sees.
# What it leaves to run.sh: $init, $booted and $cgroup, of the root that is booted.
# shellcheck disable=SC3043

MIRROR=${MIRROR:-http://deb.debian.org/debian}

# Keeps what a directory holds as the archive of that root.
keep_root() {
    local new
    mkdir -p "$SERVERS"
    # Renamed, so that a half of it is not taken for the whole.
    new=$(mktemp "$SERVERS/new.XXXXXX")
    tar -C "$2" --one-file-system -c . | zstd -q -T0 >"$new"
    chmod 644 "$new"
    mv "$new" "$SERVERS/root-$1.tar.zst"
}

# A release of Debian, and no more than that and systemd.
make_release() {
    local made
    command -v debootstrap >/dev/null || install_packages debootstrap
    say "making a clean root of Debian $1 with debootstrap"
    made=$work/debootstrap
    debootstrap --variant=minbase --include=ca-certificates,systemd-sysv \
        "$1" "$made" "$MIRROR" >&2 || die "debootstrap could not make a root of $1"
    rm -rf "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/*
    keep_root "$1" "$made"
    rm -rf --one-file-system "$made"
}

# Debian 13 with what judges packages.
make_tools() {
    unpack_root trixie "$work/made"
    boot tools "$work/made"
    say "installing lintian and rpm in a root of their own"
    inside sh -c 'apt-get update -q && apt-get install -q -y --no-install-recommends \
        lintian rpm' </dev/null >&2 || die "apt-get could not install lintian and rpm"
    shut_down
    keep_root tools "$work/made"
    rm -rf --one-file-system "$work/made"
}

# Unpacks a root into a directory: a release of Debian, or "tools". It is made if it was
# never made before.
unpack_root() {
    if [ ! -e "$SERVERS/root-$1.tar.zst" ]; then
        case $1 in
        tools) make_tools ;;
        *) make_release "$1" ;;
        esac
    fi
    mkdir -p "$2"
    tar -C "$2" --zstd -xf "$SERVERS/root-$1.tar.zst"
    # Packages that were fetched once are kept.
    echo 'APT::Keep-Downloaded-Packages "true";' >"$2/etc/apt/apt.conf.d/keep"
    # What is thrown away need not be synced.
    echo force-unsafe-io >"$2/etc/dpkg/dpkg.cfg.d/unsafe-io"
    # Debian's package would otherwise start a server, on the host's network.
    mkdir -p "$2/etc/postgresql-common/createcluster.d"
    echo 'create_main_cluster = false' >"$2/etc/postgresql-common/createcluster.d/no-main.conf"
    cp -L /etc/resolv.conf /etc/hosts "$2/etc/"
    mkdir -p "$2/src" "$2/packages"
}

# Boots the root, and waits until systemd has started what there is.
boot() {
    local release="$1" root="$2" cgroups state
    cgroups=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
    [ -n "$cgroups" ] || die "there are no control groups of version 2, which systemd needs"
    cgroup=$cgroups/pbkfs-package-$$
    mkdir -p "$cgroup" "$SERVERS/apt-$release/partial"
    (
        exec </dev/null >"$work/boot.log" 2>&1 9>&-
        exec sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$cgroup" \
            unshare --mount --propagation private --pid --fork --kill-child --ipc --uts \
            --cgroup sh tests/package/init.sh "$root" "$packages" "$SERVERS/apt-$release"
    ) &
    booted=$!
    for _ in $(seq 600); do
        kill -0 "$booted" 2>/dev/null || die "the root did not boot: $(cat "$work/boot.log")"
        init=$(pgrep -P "$booted" -x 'init|systemd' || true)
        if [ -n "$init" ]; then
            state=$(inside systemctl is-system-running 2>/dev/null || true)
            case $state in
            running | degraded) return 0 ;;
            esac
        fi
        sleep 0.2
    done
    die "systemd did not start what there is within two minutes"
}

# Runs a command in the booted root.
inside() {
    nsenter --target "$init" --mount --pid --ipc --uts --cgroup --root --wd \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# Ends the booted root. What is left of it is ended by the kernel with its process 1.
shut_down() {
    [ -n "${init:-}" ] || return 0
    inside systemctl poweroff >/dev/null 2>&1 || true
    for _ in $(seq 300); do
        [ -e "/proc/$init" ] || break
        sleep 0.1
    done
    [ ! -e "/proc/$init" ] || kill -KILL "$init"
    wait "$booted" 2>/dev/null || true
    init=
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
}
