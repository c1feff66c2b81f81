#!/bin/sh
# What rpm itself says of the package, and does with it, on a Debian. That the names of its
# dependencies are those of Fedora, Red Hat or SUSE is not proved here, nor that dnf finds
# them, nor anything of SELinux.
set -eu

rpm=/packages/after.rpm
# The packages of this host are dpkg's, so rpm is not asked for dependencies.
install="--nodeps --noplugins"

say() {
    echo "    $*" >&2
}

die() {
    echo "rpm.sh: $*" >&2
    exit 1
}

rpm -K --nosignature $rpm >/dev/null || die "its digests are wrong"
requires=$(rpm -qp --requires $rpm)
say "it requires: $(echo "$requires" | grep -v '^rpmlib' | tr '\n' ' ')"
for name in fuse3 libc.so.6; do
    echo "$requires" | grep -q "^$name" || die "it does not require $name"
done
echo "$requires" | grep -q postgres && die "it requires a server"
rpm -qp --recommends $rpm | grep -q postgresql-server || die "it recommends no server"
rpm -qpc $rpm | grep -qx /etc/pbkfs/config.toml || die "config.toml is not a configuration"

rpm -qpl $rpm | sort >/root/rpm.list
for file in /usr/bin/pbkfs /usr/lib/systemd/system/pbkfs@.service \
    /usr/lib/systemd/system/pbkfs-verify@.timer /usr/lib/tmpfiles.d/pbkfs.conf \
    /usr/share/man/man1/pbkfs.1.gz /usr/share/bash-completion/completions/pbkfs \
    /usr/share/zsh/site-functions/_pbkfs /usr/share/licenses/pbkfs/LICENSE; do
    grep -qx "$file" /root/rpm.list || die "$file is missing"
done
say "it has $(wc -l </root/rpm.list) files"

# shellcheck disable=SC2086
rpm -i $install $rpm
version=$(pbkfs --version)
say "installed, it runs: $version"
# shellcheck disable=SC2086
rpm -V $install pbkfs || die "what was installed is not what is in the package"
{ [ -d /var/lib/pbkfs ] && [ -d /run/pbkfs ]; } || die "its script has made no directories"
enabled=$(find /etc/systemd/system -name 'pbkfs*')
[ -z "$enabled" ] || die "$enabled is enabled"

echo '{}' >/var/lib/pbkfs/history.jsonl
echo '# a word of the administrator' >>/etc/pbkfs/config.toml
# The same once more, as an upgrade: what the administrator wrote stays.
# shellcheck disable=SC2086
rpm -U --force $install $rpm
grep -q administrator /etc/pbkfs/config.toml || die "an upgrade replaced config.toml"

rpm -e --noplugins pbkfs >/root/rpm.log 2>&1 || die "it cannot be removed: $(cat /root/rpm.log)"
[ ! -e /usr/bin/pbkfs ] || die "the program is still there"
[ -s /var/lib/pbkfs/history.jsonl ] || die "the history was removed"
grep -q '/var/lib/pbkfs stays' /root/rpm.log || die "it does not say what stays"
say "removed, it says: $(grep '^pbkfs:' /root/rpm.log)"
rm /var/lib/pbkfs/history.jsonl
