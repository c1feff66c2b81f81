#!/bin/sh
# Installs what the tests need and runs all of them. On a fresh Debian 12 with
# Rust, as root, this one command is enough. Arguments are passed to `cargo test`.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh

[ "$(id -u)" -eq 0 ] ||
    die "the tests mount and change users: run this as root"
install_missing
install_servers
# tests/fuse_posix.rs looks for it there.
install_tool pjdfstest "$PJDFSTEST" >/dev/null
install_promtool
install_s3
# tests/examples.rs looks for it there.
install_from_pypi "ansible-$ANSIBLE" ansible-playbook "ansible-core==$ANSIBLE" >/dev/null
open_fuse_device

# Each test unpacks a catalog of some thousand files and removes it again. ext4 does not
# reuse the inode of a file that was just removed, and looks at all of these one by one to
# find a free one, unless the directories are spread over the disk (`chattr +T`). Without
# that, the tests take up to twice as long. Other file systems need nothing.
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/pbkfs.XXXXXX")
export TMPDIR
trap 'rm -rf --one-file-system "$TMPDIR"' EXIT
chmod 1777 "$TMPDIR"
chattr +T "$TMPDIR" 2>/dev/null || :

# Most tests wait for a server rather than compute, so run a few more at a time than
# there are cores.
say "running the tests"
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 2))}
export RUST_TEST_THREADS
cargo test --locked "$@"
