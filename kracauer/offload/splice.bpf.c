/* SPDX-License-Identifier: MIT */
/*
 * The rewrite of kracauer/tcp/splice.py in the kernel, as a classifier on the TUN device's egress (RFC 7915 §4.1, §5.1).
 *
 * A packet that is plain, of a flow that the maps know, is rewritten and put back into the device's own receive path, as if the
 * daemon had read and written it. So is a plain SYN of a flow that nobody knows, as its answer (syns.bpf.h). Any other packet goes
 * on to the daemon, untouched: so this must never translate or answer what the daemon would not, and may do less. Both are held to
 * that, packet by packet, by tests/offload/.
 *
 * Numbers in maps are in the machine's own byte order; ports, addresses and what is added to checksums lie there as they lie in
 * packets. Built by `python -m kracauer.offload.build`, which needs clang and no headers.
 *
 * An element of a hash that was removed may be used for another flow while a packet is still looking at it. Such a packet gets
 * addresses that its checksum does not fit, or numbers that its receiver does not expect: it is lost, as packets may be.
 */

#include "packets.bpf.h"

/* Linux's include/uapi/linux/bpf.h and pkt_cls.h, as far as it is needed. */

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex;
	u32 tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4, remote_ip6[4];
	u32 local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};
_Static_assert(__builtin_offsetof(struct __sk_buff, gso_size) == 176, "the kernel's layout");

static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static long (*const skb_store_bytes)(struct __sk_buff *, u32 offset, const void *from, u32 length, u64 flags) = (void *)9;
static long (*const l4_csum_replace)(struct __sk_buff *, u32 offset, u64 from, u64 to, u64 flags) = (void *)11;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const skb_load_bytes)(const struct __sk_buff *, u32 offset, void *to, u32 length) = (void *)26;
static long (*const skb_change_proto)(struct __sk_buff *, u16 protocol, u64 flags) = (void *)31;
static long (*const skb_change_tail)(struct __sk_buff *, u32 length, u64 flags) = (void *)38;
static u64 (*const ktime_get_coarse_ns)(void) = (void *)160;

enum { MAP_HASH = 1, MAP_ARRAY = 2 };
enum { F_NO_PREALLOC = 1, F_MMAPABLE = 1 << 10 };
enum { F_INGRESS = 1, F_PSEUDO_HDR = 1 << 4 };
/* To others that may stand on the same hook, and then to the device: this is not our packet. */
#define PASS (-1)
#define DROP 2

/* How many bytes lie before the IP header: none on a TUN device, 14 in the kernel's test runs. The loader puts it in. */
extern const u8 link_header_length[];
#define LINK ((u32)(u64)link_header_length)

/* Packets. */

enum { ETH_IP = 0x0800, ETH_IPV6 = 0x86DD };
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16, DECISIVE = SYN | RST | ACK };
/* How far from what was acknowledged a FIN may lie to be believed, see splice.py. */
enum { BELIEVABLE_WINDOW = 1 << 24 };
enum { DONT_FRAGMENT = 0x4000 };
/* Above this an IPv4 result goes out with DF set, see splice.py. */
enum { DF_ABOVE = 1260 };

struct tcp {
	u16 src_port, dst_port;
	u32 seq, ack;
	u16 offset_flags, window, checksum, urgent;
};

enum { MAX_OPTIONS = 10 };
/* Bytes of options that nearly all segments have: one timestamp. */
enum { USUAL_OPTIONS = 12 };

/* The headers of a packet; its TCP header stays where it is while the other family's IP header is put before it. */
struct headers {
	union {
		struct ipv6 v6;
		struct {
			u8 headroom[20];
			struct ipv4 v4;
		};
	};
	struct tcp tcp;
	u32 options[MAX_OPTIONS]; /* in words of four bytes */
};
_Static_assert(sizeof(struct headers) == 100, "no padding");

/* Maps. kracauer/offload/layout.py has the same layouts for Python. */

struct map {
	u32 type, key_size, value_size, flags;
};

struct from_client {
	u32 src, dst;
	u16 src_port, dst_port;
};

struct from_backend {
	u32 src[4], dst[4];
	u16 src_port, dst_port;
};

/* What is added to a segment's numbers, and what becomes of the rest. */
struct change {
	u16 port;               /* the backend's, or the service's */
	u16 address_difference; /* what the addresses add to a checksum, not 0 */
	u16 max_size;           /* of the packet in its IPv4 form, in bytes */
	s8 window_shift;        /* to the left, or if negative to the right */
	u8 padding;
	u32 index; /* of the flow's traffic */
	u32 seq, ack, tsval, tsecr;
};

