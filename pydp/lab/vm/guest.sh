#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Second stage of a guest, in the host's files: makes what a distribution's boot would make, runs the command with its
# output on virtio ports, notes its exit status, and powers off. /run/pydp-lab is a folder of the host's.
#
# shellcheck disable=SC2154 # modules, node, address and now are in the settings
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
exchange=/run/pydp-lab

off() {
	sync
	echo o >/proc/sysrq-trigger
	sleep 60
	exit
}

port() {
	local name
	for name in /sys/class/virtio-ports/*/name; do
		[[ $(<"$name") == "$1" ]] && mknod "/run/$1" c "$(cut -d: -f1 "${name%/name}/dev")" "$(cut -d: -f2 "${name%/name}/dev")"
	done
}

mkdir -p /dev/pts /dev/shm /run/netns /run/lock
mount -t devpts -o mode=620,ptmxmode=666 none /dev/pts
mount -t tmpfs none /dev/shm
mount -t bpf none /sys/fs/bpf
mount -t tracefs none /sys/kernel/tracing 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
# shellcheck source=/dev/null
. "$exchange/settings"
mkdir -p /lib/modules
ln -sfn "$modules" "/lib/modules/$(uname -r)"
hostname "$node"
ip link set lo up
port stdout
port stderr
if [[ -n $address ]]; then
	modprobe virtio_net
	for _ in {1..50}; do
		[[ -e /sys/class/net/eth0 ]] && break
		sleep 0.1
	done
	ip address add "$address" dev eth0
	ip link set eth0 up
	# A wire is one when it carries: the driver says so a moment after "up", and what is sent before is lost.
	for _ in {1..100}; do
		[[ $(</sys/class/net/eth0/operstate) == down ]] || break
		sleep 0.1
	done
fi
date -s "@$now" >/dev/null
echo ready >"$exchange/ready"
bash "$exchange/command" </dev/null >/run/stdout 2>/run/stderr
echo $? >"$exchange/status"
off
