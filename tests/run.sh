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
# tests/examples.rs looks for it there.
install_from_pypi "ansible-$ANSIBLE" ansible-playbook "ansible-core==$ANSIBLE" >/dev/null
open_fuse_device

# Most tests wait for a server rather than compute, so run a few more at a time than
# there are cores.
say "running the tests"
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 2))}
export RUST_TEST_THREADS
cargo test --locked "$@"