struct to_backend {
	struct change change;
	u16 max_unfragmented; /* likewise, where DF is clear */
	u8 padding[2];
	u32 addresses[8];
};
_Static_assert(sizeof(struct to_backend) == 64, "no padding but what is named");

struct to_client {
	struct change change;
	u32 identification; /* index of the counter that numbers packets to this client */
	u32 addresses[2];
};
_Static_assert(sizeof(struct to_client) == 40, "no padding");

/*
 * What one direction has carried, in a cache line of its own; `collected_*` is what the daemon has taken note of already. Moments
 * are nanoseconds of the monotonic clock.
 */
struct carried {
	u64 packets, bytes;
	u64 last_seen;
	u32 acked;       /* the last acknowledgment number as its receiver knows it */
	u32 leaves_fins; /* to the backend: not 0 where the daemon may know other such numbers, so that FINs are for it to judge */
	u64 collected_packets, collected_bytes;
	u64 fin_seen; /* when the first FIN was; 0 while there was none */
	u64 padding;
};
_Static_assert(sizeof(struct carried) == 64, "a cache line");

struct traffic {
	struct carried to_backend, to_client;
};

struct control {
	u64 lease_until;   /* nanoseconds of the monotonic clock: from then on all packets are the daemon's */
};

SECTION("maps") const struct map client_flows = {
	MAP_HASH, sizeof(struct from_client), sizeof(struct to_backend), F_NO_PREALLOC
};
SECTION("maps") const struct map backend_flows = {
	MAP_HASH, sizeof(struct from_backend), sizeof(struct to_client), F_NO_PREALLOC
};
SECTION("maps") const struct map traffic = { MAP_ARRAY, sizeof(u32), sizeof(struct traffic), F_MMAPABLE };
SECTION("maps") const struct map identifications = { MAP_ARRAY, sizeof(u32), sizeof(u32), F_MMAPABLE };
SECTION("maps") const struct map control = { MAP_ARRAY, sizeof(u32), sizeof(struct control), F_MMAPABLE };

/* Checksums: sums of words as they lie in the packet, of either byte order (RFC 1071 §2 (B)). */

INLINE u32 fold32(u64 sum)
{
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	return (u32)sum;
}

INLINE u16 fold16(u32 sum)
{
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	return (u16)sum;
}

/* The sum of a header's ten words, its checksum among them: 0xFFFF for an intact one. */
INLINE u16 ipv4_sum(const struct ipv4 *ip)
{
	u32 sum = ip->version_ihl | ip->tos << 8;

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	sum = ip->version_ihl << 8 | ip->tos;
	sum += ip->ttl << 8 | ip->protocol;
#else
	sum += ip->ttl | ip->protocol << 8;
#endif
	sum += ip->total_length;
	sum += ip->identification;
	sum += ip->fragment;
	sum += ip->checksum;
	sum += (ip->src & 0xFFFF) + (ip->src >> 16);
	sum += (ip->dst & 0xFFFF) + (ip->dst >> 16);
	return fold16(sum);
}

/* Add `delta` to `number`, which lies in network order, and note in `difference` what that does to a checksum. */
#define SHIFT(number, delta)                                         \
	do {                                                         \
		u32 before = (number), after;                        \
		after = net32(net32(before) + (delta));              \
		difference += (u64)after + (u32)~before;             \
		(number) = after;                                    \
	} while (0)

/* Segments. */

/* Whether its flags are plain; FIN may be among them, which is judged once the flow's numbers are known. */
INLINE int is_plain(const struct tcp *tcp)
{
	return (net16(tcp->offset_flags) & DECISIVE) == ACK;
}

INLINE int has_fin(const struct tcp *tcp)
{
	return net16(tcp->offset_flags) & FIN;
}

INLINE u32 header_length(const struct tcp *tcp)
{
	return net16(tcp->offset_flags) >> 10 & 0x3C;
}

/*
 * Load the options of the TCP header that begins at `at` and is `length` bytes long, 20 to 60, and move what `change` says.
 * Word by word, for the layouts that stacks do send, and unrolled: a byte at a time the verifier would give up, and without
 * CAP_PERFMON it lets nobody compute where on the stack to look. Returns 0 for any other layout.
 */
