/* SPDX-License-Identifier: MIT */
/*
 * Answering SYNs (RFC 4987 §3.6): the short way of kracauer/engine/gate.py in the kernel, part of splice.bpf.c.
 *
 * A plain SYN to a listener that everybody may use, of addresses and ports that the daemon may know no flow of, is turned into its
 * SYN-ACK where it lies. The cookie in it is the daemon's own (kracauer/tcp/cookie.py), and so is every byte of the packet. Any
 * other SYN is the daemon's: it is left as it was.
 *
 * A segment that belongs to nothing and brings no cookie is the daemon's, too: it may be the second one of a client whose first is
 * late, or of a connection that is to be reset. But there are not many such, and what comes beyond that is a flood of guesses.
 */

/* Maps. kracauer/offload/answering.py has the same layouts for Python. */

struct listener {
	u32 address;
	u16 port; /* 0: this is a service address, from which no packet may come */
	u16 worker;
};

/* What may be granted and asked for. */
enum { SACK = 1, TIMESTAMPS = 2, ECN = 4, SCALE = 8 };

/* What a listener's SYN-ACK may promise, see kracauer/tcp/terms.py. It is copied in one step: it may be replaced meanwhile. */
struct offer {
	u16 mss, cut_mss; /* the other one for a SYN whose DF is clear */
	u16 window;
	u8 scale_code; /* 0 to 15 */
	u8 grants;     /* bits of the above */
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct offer) == 8, "no padding");

struct answering {
	u64 keyed[8]; /* the state of BLAKE2b once it has taken in the key */
	u64 steps[4]; /* of the hash by which known flows are counted */
	u32 shift;    /* what of it is left is an index among the worker's counters */
	u32 nothing;  /* always 0, which the verifier does not know */
	u64 ahead;    /* of our clock the daemon's is, in nanoseconds */
};
_Static_assert(sizeof(struct answering) == 112, "no padding but what is named");

/* How many flows may be known by each of eight hashes, a byte each, the first one in the lowest byte of memory. */
struct known {
	u64 flows;
};

struct answered {
	u64 until; /* nanoseconds of the monotonic clock: from then on all SYNs are the daemon's */
	u64 syns;
	s64 spare;   /* how many guesses the daemon is still to be shown, until it says otherwise */
	u64 guesses; /* those that it was not shown */
	u64 padding[4]; /* a cache line that no other worker has to read */
};
_Static_assert(sizeof(struct answered) == 64, "a cache line");

SECTION("maps") const struct map listeners = { MAP_HASH, sizeof(struct listener), sizeof(struct offer), F_NO_PREALLOC };
SECTION("maps") const struct map answering = { MAP_ARRAY, sizeof(u32), sizeof(struct answering), F_MMAPABLE };
SECTION("maps") const struct map known_flows = { MAP_ARRAY, sizeof(u32), sizeof(struct known), F_MMAPABLE };
SECTION("maps") const struct map answered = { MAP_ARRAY, sizeof(u32), sizeof(struct answered), F_MMAPABLE };

/* BLAKE2b (RFC 7693), of one block that is nearly empty. Its numbers are little-endian. */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define little32(x) ((u32)(x))
#define little64(x) ((u64)(x))
#else
#define little32(x) ((u32)__builtin_bswap32(x))
#define little64(x) ((u64)__builtin_bswap64(x))
#endif

enum { KEY_BLOCK = 128, COVERED = 24, ROUNDS = 12 };

/* In which of the sixteen places the first three words of the message stand, four bits a round, the first round last. */
#define PLACES_0 0xA0F69841D3A0ULL
#define PLACES_1 0x816C52E93D81ULL
#define PLACES_2 0xB219ED0485B2ULL

#define ROTATE(x, bits) ((x) >> (bits) | (x) << (64 - (bits)))

#define ADD_WORD(number, place)             \
	do {                                \
		if (place_0 == (place))     \
			(number) += word_0; \
		if (place_1 == (place))     \
			(number) += word_1; \
		if (place_2 == (place))     \
			(number) += word_2; \
	} while (0)

#define MIX(a, b, c, d, place)                    \
	do {                                      \
		a += b;                           \
		ADD_WORD(a, place);               \
		d = ROTATE(d ^ a, 32);            \
		c += d;                           \
		b = ROTATE(b ^ c, 24);            \
		a += b;                           \
		ADD_WORD(a, (place) + 1);         \
		d = ROTATE(d ^ a, 16);            \
		c += d;                           \
		b = ROTATE(b ^ c, 63);            \
	} while (0)

