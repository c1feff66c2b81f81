#!/bin/sh
# Makes the packages of this version, a .deb and an .rpm, in target/package, and prints
# their paths.
set -eu
cd "$(dirname "$0")/../.."
. tests/lib.sh

CARGO_DEB=3.8.0
CARGO_GENERATE_RPM=0.21.1

# What the packages have besides files of the repository.
stage() {
    rm -rf "$staged"
    mkdir -p "$staged/man"
    cp "$target/release/pbkfs" "$staged/pbkfs"
    strip -s "$staged/pbkfs"
    for page in man/*.[157]; do
        gzip -9nc "$page" >"$staged/man/$(basename "$page").gz"
    done
    for shell in bash zsh fish; do
        "$target/release/pbkfs" generate completions "$shell" >"$staged/pbkfs.$shell"
    done
    gzip -9nc CHANGELOG.md >"$staged/changelog.gz"
    debian_changelog | gzip -9n >"$staged/changelog.Debian.gz"
}

# Debian's own log has nothing to tell that the program's has not.
debian_changelog() {
    maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)
    cat <<END
pbkfs ($version-1) unstable; urgency=medium

  * Version $version. What changed is in changelog.gz.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
}

require_rust
# It knows which of Debian's packages bring a library.
command -v dpkg-shlibdeps >/dev/null || install_packages dpkg-dev
target=$(target_directory)
staged=$target/release/package
version=$(crate_version)

say "building pbkfs (a few minutes the first time)"
cargo build --release --locked
# The time in the packages is that of the commit, so that two builds are the same. Cargo
# does not see it, or it would build all C once more for each commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
stage
cargo_deb=$(install_tool cargo-deb "$CARGO_DEB")
cargo_generate_rpm=$(install_tool cargo-generate-rpm "$CARGO_GENERATE_RPM")

rm -rf "$target/package"
mkdir "$target/package"
say "making the packages"
"$cargo_deb" --no-build --locked --quiet --output "$target/package/"
"$cargo_generate_rpm" --target-dir "$target" --output "$target/package/"
ls "$target"/package/pbkfs*