INLINE int shift_options(struct __sk_buff *skb, struct headers *headers, u32 at, u32 length, const struct change *change,
                         u64 *total)
{
	u32 count, left = 0, delta = 0, next_delta = 0, i;
	u32 *options = headers->options;
	u64 difference = *total;

	length -= 20;
	asm volatile("" : "+r"(length)); /* else the compiler proves what the verifier then cannot see */
	if (length < 4)
		return 1;
	if (length == USUAL_OPTIONS && options[0] == net32(0x0101080A)) { /* they are here already */
		SHIFT(options[1], change->tsval);
		SHIFT(options[2], change->tsecr);
		*total = difference;
		return 1;
	}
	if (length > sizeof(headers->options) || skb_load_bytes(skb, at + 20, options, length))
		return 0;
	count = length / 4;
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_OPTIONS; i++) {
		u32 word = options[i];

		if (i >= count)
			break;
		if (left) {
			SHIFT(options[i], delta);
			delta = next_delta;
			left--;
		} else if (word == net32(0x0101080A)) { /* NOP, NOP, timestamps (RFC 7323 §3.2) */
			delta = change->tsval;
			next_delta = change->tsecr;
			left = 2;
		} else if ((word & net32(0xFFFFFF00)) == net32(0x01010500)) { /* NOP, NOP, SACK (RFC 2018 §3) */
			u32 size = net32(word) & 0xFF;

			if (size != 10 && size != 18 && size != 26 && size != 34)
				return 0;
			delta = next_delta = change->ack;
			left = size / 4; /* its bytes but the first two, in words */
		} else if (word != net32(0x01010101)) {
			return 0;
		}
	}
	*total = difference;
	return !left;
}

/* Move the fixed part of the header by what `change` says, ports apart. */
INLINE void shift_header(struct tcp *tcp, const struct change *change, u64 *total)
{
	u64 difference = *total;
	u16 before = tcp->window;
	u32 window;

	SHIFT(tcp->seq, change->seq);
	SHIFT(tcp->ack, change->ack);
	if (change->window_shift) {
		window = net16(before);
		if (change->window_shift > 0) {
			window <<= change->window_shift & 15;
			if (window > 0xFFFF)
				window = 0xFFFF;
		} else {
			window >>= -change->window_shift & 15;
		}
		tcp->window = net16(window);
		difference += (u64)tcp->window + (u16)~before;
	}
	*total = difference;
}

/* Put the headers from `from` on into the packet, and bring the checksum up to date. */
INLINE int write_back(struct __sk_buff *skb, const void *from, u32 ip_length, u32 tcp_length, const struct change *change,
                      u64 difference)
{
	u32 length = ip_length + tcp_length, checksum_at = LINK + ip_length + 16;

	asm volatile("" : "+r"(length));
	if (length < 40 || length > ip_length + 60)
		return DROP;
	if (skb_store_bytes(skb, LINK, from, length, 0))
		return DROP;
	/* Addresses apart from the rest: only they are in a sum that the hardware is still to complete. */
	if (l4_csum_replace(skb, checksum_at, 0, change->address_difference, F_PSEUDO_HDR) ||
	    l4_csum_replace(skb, checksum_at, 0, fold32(difference), 0))
		return DROP;
	return redirect(skb->ifindex, F_INGRESS);
}

/*
 * Load the `length` bytes of headers that every segment has, and the options behind them that nearly all have, where there is
 * room for those: each call of the kernel's costs more than the bytes. Returns 0 if the packet is too short.
 */
INLINE int load(struct __sk_buff *skb, void *to, u32 length)
{
	if (skb->len >= LINK + length + USUAL_OPTIONS)
		return !skb_load_bytes(skb, LINK, to, length + USUAL_OPTIONS);
	return !skb_load_bytes(skb, LINK, to, length);
}

INLINE int is_leased(u64 now)
{
	u32 key = 0;
	const struct control *control_of_all = map_lookup(&control, &key);

	return control_of_all && now < control_of_all->lease_until;
}

/*
 * Whether a FIN could be its sender's own, to whom `acked` was acknowledged last (spliced.py has the same test). One that could
 * not be goes on as well, but changes nothing: that is the daemon's to say.
 */
INLINE int is_believed(const struct tcp *tcp, u32 acked)
{
	return net32(tcp->seq) - acked <= BELIEVABLE_WINDOW;
}