/* Add a word of the digest's state, two of the cookie's, to the sum of all, and pick the one that is wanted. */
#define TAKE_WORDS(index, state)                                                         \
	do {                                                                             \
		u64 both = keyed[index] ^ (state);                                       \
		u32 first = net32(little32(both)), second = net32(little32(both >> 32)); \
                                                                                         \
		sum += (u64)first + second;                                              \
		if (scale_code / 2 == (index))                                           \
			found = scale_code % 2 ? second : first;                         \
	} while (0)

/*
 * The cookie of a connection, whose covered bytes are three words: what its sequence number has at `scale_code` in the upper
 * half, its TSval in the lower one, see cookie.py. A function by itself, because together they would need too much of the stack.
 */
FUNCTION u64 bake(const u64 *keyed, u64 word_0, u64 word_1, u64 word_2, u32 scale_code)
{
	u64 v0 = keyed[0], v1 = keyed[1], v2 = keyed[2], v3 = keyed[3], v4 = keyed[4], v5 = keyed[5], v6 = keyed[6], v7 = keyed[7];
	u64 v8 = 0x6A09E667F3BCC908ULL, v9 = 0xBB67AE8584CAA73BULL, va = 0x3C6EF372FE94F82BULL, vb = 0xA54FF53A5F1D36F1ULL;
	u64 vc = 0x510E527FADE682D1ULL ^ (KEY_BLOCK + COVERED), vd = 0x9B05688C2B3E6C1FULL;
	u64 ve = ~0x1F83D9ABFB41BD6BULL, vf = 0x5BE0CD19137E2179ULL, sum = 0;
	u32 found = 0, round;

#pragma clang loop unroll(full)
	for (round = 0; round < ROUNDS; round++) {
		u32 place_0 = PLACES_0 >> 4 * round & 15, place_1 = PLACES_1 >> 4 * round & 15, place_2 = PLACES_2 >> 4 * round & 15;

		MIX(v0, v4, v8, vc, 0);
		MIX(v1, v5, v9, vd, 2);
		MIX(v2, v6, va, ve, 4);
		MIX(v3, v7, vb, vf, 6);
		MIX(v0, v5, va, vf, 8);
		MIX(v1, v6, vb, vc, 10);
		MIX(v2, v7, v8, vd, 12);
		MIX(v3, v4, v9, ve, 14);
	}
	TAKE_WORDS(0, v0 ^ v8);
	TAKE_WORDS(1, v1 ^ v9);
	TAKE_WORDS(2, v2 ^ va);
	TAKE_WORDS(3, v3 ^ vb);
	TAKE_WORDS(4, v4 ^ vc);
	TAKE_WORDS(5, v5 ^ vd);
	TAKE_WORDS(6, v6 ^ ve);
	TAKE_WORDS(7, v7 ^ vf);
	round = fold32(sum);
	return (u64)found << 32 | (round == 0xFFFFFFFF ? 0 : round);
}

/* SYNs. */

enum { ECE = 64, CWR = 128 };
enum { NO_SCALE = 15 };
#define COUNTER_NS 60000000000ULL

typedef u32 __attribute__((may_alias)) word;

struct syn {
	struct ipv4 ip;
	struct tcp tcp;
	u32 options[MAX_OPTIONS];
};

/* What the options of a SYN ask for. */
struct asked {
	u32 mss, scale, tsval; /* tsval as it lies in the packet */
	u32 bits;              /* of what may be granted */
};

/*
 * Read `count` words of options, in the layouts that stacks do send: each option is one word with the NOPs before or behind it,
 * or two of them are, or it is a timestamps option that begins in the middle of a word. Returns 0 for any other layout.
 */
INLINE int read_options(const u32 *options, u32 count, struct asked *asked)
{
	u32 left = 0, i;

#pragma clang loop unroll(full)
	for (i = 0; i < MAX_OPTIONS; i++) {
		u32 word = net32(options[i]);

		if (i >= count)
			break;
		if (left) {
			if (left == 2)
				asked->tsval = options[i];
			left--;
		} else if (word >> 16 == 0x0204) { /* MSS */
			asked->mss = word & 0xFFFF;
		} else if (word >> 8 == 0x010303) { /* NOP, window scale */
			asked->scale = word & 0xFF;
			asked->bits |= SCALE;
		} else if (word == 0x0402080A || word == 0x0101080A) { /* SACK permitted or two NOPs, timestamps */
			asked->bits |= TIMESTAMPS | (word >> 26 & SACK);
			left = 2;
		} else if (word == 0x01010402 || word == 0x04020101) { /* SACK permitted and two NOPs */
			asked->bits |= SACK;
		} else if (word == 0x04020000) { /* SACK permitted, the end */
			asked->bits |= SACK;
			break;
		} else if (word >> 24 == 0) { /* the end */
			break;
		} else if (word != 0x01010101) {
			return 0;
		}
	}
	if (asked->scale > 14) /* RFC 7323 §2.3 */
		asked->scale = 14;
	return !left;
}

