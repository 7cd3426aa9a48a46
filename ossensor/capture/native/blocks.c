/* endian.h's htole32, which c11 alone hides. */
#define _DEFAULT_SOURCE
#include "blocks.h"

#include <endian.h>
#include <linux/if_packet.h>
#include <string.h>

#define VLAN_BYTES 4u
#define ETHERNET_ADDRESSES 12u
#define ETHERTYPE_VLAN 0x8100u

/* pcapng, enhanced packet block (draft-ietf-opsawg-pcapng section 4.3); pcapng.py writes the same. */
#define EPB_TYPE 6u
#define EPB_HEAD 28u
#define EPB_OVERHEAD 32u

/* A packet takes at least this much more room in the ring than in the slot: its header ends at tp_mac, 78 or more
 * (TPACKET3_HDRLEN is 68, rounded up past a link header); an EPB adds 32, padding 3 and a tag 4. */
#define SHRINKS_BY 32u

/* How far ahead of the packet in hand the block is fetched, and the slot's lines are made ours. Another core wrote the one
 * and read the other, so each line is a miss of some hundred cycles, and a packet's work is too short to hide one: at 64
 * bytes a packet takes 18 ns with both and 38 ns without, at 1400 bytes 200 ns and 290 ns (Sapphire Rapids). */
#define READ_AHEAD 4096u
#define WRITE_AHEAD 1024u
/* Of a long packet its first half page, which is what the processor's own prefetching needs to follow. */
#define AT_ONCE 2048u
#define LINE 64u

typedef struct tpacket_block_desc descriptor;
typedef struct tpacket3_hdr header;

static const struct tpacket_hdr_v1 *head_of(const uint8_t *block)
{
    return &((const descriptor *)(const void *)block)->hdr.bh1;
}

