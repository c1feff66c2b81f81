#!/bin/sh
# Makes a directory the root of these namespaces, and becomes its systemd. Started by
# root.sh, in a process that is the first one of its namespace.
# usage: init.sh ROOT PACKAGES APT_CACHE, from the root of the repository
set -eu
root=$1 packages=$2 cache=$3

mount --rbind "$root" "$root"
mount -t proc proc "$root/proc"
# What is the host's cannot be changed from in here.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# Made anew and not bound: systemd sets the mode of its console, and a device that is bound
# is the host's own.
device() {
    mknod -m 666 "$root/dev/$1" c "$2" "$3"
}
device null 1 3
device console 1 3
device zero 1 5
device full 1 7
device random 1 8
device urandom 1 9
device tty 5 0
device fuse 10 229

mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind . "$root/src"
mount -o remount,bind,ro "$root/src"
mount --bind "$packages" "$root/packages"
mount -o remount,bind,ro "$root/packages"
mount --bind "$cache" "$root/var/cache/apt/archives"

hostname pbkfs-package
cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
# As on a host: what a service mounts is seen, unless it has a namespace of its own.
mount --make-rshared /
exec env -i container=pbkfs-package /sbin/init