/*
 * 1 where `mss` is at least `least`. Here and below bits are computed where there might be branches, each of which the verifier,
 * without CAP_PERFMON, would follow both ways though one be impossible.
 */
INLINE u32 reaches(u32 mss, u32 least)
{
	return (least - 1 - mss) >> 31;
}

/* Nine bits of what was agreed, see `encode_terms` of terms.py; `granted` is what is asked for and may be had. */
INLINE u32 encode_terms(const struct asked *asked, u32 granted)
{
	u32 mss = asked->mss ? asked->mss : 536; /* RFC 9293 §3.7.1 */
	u32 mss_class = reaches(mss, 536) + reaches(mss, 1220) + reaches(mss, 1340) + reaches(mss, 1400) + reaches(mss, 1440) +
	                reaches(mss, 1460) + reaches(mss, 8900);
	u32 scale = granted & SCALE ? asked->scale : NO_SCALE;

	return mss_class | scale << 3 | (granted & SACK) << 7 | (granted & ECN) << 6;
}

INLINE int is_legal_source(u32 src)
{
	u32 address = net32(src);

	return address >> 24 && address >> 24 != 127 && address >> 24 < 224 && address >> 16 != 0xA9FE;
}

INLINE int is_service(u32 address, u16 worker)
{
	struct listener key = { address, 0, worker };

	return map_lookup(&listeners, &key) != 0;
}

/*
 * Whether the worker that is asked for may know a flow of these addresses and ports. Each counts in a region of its own.
 */
INLINE int is_known(const struct answering *how, const struct syn *syn, u64 worker)
{
	const word *words = (const word *)&syn->ip.src; /* both addresses, both ports */
	u64 hash = how->steps[0] + how->steps[1] * words[0] + how->steps[2] * words[1] + how->steps[3] * words[2];
	const struct known *known;
	u32 index;

	hash = (worker << (64 - how->shift)) + (hash >> how->shift);
	index = hash >> 3;
	known = map_lookup(&known_flows, &index);
	/* An address that is computed would have the verifier tell all numbers apart from there on, for want of CAP_PERFMON. */
	return !known || little64(known->flows) >> (hash & 7) * 8 & 0xFF;
}

/* Whether what has the checksum `before` at `at` is still to be completed by the hardware: then a new word leaves it alone. */
INLINE int is_partial(struct __sk_buff *skb, u32 at, u16 before)
{
	u16 after;

	if (l4_csum_replace(skb, at, 0, net16(1), 0) || skb_load_bytes(skb, at, &after, sizeof(after)))
		return 0;
	if (after == before)
		return 1;
	skb_store_bytes(skb, at, &before, sizeof(before), 0);
	return 0;
}

/* The sum of a TCP header's words, all that it can have, on top of `sum`. */
INLINE u16 tcp_sum(const struct syn *syn, u64 sum)
{
	const word *words = (const word *)&syn->tcp;
	u32 i;

	asm volatile("" ::: "memory"); /* else all that was ever read of them would be kept on the stack beside them */
#pragma clang loop unroll(full)
	for (i = 0; i < 5; i++)
		sum += words[i];
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_OPTIONS; i++)
		sum += syn->options[i];
	return fold16(fold32(sum));
}

/* Put in the options of the SYN-ACK, as `build_options` of wire/tcp.py has them; returns the length of the TCP header. */
INLINE u32 grant(u32 *options, const struct offer *offer, const struct asked *asked, u32 granted, u32 mss, u32 tsval)
{
	u32 has_sack = granted & SACK, has_scale = granted / SCALE & 1, scale = net32(0x01030300 | offer->scale_code) * has_scale;

	options[0] = net32(0x02040000 | mss);
	options[2] = options[3] = options[4] = 0;
	if (granted & TIMESTAMPS) {
		options[1] = net32(0x0101080A + has_sack * (0x0402080A - 0x0101080A));
		options[2] = net32(tsval);
		options[3] = asked->tsval;
		options[4] = scale;
		return 36 + 4 * has_scale;
	}
	if (has_sack) {
		options[1] = net32(0x01010402);
		options[2] = scale;
		return 28 + 4 * has_scale;
	}
	options[1] = scale;
	return 24 + 4 * has_scale;
}

