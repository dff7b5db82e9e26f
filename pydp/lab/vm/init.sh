#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First process of a guest, from its initramfs: mounts the host's root file system (read-only) with a tmpfs on top,
# and hands over to guest.sh. Modules stand in /modules in the order in which they are needed.
#
# shellcheck shell=dash disable=SC2015 # "A && B || die": whichever fails, it dies
b=/bin/busybox
die() {
	echo "pydp-lab: $*"
	exec $b poweroff -f
}
$b mount -t devtmpfs none /dev && $b mount -t proc none /proc && $b mount -t sysfs none /sys || die "no /dev, /proc, /sys"
for module in /modules/*; do
	$b insmod "$module" || die "cannot load $module"
done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower || die "cannot mount the root"
$b mount -t tmpfs -o mode=755 none /upper && $b mkdir /upper/files /upper/work || die "cannot mount a tmpfs"
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work none /new || die "cannot mount overlay"
$b mount -t tmpfs -o mode=755 none /new/run && $b mkdir /new/run/pydp-lab /new/run/pydp-shared || die "no /run"
for share in lab shared; do
	$b mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=512000 $share /new/run/pydp-$share || die "cannot mount $share"
done
for place in dev proc sys; do
	$b mount --move /$place /new/$place
done
exec $b switch_root /new /bin/bash /run/pydp-lab/guest.sh
