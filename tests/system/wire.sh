#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One end of a wire between two guests: a container at the first, whose tunnel to the second is pydp's, while the second
# has a device of the kernel's. usage: wire.sh vxlan|ipip
set -euo pipefail
mode=$1

# told WHAT: wait until the other end says so, whose programs an emulated CPU may take minutes to compile
told() {
	for _ in {1..2400}; do
		[[ -e $PYDP_LAB_SHARED/$1 ]] && return
		[[ -e $PYDP_LAB_SHARED/failed ]] && exit 1
		sleep 0.1
	done
	echo "the other end never said $1" >&2
	exit 1
}

trap 'touch "$PYDP_LAB_SHARED/failed"' ERR

pydp_end() {
	ip netns add box
	ip link add p0 type veth peer name eth0 netns box
	ip link set p0 up
	ip -n box link set eth0 up
	ip -n box address add "$1/24" dev eth0
	if [[ $mode == vxlan ]]; then
		pydp attach --mode vxlan --vni 100 --local 192.168.123.111 --remote "$PYDP_LAB_PEER" --port p0 eth0
	else
		sysctl -qw net.ipv4.ip_forward=1
		ip address add 10.7.1.1/24 dev p0
		ip -n box route add default via 10.7.1.1
		pydp attach --mode ipip --local 192.168.123.111 --peer "$PYDP_LAB_PEER=10.7.2.0/24" --port p0 eth0
	fi
	touch "$PYDP_LAB_SHARED/pydp"
	told kernel
	ip netns exec box ping -c 3 -i 0.2 -W 5 "$2"
	ip netns exec box iperf3 -c "$2" -n 4M -R >/dev/null
	ip netns exec box iperf3 -c "$2" -n 4M >/dev/null
	pydp tunnel show --json >"$PYDP_LAB_RESULTS/tunnel.json"
	touch "$PYDP_LAB_SHARED/over"
	pydp detach --all
}

kernel_end() {
	local ends=(local 192.168.123.114 remote "$PYDP_LAB_PEER" dev eth0)
	if [[ $mode == vxlan ]]; then
		ip link add tun0 type vxlan id 100 dstport 4789 "${ends[@]}"
	else
		ip link add tun0 type ipip "${ends[@]}"
	fi
	ip address add "$1" dev tun0
	ip link set tun0 up
	[[ $mode == vxlan ]] || ip route add 10.7.1.0/24 dev tun0
	iperf3 -s -D
	touch "$PYDP_LAB_SHARED/kernel"
	told pydp
	told over
	ip -json -s link show tun0 >"$PYDP_LAB_RESULTS/device.json"
}

case "$PYDP_LAB_END $mode" in
"1 vxlan") pydp_end 10.7.1.2 10.7.1.9 ;;
"2 vxlan") kernel_end 10.7.1.9/24 ;;
"1 ipip") pydp_end 10.7.1.2 10.7.2.9 ;;
"2 ipip") kernel_end 10.7.2.9/24 ;;
esac
