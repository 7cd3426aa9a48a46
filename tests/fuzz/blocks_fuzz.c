/* Hostile ring blocks against the native loop, under AddressSanitizer. Usage: blocks_fuzz SEED BLOCKS
 *
 * Block and slot are allocations of exactly their size, so a read or write one byte outside ends the program. Each block
 * starts valid (a chain of packets as the kernel lays them) and is then damaged: lengths, offsets, chains that point
 * outside, backwards or to themselves, counts, status bits, frame bytes. The second oracle: what was copied is a row of
 * enhanced packet blocks that add up exactly, and a verdict other than COPIED changed nothing.
 */
#include "blocks.h"

#include <linux/if_packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint32_t pick(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16) % below;
}

static uint32_t nasty(uint32_t near)
{
    switch (pick(8)) {
    case 0: return 0;
    case 1: return 0xffffffffu - pick(64);
    case 2: return 0x7fffffffu + pick(3);
    case 3: return near + pick(64);
    case 4: return near - pick(64);
    case 5: return pick(256);
    case 6: return pick(near + 1);
    default: return pick(0xffffffffu);
    }
}

/* Ethernet and beyond, mostly well-formed, so that the checksum's parser gets far before it is lied to. */
static void put_frame(uint8_t *frame, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        frame[i] = (uint8_t)pick(256);
    uint32_t at = 12;
    while (at + 6 <= bytes && pick(3) == 0) {
        frame[at] = 0x81, frame[at + 1] = 0;
        at += 4;
    }
    if (at + 2 > bytes)
        return;
    int six = (int)pick(2);
    frame[at] = six ? 0x86 : 0x08, frame[at + 1] = six ? 0xdd : 0;
    uint8_t *ip = frame + at + 2;
    uint32_t left = bytes - at - 2;
    if (left < 48)
        return;
    static const uint8_t protocols[] = {6, 17, 0, 43, 44, 51, 60, 1};
    uint32_t total = pick(4) ? left : pick(70000);
    if (six) {
        ip[0] = 0x60;
        ip[4] = (uint8_t)((total - 40) >> 8), ip[5] = (uint8_t)(total - 40);
        ip[6] = protocols[pick(8)];
        for (uint32_t i = 40; i + 8 < left; i += 8 + 8 * pick(3)) {
            ip[i] = protocols[pick(8)];
            ip[i + 1] = (uint8_t)(pick(4) ? pick(4) : pick(256));
        }
    } else {
        ip[0] = (uint8_t)(0x40 | (pick(4) ? 5 : pick(16)));
        ip[2] = (uint8_t)(total >> 8), ip[3] = (uint8_t)total;
        ip[6] = ip[7] = 0;
        ip[9] = protocols[pick(3)];
    }
}

static uint32_t put_block(uint8_t *block, uint32_t block_bytes)
{
    struct tpacket_block_desc *desc = (void *)block;
    uint32_t at = 48, packets = 0, last = 0;
    memset(block, 0, block_bytes);
    desc->hdr.bh1.block_status = TP_STATUS_USER;
    desc->hdr.bh1.offset_to_first_pkt = at;
    while (packets < 40) {
        uint32_t frame = pick(6) ? pick(120) : pick(2000), stride = (82 + frame + 7) & ~7u;
        if (at + stride > block_bytes)
            break;
        struct tpacket3_hdr *packet = (void *)(block + at);
        packet->tp_next_offset = stride;
        packet->tp_sec = pick(0xffffffffu), packet->tp_nsec = pick(1000000000);
        packet->tp_snaplen = frame, packet->tp_len = pick(5) ? frame : frame + pick(100000);
        packet->tp_mac = 82, packet->tp_net = 96;
        packet->tp_status = TP_STATUS_USER | (pick(2) ? TP_STATUS_CSUMNOTREADY : 0) | (pick(3) ? 0 : TP_STATUS_VLAN_VALID)
                            | (pick(2) ? TP_STATUS_VLAN_TPID_VALID : 0);
        put_frame(block + at + 82, frame);
        last = at, at += stride, packets++;
    }
    if (packets)
        ((struct tpacket3_hdr *)(void *)(block + last))->tp_next_offset = pick(2) ? 0 : 8;
    desc->hdr.bh1.num_pkts = packets;
    desc->hdr.bh1.blk_len = at;
    return packets;
}

