/* Finishing what CHECKSUM_PARTIAL left to the network card (linux/skbuff.h, "Checksumming on output").
 *
 * The kernel has put the folded sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) into the
 * checksum field; the card would add the segment's sum. TP_STATUS_CSUMNOTREADY says that this is so, but not where:
 * only PACKET_VNET_HDR would, and with that the kernel *drops* frames whose GSO type virtio cannot name (tunnels,
 * af_packet.c: virtio_net_hdr_from_skb). So the place is found by parsing, and believed only when the field holds
 * exactly the pseudo-header's sum: the outer header of a tunnel whose inner one is partial is left as it is.
 */
#include "blocks.h"

#include <string.h>

#define ETHERNET_BYTES 14u
#define MOST_TAGS 4
#define MOST_EXTENSIONS 16

enum { HOP_BY_HOP = 0, TCP = 6, UDP = 17, ROUTING = 43, FRAGMENT = 44, AUTHENTICATION = 51, DESTINATION = 60 };

/* Where the segment lies, and the sum that its field must hold. */
struct segment {
    size_t at, bytes;
    unsigned protocol;
    uint64_t pseudo;
};

static uint32_t get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

/* The ones' complement sum of 16-bit words in the machine's own order: RFC 1071 section 2(B), it is the same sum. */
static uint64_t sum_words(const uint8_t *at, size_t bytes)
{
    uint64_t sum = 0;
    for (; bytes >= 8; at += 8, bytes -= 8) {
        uint32_t words[2];
        memcpy(words, at, 8);
        sum += (uint64_t)words[0] + words[1];
    }
    uint8_t rest[8] = {0};
    uint32_t words[2];
    memcpy(rest, at, bytes);
    memcpy(words, rest, 8);
    return sum + words[0] + words[1];
}

static uint16_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* A number of the pseudo-header as it would lie in memory. */
static uint64_t as_words(uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
    return sum_words(bytes, 4);
}

static int find_ipv4(const uint8_t *ip, size_t bytes, struct segment *segment)
{
    if (bytes < 20)
        return 0;
    size_t header = (size_t)(ip[0] & 0xf) * 4, total = get16(ip + 2);
    if (header < 20 || (get16(ip + 6) & 0x3fff) != 0) /* a fragment is never partial */
        return 0;
    if (total == 0)
        total = bytes; /* BIG TCP: longer than the field can say */
    if (total > bytes || total < header)
        return 0;
    segment->at = header;
    segment->bytes = total - header;
    segment->protocol = ip[9];
    segment->pseudo = sum_words(ip + 12, 8);
    return 1;
}

static int find_ipv6(const uint8_t *ip, size_t bytes, struct segment *segment)
{
    if (bytes < 40)
        return 0;
    size_t at = 40, total = 40 + get16(ip + 4);
    unsigned next = ip[6];
    if (total == 40)
        total = bytes; /* a jumbogram, or BIG TCP */
    if (total > bytes)
        return 0;
    for (int seen = 0; seen < MOST_EXTENSIONS; seen++) {
        if (next == TCP || next == UDP) {
            segment->at = at;
            segment->bytes = total - at;
            segment->protocol = next;
            segment->pseudo = sum_words(ip + 8, 32);
            return 1;
        }
        if (total - at < 8)
            return 0;
        size_t length = ((size_t)ip[at + 1] + 1) * 8;
        if (next == AUTHENTICATION)
            length = ((size_t)ip[at + 1] + 2) * 4;
        else if (next == FRAGMENT && (get16(ip + at + 2) & 0xfff9) == 0)
            length = 8; /* an atomic fragment (RFC 6946): the packet is whole */
        else if (next != HOP_BY_HOP && next != ROUTING && next != DESTINATION)
            return 0;
        if (length > total - at)
            return 0;
        next = ip[at];
        at += length;
    }
    return 0;
}

/* Where IP begins, or bytes when it does not. */
static size_t network_offset(const uint8_t *frame, size_t bytes, int ethernet)
{
    if (!ethernet)
        return 0;
    size_t at = ETHERNET_BYTES;
    for (int tags = 0; tags <= MOST_TAGS && at <= bytes; tags++) {
        uint32_t type = get16(frame + at - 2);
        if (type == 0x0800 || type == 0x86dd)
            return at;
        if (type != 0x8100 && type != 0x88a8 && type != 0x9100)
            break;
        at += 4;
    }
    return bytes;
}

void checksum_complete(uint8_t *frame, size_t bytes, int ethernet)
{
    size_t ip_at = network_offset(frame, bytes, ethernet);
    if (ip_at >= bytes)
        return;
    uint8_t *ip = frame + ip_at;
    struct segment segment;
    unsigned version = ip[0] >> 4;
    if (version == 4 ? !find_ipv4(ip, bytes - ip_at, &segment)
                     : version != 6 || !find_ipv6(ip, bytes - ip_at, &segment))
        return;
    size_t field_at = segment.protocol == TCP ? 16 : 6, least = segment.protocol == TCP ? 20 : 8;
    if ((segment.protocol != TCP && segment.protocol != UDP) || segment.bytes < least)
        return;
    uint8_t *field = ip + segment.at + field_at;
    uint16_t held;
    memcpy(&held, field, 2);
    uint64_t pseudo = segment.pseudo + as_words(segment.protocol) + as_words((uint32_t)segment.bytes);
    /* 0 and 0xffff are the same number in ones' complement. */
    if (held % 0xffff != fold(pseudo) % 0xffff)
        return;
    uint16_t sum = (uint16_t)~fold(sum_words(ip + segment.at, segment.bytes));
    if (sum == 0)
        sum = 0xffff; /* 0 means "none" in UDP; the kernel writes 0xffff for both (skb_checksum_help) */
    memcpy(field, &sum, 2);
}
