/* SPDX-License-Identifier: MIT */
/*
 * Which queue of the TUN device a packet goes to, as a socket filter behind TUNSETSTEERINGEBPF: kracauer/steering/flows.py in the
 * kernel. The kernel takes what is returned modulo the number of queues.
 *
 * What has no ports where they usually lie goes where the client's address alone leads. A worker that gets what is another's
 * hands it over; so this may know less than the workers do, but must agree with them on what is plain.
 *
 * Built by `python -m kracauer.offload.build`, which needs clang and no headers.
 */

#include "packets.bpf.h"

struct __sk_buff;

static long (*const skb_load_bytes)(const struct __sk_buff *, u32 offset, void *to, u32 length) = (void *)26;

#include "workers.bpf.h"

enum { ICMP = 1, ICMPV6 = 58 };
enum { ICMPV6_ERRORS_END = 128 };

INLINE u32 port_at(const struct __sk_buff *skb, u32 at)
{
	u16 port;

	return skb_load_bytes(skb, at, &port, sizeof(port)) ? 0 : net16(port);
}

/* RFC 792: what these messages quote. */
INLINE int is_v4_error(u8 type)
{
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

INLINE u32 from_client(const struct __sk_buff *skb)
{
	struct ipv4 ip;
	u32 at;
	u8 type;

	if (skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return 0;
	at = (ip.version_ihl & 15) * 4;
	if (ip.fragment & net16(FRAGMENTED))
		return choose(ip.src, 0);
	if (ip.protocol == TCP)
		return choose(ip.src, port_at(skb, at));
	if (ip.protocol == ICMP && !skb_load_bytes(skb, at, &type, 1) && is_v4_error(type)) {
		at += 8;
		if (skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.protocol != TCP)
			return 0;
		return choose(ip.dst, port_at(skb, at + (ip.version_ihl & 15) * 4 + 2));
	}
	return choose(ip.src, 0);
}

INLINE u32 to_client(const struct __sk_buff *skb)
{
	struct ipv6 ip;
	u8 type;

	if (skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return 0;
	if (ip.next_header == TCP)
		return choose(ip.dst[3], port_at(skb, sizeof(ip) + 2));
	if (ip.next_header == ICMPV6 && !skb_load_bytes(skb, sizeof(ip), &type, 1) && type < ICMPV6_ERRORS_END) {
		if (skb_load_bytes(skb, sizeof(ip) + 8, &ip, sizeof(ip)) || ip.next_header != TCP)
			return 0;
		return choose(ip.src[3], port_at(skb, sizeof(ip) + 8 + sizeof(ip)));
	}
	return choose(ip.dst[3], 0);
}

SECTION("program") int steer(const struct __sk_buff *skb)
{
	u8 version;

	if (skb_load_bytes(skb, 0, &version, 1))
		return 0;
	return version >> 4 == 6 ? to_client(skb) : from_client(skb);
}
