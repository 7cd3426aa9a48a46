/* TPACKET_V3 blocks into pcapng: bytes in, bytes out. No Python, no system call, no allocation.
 *
 * Invariant: nothing outside [block, block + block_bytes) is read and nothing outside [out, out + room) is written,
 * whatever the block says; and each packet of a block costs a bounded number of steps, because a packet may only be
 * followed by one that begins behind its end. A block is copied whole or not at all.
 *
 * Layouts: linux/if_packet.h (tpacket_block_desc, tpacket3_hdr), filled by net/packet/af_packet.c (prb_open_block,
 * tpacket_rcv). The kernel is trusted no more than a peer: the mapping is writable, and a worker could have been
 * taken over.
 */
#ifndef OSSENSOR_BLOCKS_H
#define OSSENSOR_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

/* What every packet is treated with. */
struct recipe {
    uint32_t snaplen;        /* bytes kept of each packet, an inserted tag included */
    int ethernet;            /* frames begin with an Ethernet header; otherwise with IP */
    int complete_checksums;  /* finish what the kernel left to the network card */
};

/* What is in the slot; copying adds to it. */
struct section {
    uint8_t *out;
    size_t used, room;
    uint64_t packets;
    uint64_t first_ns, last_ns; /* lowest and highest of the packets added; nothing when there are none */
};

enum verdict { COPIED, FULL, DAMAGED };

/* True when the kernel has handed the block over. Everything in it may be read after that. */
int block_ready(const uint8_t *block);

/* The kernel's number of the block: 1 for the first of a ring, and one more for each that it opens. */
uint64_t block_sequence(const uint8_t *block);

/* Packets in the block, also in the one that the kernel is filling (af_packet.c, prb_fill_curr_block). */
uint32_t block_packets(const uint8_t *block);

/* Gives the block back to the kernel. */
void block_release(uint8_t *block);

/* Appends the block's packets as enhanced packet blocks: all of them, or, when FULL or DAMAGED, none. */
enum verdict block_copy(const uint8_t *block, size_t block_bytes, const struct recipe *recipe, struct section *section);

/* Finishes the TCP or UDP checksum of a whole frame in place, if it holds the pseudo-header's sum and nothing more. */
void checksum_complete(uint8_t *frame, size_t bytes, int ethernet);

#endif
