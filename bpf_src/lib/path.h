// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The MTU of the path to the other end of a tunnel, as routers on it told (RFC 1191, RFC 8201). For a protocol that it has no tunnel device
// for, the kernel takes no notice of their messages.

enum path_limit {
	PATH_KEPT = 35763, /* ticks (16.8 ms) for which it holds: 10 minutes, net.ipv4.route.mtu_expires */
	PATH_LEAST4 = 552, /* what is less is not believed: net.ipv4.route.min_pmtu */
	PATH_LEAST6 = 1280, /* RFC 8200 5 */
};

struct tunnel_path {
	__u32 mtu; /* 0 for not told */
	__u32 told; /* when, in ticks */
};

/* Note that the path takes MTU bytes. */
static __always_inline void path_note(struct tunnel_path *path, __u32 mtu, const bool ipv6, __u32 now)
{
	const __u32 least = ipv6 ? PATH_LEAST6 : PATH_LEAST4;
	if (!mtu) /* a router older than RFC 1191 */
		return;
	path->mtu = mtu < least ? least : mtu;
	path->told = now;
}

/* The MTU towards an end whose device takes MTU bytes. */
static __always_inline __u32 path_mtu(const struct tunnel_path *path, __u32 mtu, __u32 now)
{
	bool holds = path->mtu && now - path->told <= PATH_KEPT;
	return holds && path->mtu < mtu ? path->mtu : mtu;
}