enum { BROKEN, WHOLE, TO_COMPLETE };

/*
 * Load the options and make sure that the SYN is whole, or will be once the hardware has completed its checksum; BROKEN is also
 * what cannot be read.
 */
FUNCTION u64 take_syn(struct __sk_buff *skb, struct syn *syn, u32 tcp_length, struct asked *asked)
{
	u32 length = tcp_length - 20;
	u64 pseudo = (u64)syn->ip.src + syn->ip.dst + net16(TCP + tcp_length);

	asm volatile("" : "+r"(length));
	if (length >= 4 && (length > sizeof(syn->options) || skb_load_bytes(skb, LINK + 40, syn->options, length)))
		return BROKEN;
	if (!read_options(syn->options, length / 4, asked))
		return BROKEN;
	if (syn->tcp.checksum == fold16(fold32(pseudo)) && is_partial(skb, LINK + 36, syn->tcp.checksum))
		return TO_COMPLETE;
	return tcp_sum(syn, pseudo) == 0xFFFF ? WHOLE : BROKEN;
}

/* Make the SYN-ACK of a SYN, see kracauer/tcp/syn_ack.py; returns the length of its TCP header. */
FUNCTION u32 turn(struct syn *syn, const struct asked *asked, const struct offer *offer, u64 cookie, u64 state)
{
	struct ipv4 *ip = &syn->ip;
	struct tcp *tcp = &syn->tcp;
	u32 address = ip->src, mss = offer->mss, cut_mss = offer->cut_mss, tcp_length;
	u32 flags = net16(tcp->offset_flags), asks_ecn = flags / ECE & flags / CWR & 1;
	u32 granted = offer->grants & (asked->bits | asks_ecn * ECN);
	u16 port = tcp->src_port;
	u64 pseudo;

	asm volatile("" : "+r"(mss), "+r"(cut_mss)); /* else an address is computed, which takes CAP_PERFMON */
	if (!(ip->fragment & net16(DONT_FRAGMENT)))
		mss = cut_mss;
	syn->options[5] = syn->options[6] = syn->options[7] = syn->options[8] = syn->options[9] = 0;
	tcp_length = grant(syn->options, offer, asked, granted, mss, cookie);
	ip->tos = 0;
	ip->total_length = net16(20 + tcp_length);
	ip->identification = 0;
	ip->fragment = net16(DONT_FRAGMENT);
	ip->ttl = 64;
	ip->checksum = 0;
	ip->src = ip->dst;
	ip->dst = address;
	ip->checksum = ~ipv4_sum(ip);
	tcp->src_port = tcp->dst_port;
	tcp->dst_port = port;
	tcp->ack = net32(net32(tcp->seq) + 1);
	tcp->seq = net32((u32)(cookie >> 32) ^ encode_terms(asked, granted));
	tcp->offset_flags = net16(tcp_length << 10 | SYN | ACK | (granted & ECN) * (ECE / ECN));
	tcp->window = net16(offer->window);
	tcp->checksum = 0;
	tcp->urgent = 0;
	pseudo = (u64)ip->src + ip->dst + net16(TCP + tcp_length);
	tcp->checksum = state == TO_COMPLETE ? fold16(fold32(pseudo)) : (u16)~tcp_sum(syn, pseudo);
	return tcp_length;
}

/* The cookie of what `syn` is the SYN of; `bake` takes the packet's bytes from its source address on as they lie there. */
INLINE u64 cookie_of(const struct syn *syn, const struct answering *how, u32 scale_code, u64 now)
{
	const word *words = (const word *)&syn->ip.src; /* both addresses, both ports, the sequence number */

	return bake(how->keyed, (u64)little32(words[1]) << 32 | little32(words[0]),
	            (u64)little32(words[3]) << 32 | little32(words[2]), __builtin_bswap64(now / COUNTER_NS), scale_code);
}

/* What answers a client's packets to a listener: its worker, by what that does it, and what of it is counted. */
struct answerer {
	u32 worker;
	const struct offer *offer;
	const struct answering *how;
	struct answered *counted;
};