INLINE void count(struct carried *carried, u32 payload, const struct tcp *tcp, u64 now)
{
	/* Before the packets: who finds one more of them looks for this. */
	if (has_fin(tcp) && !*(volatile u64 *)&carried->fin_seen)
		*(volatile u64 *)&carried->fin_seen = now;
	__sync_fetch_and_add(&carried->packets, 1);
	__sync_fetch_and_add(&carried->bytes, payload);
	*(volatile u64 *)&carried->last_seen = now;
	*(volatile u32 *)&carried->acked = net32(tcp->ack);
}

/* What is known of a packet by the time that its flow is found. */
struct packet {
	struct headers headers;
	const struct change *change;
	u32 ip_length, tcp_length, payload;
	u8 tos, hop_limit;
};

/* Take the client's packet apart; returns its flow, or 0 where it is not plain or none of ours. */
INLINE const struct to_backend *from_client(struct __sk_buff *skb, struct packet *packet)
{
	struct headers *headers = &packet->headers;
	const struct to_backend *flow;
	u32 total_length, tcp_length, size;
	struct from_client key;

	if (!load(skb, &headers->v4, sizeof(struct ipv4) + sizeof(struct tcp)))
		return 0;
	total_length = net16(headers->v4.total_length);
	tcp_length = header_length(&headers->tcp);
	if (headers->v4.version_ihl != 0x45 || headers->v4.protocol != TCP || headers->v4.fragment & net16(FRAGMENTED) ||
	    headers->v4.ttl < 2 || total_length != skb->len - LINK || !is_plain(&headers->tcp) || tcp_length < 20 ||
	    20 + tcp_length > total_length)
		return 0;
	key.src = headers->v4.src;
	key.dst = headers->v4.dst;
	key.src_port = headers->tcp.src_port;
	key.dst_port = headers->tcp.dst_port;
	flow = map_lookup(&client_flows, &key);
	if (!flow || ipv4_sum(&headers->v4) != 0xFFFF)
		return 0;
	/* A super-packet goes as far as its segments fit. */
	size = skb->gso_size ? skb->gso_size + 20 + tcp_length : total_length;
	if (size > flow->max_unfragmented &&
	    (size > flow->change.max_size || !(headers->v4.fragment & net16(DONT_FRAGMENT))))
		return 0;
	packet->change = &flow->change;
	packet->ip_length = sizeof(struct ipv4);
	packet->tcp_length = tcp_length;
	packet->payload = total_length - 20 - tcp_length;
	packet->tos = headers->v4.tos;
	packet->hop_limit = headers->v4.ttl;
	return flow;
}

/* The same of the backend's packet. */
INLINE const struct to_client *from_backend(struct __sk_buff *skb, struct packet *packet)
{
	struct headers *headers = &packet->headers;
	const struct to_client *flow;
	u32 payload_length, tcp_length, size, version_class_label;
	struct from_backend key;

	if (!load(skb, &headers->v6, sizeof(struct ipv6) + sizeof(struct tcp)))
		return 0;
	version_class_label = net32(headers->v6.version_class_label);
	payload_length = net16(headers->v6.payload_length);
	tcp_length = header_length(&headers->tcp);
	if (version_class_label >> 28 != 6 || headers->v6.next_header != TCP || headers->v6.hop_limit < 2 ||
	    payload_length + 40 != skb->len - LINK || !is_plain(&headers->tcp) || tcp_length < 20 ||
	    tcp_length > payload_length || payload_length + 20 > 0xFFFF)
		return 0;
	__builtin_memcpy(key.src, headers->v6.src, sizeof(key.src));
	__builtin_memcpy(key.dst, headers->v6.dst, sizeof(key.dst));
	key.src_port = headers->tcp.src_port;
	key.dst_port = headers->tcp.dst_port;
	flow = map_lookup(&backend_flows, &key);
	size = (skb->gso_size ? skb->gso_size + tcp_length : payload_length) + 20;
	if (!flow || size > flow->change.max_size)
		return 0;
	packet->change = &flow->change;
	packet->ip_length = sizeof(struct ipv6);
	packet->tcp_length = tcp_length;
	packet->payload = payload_length - tcp_length;
	packet->tos = version_class_label >> 20;
	packet->hop_limit = headers->v6.hop_limit;
	return flow;
}