int block_ready(const uint8_t *block)
{
    /* Pairs with the kernel's smp_wmb() before it sets the status: what is in the block is visible after this. */
    return (__atomic_load_n(&head_of(block)->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) != 0;
}

uint64_t block_sequence(const uint8_t *block)
{
    return head_of(block)->seq_num;
}

uint32_t block_packets(const uint8_t *block)
{
    return __atomic_load_n(&head_of(block)->num_pkts, __ATOMIC_RELAXED);
}

void block_release(uint8_t *block)
{
    /* Release: the slot's commit word, stored before, is visible before the kernel writes here again. */
    __atomic_store_n(&((descriptor *)(void *)block)->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

static void put32(uint8_t *at, uint32_t value)
{
    /* Little-endian on every machine: readers take the order from the section's magic, which pcapng.py writes so. As
     * one store: from four of a byte each, GCC 12 makes a vector on the stack, and loading that waits for them. */
    value = htole32(value);
    memcpy(at, &value, sizeof value);
}

/* The tag that the kernel took out of the frame (skb_vlan_untag), as the two 16-bit words that stood there. */
static uint32_t stripped_tag(const header *packet, uint8_t tag[VLAN_BYTES])
{
    if (!(packet->tp_status & TP_STATUS_VLAN_VALID))
        return 0;
    uint32_t tpid = packet->tp_status & TP_STATUS_VLAN_TPID_VALID ? packet->hv1.tp_vlan_tpid : ETHERTYPE_VLAN;
    uint32_t tci = packet->hv1.tp_vlan_tci;
    tag[0] = (uint8_t)(tpid >> 8);
    tag[1] = (uint8_t)tpid;
    tag[2] = (uint8_t)(tci >> 8);
    tag[3] = (uint8_t)tci;
    return VLAN_BYTES;
}

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

/* Only hints, but all of them inside the memory that they are about. */
static void fetch_ahead(const uint8_t *block, size_t block_bytes, uint64_t at, uint32_t bytes)
{
    uint64_t end = at_most(at + READ_AHEAD + at_most(bytes, AT_ONCE), block_bytes);
    for (uint64_t from = at + READ_AHEAD; from < end; from += LINE)
        __builtin_prefetch(block + from);
}

static void own_ahead(const struct section *section, uint64_t bytes)
{
    uint64_t end = at_most(section->used + WRITE_AHEAD + at_most(bytes, AT_ONCE), section->room);
    for (uint64_t from = section->used + WRITE_AHEAD; from < end; from += LINE)
        __builtin_prefetch(section->out + from, 1);
}

/* Writes one packet's EPB; false when there is no room. */
static int put_packet(const header *packet, const uint8_t *frame, const struct recipe *recipe, struct section *section)
{
    uint8_t tag[VLAN_BYTES];
    uint32_t kept = packet->tp_snaplen, inserted = 0;
    if (recipe->ethernet && kept >= ETHERNET_ADDRESSES)
        inserted = stripped_tag(packet, tag);
    /* 64 bits: a length near 2^32 must not wrap to a small one. */
    uint64_t captured = (uint64_t)kept + inserted;
    if (captured > recipe->snaplen)
        captured = recipe->snaplen;
    if (inserted && captured < ETHERNET_ADDRESSES + VLAN_BYTES)
        captured = captured < kept ? captured : kept; /* cut before the tag's end: it is left out */
    uint64_t length = EPB_OVERHEAD + ((captured + 3) & ~(uint64_t)3);
    if (length > section->room - section->used)
        return 0;

    uint64_t ns = (uint64_t)packet->tp_sec * 1000000000u + packet->tp_nsec;
    uint32_t original = packet->tp_len + inserted;
    uint8_t *at = section->out + section->used;
    own_ahead(section, length);
    put32(at, EPB_TYPE);
    put32(at + 4, (uint32_t)length);
    put32(at + 8, 0);
    put32(at + 12, (uint32_t)(ns >> 32));
    put32(at + 16, (uint32_t)ns);
    put32(at + 20, (uint32_t)captured);
    put32(at + 24, original);
    /* The padding first, in one store that the packet's tail then covers in part: always inside this EPB. */
    put32(at + length - 8, 0);
    put32(at + length - 4, (uint32_t)length);
    uint8_t *data = at + EPB_HEAD;
    if (inserted && captured >= ETHERNET_ADDRESSES + VLAN_BYTES) {
        memcpy(data, frame, ETHERNET_ADDRESSES);
        memcpy(data + ETHERNET_ADDRESSES, tag, VLAN_BYTES);
        memcpy(data + ETHERNET_ADDRESSES + VLAN_BYTES, frame + ETHERNET_ADDRESSES,
               captured - ETHERNET_ADDRESSES - VLAN_BYTES);
    } else {
        memcpy(data, frame, captured);
    }
    if (recipe->complete_checksums && (packet->tp_status & TP_STATUS_CSUMNOTREADY) && captured == original)
        checksum_complete(data, captured, recipe->ethernet);

    /* The kernel stamps a packet before it takes its place in the ring, and clocks are set: order is not time. */
    if (section->packets == 0 || ns < section->first_ns)
        section->first_ns = ns;
    if (section->packets == 0 || ns > section->last_ns)
        section->last_ns = ns;
    section->packets++;
    section->used += length;
    return 1;
}

enum verdict block_copy(const uint8_t *block, size_t block_bytes, const struct recipe *recipe, struct section *section)
{
    /* Read once: what is checked is what is used, even if somebody writes to the ring meanwhile. */
    struct tpacket_hdr_v1 head;
    memcpy(&head, head_of(block), sizeof head);
    uint64_t at = head.offset_to_first_pkt;
    if (head.blk_len > block_bytes)
        return DAMAGED;
    /* A guess that is never too low for what the kernel writes spares copying half a block for nothing. */
    uint64_t shrinks_by = (uint64_t)head.num_pkts * SHRINKS_BY;
    if (head.blk_len > shrinks_by && head.blk_len - shrinks_by > section->room - section->used)
        return FULL;

    struct section grown = *section;
    for (uint32_t left = head.num_pkts; left > 0; left--) {
        header packet;
        if (at > block_bytes || block_bytes - at < sizeof packet)
            return DAMAGED;
        memcpy(&packet, block + at, sizeof packet);
        fetch_ahead(block, block_bytes, at, packet.tp_next_offset);
        uint64_t end = (uint64_t)packet.tp_mac + packet.tp_snaplen; /* from the packet's header on */
        if (packet.tp_mac < sizeof packet || end > block_bytes - at)
            return DAMAGED;
        /* Strictly forward and past the frame: no circles, no overlaps, at most block_bytes / 48 steps. */
        if (left > 1 && packet.tp_next_offset < end)
            return DAMAGED;
        if (!put_packet(&packet, block + at + packet.tp_mac, recipe, &grown))
            return FULL;
        at += packet.tp_next_offset;
    }
    *section = grown;
    return COPIED;
}
