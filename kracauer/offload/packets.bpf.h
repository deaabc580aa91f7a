/* SPDX-License-Identifier: MIT */
/*
 * Numbers, and headers as they lie in packets (RFC 791 §3.1, RFC 8200 §3). Part of every program.
 */

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define net16(x) ((u16)__builtin_bswap16(x))
#define net32(x) ((u32)__builtin_bswap32(x))
#else
#define net16(x) ((u16)(x))
#define net32(x) ((u32)(x))
#endif

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

enum { TCP = 6 };
enum { FRAGMENTED = 0x3FFF }; /* MF, or an offset */

struct ipv4 {
	u8 version_ihl, tos;
	u16 total_length, identification, fragment;
	u8 ttl, protocol;
	u16 checksum;
	u32 src, dst;
};

struct ipv6 {
	u32 version_class_label;
	u16 payload_length;
	u8 next_header, hop_limit;
	u32 src[4], dst[4];
};