INLINE void build_ipv6(struct packet *packet, const struct to_backend *flow)
{
	struct ipv6 *ip = &packet->headers.v6;

	ip->version_class_label = net32(0x60000000 | (u32)packet->tos << 20);
	ip->payload_length = net16(packet->tcp_length + packet->payload);
	ip->next_header = TCP;
	ip->hop_limit = packet->hop_limit - 1;
	__builtin_memcpy(ip->src, flow->addresses, sizeof(ip->src));
	__builtin_memcpy(ip->dst, flow->addresses + 4, sizeof(ip->dst));
}

/*
 * The first of `count` identification numbers in a row. They have the highest bit set, and the daemon's do not; those of one
 * client are never given twice before all 32,768 are used.
 */
INLINE u16 identify(const struct to_client *flow, u32 count)
{
	u32 *next = map_lookup(&identifications, &flow->identification);

	return next ? 0x8000 | __sync_fetch_and_add(next, count) : 0x8000;
}

INLINE void build_ipv4(struct packet *packet, const struct to_client *flow, u32 gso_size)
{
	struct ipv4 *ip = &packet->headers.v4;
	u32 total_length = 20 + packet->tcp_length + packet->payload;
	u32 size = gso_size ? gso_size + 20 + packet->tcp_length : total_length;

	ip->version_ihl = 0x45;
	ip->tos = packet->tos;
	ip->total_length = net16(total_length);
	ip->identification = 0;
	ip->fragment = net16(DONT_FRAGMENT);
	if (size <= DF_ABOVE) {
		ip->identification = net16(identify(flow, gso_size ? packet->payload / gso_size + 1 : 1));
		ip->fragment = 0;
	}
	ip->ttl = packet->hop_limit - 1;
	ip->protocol = TCP;
	ip->checksum = 0;
	ip->src = flow->addresses[0];
	ip->dst = flow->addresses[1];
	ip->checksum = ~ipv4_sum(ip);
}

/* What follows has a stack of its own each, so that together they need no more of it than one program may. */
#define FUNCTION static __attribute__((section("program"), noinline))

FUNCTION int translate(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct tcp *tcp = &packet.headers.tcp;
	const struct to_backend *to_backend = 0;
	const struct to_client *to_client = 0;
	struct traffic *carried;
	u64 difference = 0, now;

	if (skb->protocol == net16(ETH_IP))
		to_backend = from_client(skb, &packet);
	else if (skb->protocol == net16(ETH_IPV6))
		to_client = from_backend(skb, &packet);
	if (!to_backend && !to_client)
		return PASS;
	now = ktime_get_coarse_ns();
	if (!is_leased(now))
		return PASS;
	carried = map_lookup(&traffic, &packet.change->index);
	if (!carried)
		return PASS;
	if (has_fin(tcp)) {
		/* Both are read: without CAP_PERFMON the verifier lets nobody add one of two numbers to a pointer. */
		u32 by_client = *(volatile u32 *)&carried->to_backend.acked;
		u32 by_backend = *(volatile u32 *)&carried->to_client.acked;

		if (carried->to_backend.leaves_fins || !is_believed(tcp, to_backend ? by_backend : by_client))
			return PASS;
	}
	if (!shift_options(skb, &packet.headers, LINK + packet.ip_length, packet.tcp_length, packet.change, &difference))
		return PASS;
	shift_header(tcp, packet.change, &difference);

	if (to_backend) {
		difference += (u64)packet.change->port + (u16)~tcp->dst_port;
		tcp->dst_port = packet.change->port;
		build_ipv6(&packet, to_backend);
		if (skb_change_proto(skb, net16(ETH_IPV6), 0))
			return PASS;
		count(&carried->to_backend, packet.payload, tcp, now);
		return write_back(skb, &packet.headers.v6, sizeof(struct ipv6), packet.tcp_length, packet.change, difference);
	}
	difference += (u64)packet.change->port + (u16)~tcp->src_port;
	tcp->src_port = packet.change->port;
	build_ipv4(&packet, to_client, skb->gso_size);
	if (skb_change_proto(skb, net16(ETH_IP), 0))
		return PASS;
	count(&carried->to_client, packet.payload, tcp, now);
	return write_back(skb, &packet.headers.v4, sizeof(struct ipv4), packet.tcp_length, packet.change, difference);
}

#include "workers.bpf.h"
#include "syns.bpf.h"

SECTION("program") int splice(struct __sk_buff *skb)
{
	int verdict = translate(skb);

	if (verdict != PASS || skb->protocol != net16(ETH_IP))
		return verdict;
	verdict = answer(skb);
	return verdict == PASS ? doubt(skb) : verdict;
}