/* Find it; 0 where there is no such listener, nobody who looks after it now, or perhaps a flow of these addresses and ports. */
INLINE int find_answerer(struct answerer *found, const struct syn *syn, u64 now)
{
	struct listener listener = {};

	found->worker = choose(syn->ip.src, net16(syn->tcp.src_port));
	listener.address = syn->ip.dst;
	listener.port = syn->tcp.dst_port;
	listener.worker = found->worker;
	found->offer = map_lookup(&listeners, &listener);
	found->how = map_lookup(&answering, &found->worker);
	found->counted = map_lookup(&answered, &found->worker);
	return found->counted && now < found->counted->until && found->offer && found->how &&
	       !is_known(found->how, syn, found->worker);
}

/* Answer a SYN over IPv4; any other packet is left alone. */
FUNCTION int answer(struct __sk_buff *skb)
{
	struct syn syn = {};
	const struct ipv4 *ip = &syn.ip;
	const struct tcp *tcp = &syn.tcp;
	struct asked asked = {};
	struct answerer by;
	struct offer offer;
	u32 tcp_length, length;
	u64 now, state; /* of eight bytes, for where it lies on the stack there may have been an address before */

	if (skb_load_bytes(skb, LINK, &syn, sizeof(syn.ip) + sizeof(syn.tcp)))
		return PASS;
	tcp_length = header_length(tcp);
	length = net16(ip->total_length);
	if ((net16(tcp->offset_flags) & (DECISIVE | FIN)) != SYN || ip->version_ihl != 0x45 || ip->protocol != TCP ||
	    ip->fragment & net16(FRAGMENTED) || tcp_length < 20 || length != 20 + tcp_length || length != skb->len - LINK ||
	    skb->gso_size || !tcp->src_port || !tcp->dst_port || !is_legal_source(ip->src) || ipv4_sum(ip) != 0xFFFF)
		return PASS;
	now = ktime_get_coarse_ns();
	if (!find_answerer(&by, &syn, now) || is_service(ip->src, by.worker))
		return PASS;
	offer = *by.offer;
	state = take_syn(skb, &syn, tcp_length, &asked);
	if (state == BROKEN)
		return PASS;
	/* From here on the verifier looks at one SYN that asks for anything, and not at each that asks for something else. */
	asked.mss ^= by.how->nothing;
	asked.scale ^= by.how->nothing;
	asked.bits ^= by.how->nothing;
	state ^= by.how->nothing;
	length = 20 + turn(&syn, &asked, &offer, cookie_of(&syn, by.how, offer.scale_code, now + by.how->ahead), state);
	asm volatile("" : "+r"(length));
	if (length < 40 || length > 80 || skb_change_tail(skb, LINK + length, 0))
		return PASS;
	if (skb_store_bytes(skb, LINK, &syn, length, 0))
		return DROP;
	__sync_fetch_and_add(&by.counted->syns, 1);
	return redirect(skb->ifindex, F_INGRESS);
}

/* ACKs. */

enum { TERMS_END = 1 << 9 };

/* Whether `isn` was baked for what `syn` is the SYN of, in this minute or the one before, with what is offered now. */
INLINE int is_cookie(const struct syn *syn, const struct answering *how, u32 scale_code, u32 isn, u64 now)
{
	return ((u32)(cookie_of(syn, how, scale_code, now) >> 32) ^ isn) < TERMS_END ||
	       ((u32)(cookie_of(syn, how, scale_code, now - COUNTER_NS) >> 32) ^ isn) < TERMS_END;
}

/* Keep a flood of guesses from the daemon; any other packet over IPv4 is left alone. */
FUNCTION int doubt(struct __sk_buff *skb)
{
	struct syn syn = {};
	const struct ipv4 *ip = &syn.ip;
	struct tcp *tcp = &syn.tcp;
	struct answerer by;
	u32 scale_code;
	u64 now;

	if (skb_load_bytes(skb, LINK, &syn, sizeof(syn.ip) + sizeof(syn.tcp)))
		return PASS;
	if (!is_plain(tcp) || ip->version_ihl != 0x45 || ip->protocol != TCP || ip->fragment & net16(FRAGMENTED) ||
	    !tcp->src_port || !tcp->dst_port)
		return PASS;
	now = ktime_get_coarse_ns();
	if (!find_answerer(&by, &syn, now))
		return PASS;
	scale_code = by.offer->scale_code;
	tcp->seq = net32(net32(tcp->seq) - 1);
	if (is_cookie(&syn, by.how, scale_code, net32(tcp->ack) - 1, now + by.how->ahead))
		return PASS;
	if (__sync_fetch_and_add(&by.counted->spare, -1) > 0)
		return PASS;
	__sync_fetch_and_add(&by.counted->guesses, 1);
	return DROP;
}
