#!/bin/sh
# Makes the artefacts of the commit that is checked out, the same bytes wherever and
# whenever it is run, and writes their checksums beside them.
#
#   config/packaging/artefacts.sh DIRECTORY
#   config/packaging/artefacts.sh --list VERSION      # their names, and nothing else
#
# The program is linked against glibc 2.28 (Debian 10, RHEL 8) by zig. That is as old as
# is of use, and unlike a static program it finds users wherever the host has them: in
# LDAP, by sssd. cargo-zigbuild, zig and cargo-cyclonedx are fetched from PyPI and
# crates.io into the directory that cargo builds in.
set -eu
cd "$(dirname "$0")/../.."
. tests/lib.sh

ZIGLANG=0.17.1
CARGO_ZIGBUILD=0.24.1
CARGO_CYCLONEDX=0.5.9
GLIBC=2.28
TARGET=x86_64-unknown-linux-gnu
# crates.io takes no larger crate.
LARGEST_CRATE=10000000

names() {
    echo "pbkfs-$1-x86_64-linux.tar.gz"
    echo "pbkfs-$1.cdx.json"
    echo "pbkfs-$1.crate"
    echo "pbkfs-$1's packages: .deb and .rpm"
    echo SHA256SUMS
}

install_tools() {
    zigbuild=$(install_from_pypi "zig-$ZIGLANG-$CARGO_ZIGBUILD" cargo-zigbuild \
        "ziglang==$ZIGLANG" "cargo-zigbuild==$CARGO_ZIGBUILD")
    # It runs for a second: an unoptimised one is built in a quarter of the time.
    cyclonedx=$(
        export RUSTFLAGS='' CARGO_PROFILE_DEV_DEBUG=0
        install_tool cargo-cyclonedx "$CARGO_CYCLONEDX" --debug
    )
    PATH=${zigbuild%/*}:${cyclonedx%/*}:$PATH
}

build_program() {
    say "building for $TARGET with glibc $GLIBC (some minutes)"
    cargo zigbuild --release --locked --target "$TARGET.$GLIBC" >&2
    program=$built/$TARGET/release/pbkfs
}

# What is in the program, as CycloneDX: by SOURCE_DATE_EPOCH without a serial number and
# with the commit's time, and without the place where the sources are.
write_sbom() {
    say "writing the bill of materials"
    cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$TARGET" \
        --no-build-deps --override-filename "$name.cdx" >&2
    sed "s|path+file://$PWD|path+file:///pbkfs|g" "$name.cdx.json" >"$out/$name.cdx.json"
    rm "$name.cdx.json"
}

write_tarball() {
    say "packing $name-x86_64-linux.tar.gz"
    packed=$scratch/$name
    mkdir -p "$packed/completions"
    cp "$program" README.md CHANGELOG.md SECURITY.md LICENSE "$out/$name.cdx.json" "$packed"
    # Only what is under version control: no leftovers of an editor.
    git archive HEAD man config examples | tar -x -C "$packed"
    for shell in bash zsh fish; do
        "$program" generate completions "$shell" >"$packed/completions/pbkfs.$shell"
    done
    tar -c --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" --format=ustar -C "$scratch" "$name" |
        gzip -9n >"$out/$name-x86_64-linux.tar.gz"
}

write_crate() {
    say "packing the crate"
    cargo package --quiet --locked --no-verify --target-dir "$scratch/crate" >&2
    crate=$scratch/crate/package/$name.crate
    size=$(stat -c %s "$crate")
    [ "$size" -lt "$LARGEST_CRATE" ] || die "$name.crate has $size bytes, and crates.io takes $LARGEST_CRATE"
    cp "$crate" "$out"
}

# The .deb and .rpm: the script that makes them prints their paths.
write_packages() {
    config/packaging/build.sh >"$scratch/packages"
    while read -r package; do
        cp "$package" "$out"
    done <"$scratch/packages"
}

if [ "${1-}" = --list ] && [ $# -eq 2 ]; then
    names "$2"
    exit
fi
[ $# -eq 1 ] || die "usage: config/packaging/artefacts.sh DIRECTORY | --list VERSION"
[ -z "$(git status --porcelain)" ] ||
    die "the tree has changes that are not committed: they would be in no release"
mkdir -p "$1"
out=$(cd "$1" && pwd)
[ -z "$(ls -A "$out")" ] || die "$out is not empty"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

name=pbkfs-$(crate_version)
built=$(target_directory)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
PBKFS_COMMIT=$(TZ=UTC git log -1 --date=short-local --format='%H of %cd')
# No path of this machine in what is built.
RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/pbkfs"
case $built in
"$PWD"/*) ;;
*) RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$built=/pbkfs/target" ;;
esac
export SOURCE_DATE_EPOCH PBKFS_COMMIT RUSTFLAGS PATH
umask 022

install_tools
build_program
write_sbom
write_tarball
write_crate
write_packages
(cd "$out" && sha256sum -- * >"$scratch/SHA256SUMS" && cp "$scratch/SHA256SUMS" .)
say "made in $out:"
cat "$out/SHA256SUMS"
