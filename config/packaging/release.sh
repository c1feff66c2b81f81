#!/bin/sh
# Makes a release of the commit that is checked out: sets the version, closes the
# changelog, commits, tags, and makes the artefacts with their checksums. It pushes
# nothing: look at what it has made, then push the commit and the tag yourself.
#
#   config/packaging/release.sh [--dry-run | --without-artefacts] VERSION
#
# --dry-run does the same in a clone that it throws away, without the artefacts, and
# shows what the commit and the tag would be. The artefacts of a release that is tagged
# are made again, anywhere, by artefacts.sh.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. tests/lib.sh

usage() {
    die "usage: config/packaging/release.sh [--dry-run | --without-artefacts] VERSION"
}

# What is under "Unreleased" in the changelog, but for empty lines.
unreleased() {
    awk '/^## /{inside = ($0 == "## Unreleased"); next} inside && NF' CHANGELOG.md
}

check() {
    echo "$version" | grep -Eqx '[0-9]+\.[0-9]+\.[0-9]+' ||
        die "$version is no version: give three numbers, as in 1.2.3"
    [ -z "$(git status --porcelain)" ] ||
        die "the tree has changes that are not committed: commit or remove them"
    ! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null ||
        die "the tag v$version is there already"
    now=$(crate_version)
    printf '%s\n' "$now" "$version" | sort -V -C ||
        die "$version is older than $now, the version in Cargo.toml"
    [ -n "$(unreleased)" ] ||
        die "CHANGELOG.md has nothing under \"Unreleased\": say what changes for users"
}

# Puts a file in its place once it is whole.
edit() {
    file=$1
    shift
    "$@" "$file" >"$file.new"
    cat "$file.new" >"$file"
    rm "$file.new"
}

set_version() {
    now=$(crate_version)
    edit Cargo.toml sed "0,/^version = /s/^version = .*/version = \"$version\"/"
    edit Cargo.lock awk -v version="$version" '
        ours && /^version = / { $0 = "version = \"" version "\"" }
        { ours = ($0 == "name = \"pbkfs\""); print }'
    for page in man/*; do
        edit "$page" sed "/^\\.TH /s/\"pbkfs $now\"/\"pbkfs $version\"/"
    done
    edit SECURITY.md sed "s/^| [0-9.]* | yes |\$/| ${version%.*} | yes |/"
    edit CHANGELOG.md sed "s/^## Unreleased\$/&\\n\\n## $version - $(date -u +%F)/"
}

tag() {
    git commit -q -a -m "Release $version"
    git tag -a -m "pbkfs $version" "v$version"
}

dry_run() {
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    git clone -q --local . "$scratch/clone"
    GIT_AUTHOR_NAME=dry-run GIT_AUTHOR_EMAIL=dry-run GIT_COMMITTER_NAME=dry-run \
        GIT_COMMITTER_EMAIL=dry-run \
        "$scratch/clone/config/packaging/release.sh" --without-artefacts "$version" >/dev/null
    git -C "$scratch/clone" show --no-patch --format='commit: %s' "v$version^{commit}"
    git -C "$scratch/clone" for-each-ref --format='tag:    %(refname:short)' "refs/tags/v$version"
    git -C "$scratch/clone" diff --unified=0 HEAD~1
    echo "artefacts:"
    "$here/artefacts.sh" --list "$version" | sed 's/^/    /'
}

mode=release
case ${1-} in
--dry-run | --without-artefacts)
    mode=$1
    shift
    ;;
esac
[ $# -eq 1 ] || usage
version=$1
check
case $mode in
--dry-run) dry_run ;;
--without-artefacts) set_version && tag ;;
release)
    set_version
    tag
    config/packaging/artefacts.sh "target/release-$version"
    echo "made the commit and the tag v$version, and the artefacts in target/release-$version;"
    echo "nothing was pushed"
    ;;
esac