static void damage(uint8_t *block, uint32_t block_bytes, uint32_t packets)
{
    struct tpacket_hdr_v1 *head = &((struct tpacket_block_desc *)(void *)block)->hdr.bh1;
    for (uint32_t blows = pick(4); blows > 0; blows--) {
        uint32_t at = 48;
        for (uint32_t hop = pick(packets + 1); hop > 0 && at + 48 <= block_bytes; hop--)
            at += ((struct tpacket3_hdr *)(void *)(block + (at & ~7u)))->tp_next_offset % block_bytes;
        at &= ~7u;
        struct tpacket3_hdr *packet = at + 48 <= block_bytes ? (void *)(block + at) : (void *)(block + 48);
        switch (pick(10)) {
        case 0: head->num_pkts = nasty(packets); break;
        case 1: head->offset_to_first_pkt = nasty(48); break;
        case 2: head->blk_len = nasty(block_bytes); break;
        case 3: packet->tp_next_offset = nasty(block_bytes); break;
        case 4: packet->tp_snaplen = nasty(block_bytes); break;
        case 5: packet->tp_mac = (uint16_t)nasty(82); break;
        case 6: packet->tp_next_offset = 0u - pick(4096); break;
        case 7: packet->tp_len = nasty(1500); break;
        case 8: packet->tp_status = nasty(0x40); break;
        default: block[pick(block_bytes)] ^= (uint8_t)(1u << pick(8)); break;
        }
    }
}

static void fail(const char *what, unsigned long number)
{
    fprintf(stderr, "block %lu: %s\n", number, what);
    abort();
}

static uint32_t get32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The second oracle; returns nothing, ends the program when it is not so. */
static void check(const struct section *before, const struct section *after, const struct recipe *recipe,
                  unsigned long number)
{
    uint64_t packets = before->packets;
    size_t at = before->used;
    while (at < after->used) {
        uint32_t length = get32(after->out + at + 4), captured = get32(after->out + at + 20);
        if (get32(after->out + at) != 6 || length % 4 || length > after->used - at
            || get32(after->out + at + length - 4) != length || captured > recipe->snaplen
            || length != 32 + ((captured + 3) & ~3u))
            fail("not an enhanced packet block", number);
        for (uint32_t pad = captured; pad % 4; pad++)
            if (after->out[at + 28 + pad])
                fail("padding is not zero", number);
        at += length;
        packets++;
    }
    if (at != after->used || packets != after->packets || after->used > after->room)
        fail("the section does not add up", number);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
    unsigned long blocks = strtoul(argv[2], NULL, 10), seen[3] = {0, 0, 0};
    for (unsigned long number = 0; number < blocks; number++) {
        uint32_t block_bytes = (96 + pick(4096)) & ~7u, room = pick(2 * block_bytes);
        uint8_t *block = aligned_alloc(8, block_bytes), *out = malloc(room ? room : 1);
        struct recipe recipe = {pick(3) ? 262144 : pick(300), (int)pick(4) != 0, (int)pick(2)};
        struct section before = {out, room ? pick(room / 4 + 1) & ~3u : 0, room, 0, 0, 0}, after;
        damage(block, block_bytes, put_block(block, block_bytes));
        after = before;
        enum verdict verdict = block_copy(block, block_bytes, &recipe, &after);
        seen[verdict]++;
        if (verdict == COPIED)
            check(&before, &after, &recipe, number);
        else if (memcmp(&before, &after, sizeof before) != 0)
            fail("a block that was not copied changed the section", number);
        free(block);
        free(out);
    }
    printf("copied %lu full %lu damaged %lu\n", seen[COPIED], seen[FULL], seen[DAMAGED]);
    return 0;
}
