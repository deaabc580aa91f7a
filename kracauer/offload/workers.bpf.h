/* SPDX-License-Identifier: MIT */
/*
 * Which of several workers has the packets of a client from a port: `worker_of` of kracauer/steering/flows.py. Part of those
 * programs that have to know.
 */

/* How many workers there are. The loader puts it in. */
extern const u8 workers[];
#define WORKERS ((u32)(u64)workers)

/* `client` as it lies in the packet, and the number of the port. */
INLINE u32 choose(u32 client, u32 port)
{
	u32 number = (net32(client) + port * 0x9E3779B1) * 0x85EBCA6B;

	number = (number ^ number >> 15) * 0xC2B2AE35;
	return (u64)number * WORKERS >> 32;
}
