#!/bin/sh
# Makes the packages, and does with them what users do, in clean roots of Debian 12 and 13
# with a systemd of their own: install, the quick start without a compiler, the verify
# timer's service, a clone as a service, upgrade with a kept diff in use, remove, purge.
# Then it asks lintian and systemd-analyze, and installs the rpm. As root; the first time
# it fetches the roots, which takes minutes.
#
# usage: tests/package/run.sh [bookworm] [trixie]
#
# PBKFS_PACKAGES=DIR takes a .deb and an .rpm that are there. PBKFS_BEFORE=DEB is the
# version from before; without it, that is today's package with a lower number.
set -eu
cd "$(dirname "$0")/../.."
. tests/lib.sh
. tests/package/root.sh

[ "$(id -u)" -eq 0 ] || die "roots are made and booted: run this as root"
[ $# -gt 0 ] || set -- bookworm trixie
open_fuse_device

# One at a time: they share what apt has fetched.
mkdir -p "$SERVERS"
exec 9>"$SERVERS/package.lock"
flock 9

init=
work=$(mktemp -d /var/tmp/pbkfs-package.XXXXXX)
clean_up() {
    status=$?
    trap - EXIT
    shut_down
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Today's package, and one that is older, in a directory that the roots see.
make_packages() {
    packages=$work/packages
    mkdir "$packages"
    if [ -z "${PBKFS_PACKAGES:-}" ]; then
        config/packaging/build.sh >/dev/null
        PBKFS_PACKAGES=$(target_directory)/package
    fi
    cp "$PBKFS_PACKAGES"/pbkfs_*.deb "$packages/after.deb"
    cp "$PBKFS_PACKAGES"/pbkfs-*.rpm "$packages/after.rpm"
    if [ -n "${PBKFS_BEFORE:-}" ]; then
        cp "$PBKFS_BEFORE" "$packages/before.deb"
        return 0
    fi
    say "the version from before is today's with a lower number"
    dpkg-deb -R "$packages/after.deb" "$work/before"
    sed -i 's/^Version:.*/Version: 0.0.1-1/' "$work/before/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip -b "$work/before" "$packages/before.deb" >/dev/null
}

try_deb() {
    unpack_root "$1" "$work/$1"
    boot "$1" "$work/$1"
    say "Debian $(cat "$work/$1/etc/debian_version"), $(inside systemctl --version | head -n 1)"
    for step in install quick_start profile clone verify kill upgrade remove again; do
        say "$1: $step"
        inside sh /src/tests/package/inside.sh "$step"
    done
    say "$1: units"
    inside sh /src/tests/package/units.sh
    say "$1: purge"
    inside sh /src/tests/package/inside.sh purge
    shut_down
    rm -rf --one-file-system "${work:?}/$1"
}

# A root of Debian 13 with lintian and rpm.
try_tools() {
    unpack_root tools "$work/tools"
    boot tools "$work/tools"
    say "lintian"
    inside lintian --allow-root --fail-on error,warning --show-overrides --tag-display-limit 0 \
        /packages/after.deb >&2 || die "lintian is not content"
    say "the rpm"
    inside sh /src/tests/package/rpm.sh
    shut_down
}

make_packages
for release in "$@"; do
    try_deb "$release"
done
try_tools
say "the packages are well"
