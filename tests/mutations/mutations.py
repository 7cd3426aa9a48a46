"""Faults injected by hand where a silent one would cost most: the tests named here must notice every one.

Each is a change that a tired person could make and that compiles: an order of stores turned round, a bound off by one,
a part of a sum left out, a check that is not made. What changes no result (a hint to the processor, a comparison in
constant time) is not here, because no test could tell; what only reads outside its memory is for tests/fuzz to find.
`run.py` injects them, `test_mutations.py` keeps the table true.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# The fast tests that must notice, by what the fault is in.
TESTS: Final = {
    "slots": (
        "tests/unit/test_slots.py",
        "tests/unit/test_region.py",
        "tests/unit/test_batcher.py",
        "tests/model/test_slots_model.py",
    ),
    "signing": ("tests/unit/test_signing.py", "tests/unit/test_signing_vectors.py"),
    "accounting": ("tests/unit/test_accounting.py",),
    "resets": ("tests/unit/test_antigena_resets.py",),
    "native": ("tests/unit/test_native.py", "tests/unit/test_ring_engine.py"),
}


class Mutation(NamedTuple):
    """One fault: `old` occurs exactly once in the file, and is replaced by `new`."""

    subject: str  # a key of TESTS
    fault: str
    file: str
    old: str
    new: str


def _slots(fault: str, old: str, new: str) -> Mutation:
    return Mutation("slots", fault, "ossensor/slots.py", old, new)


def _region(fault: str, old: str, new: str) -> Mutation:
    return Mutation("slots", fault, "ossensor/region.py", old, new)


def _signing(fault: str, old: str, new: str) -> Mutation:
    return Mutation("signing", fault, "ossensor/transport/signing.py", old, new)


def _accounting(fault: str, old: str, new: str) -> Mutation:
    return Mutation("accounting", fault, "ossensor/accounting.py", old, new)


def _resets(fault: str, old: str, new: str) -> Mutation:
    return Mutation("resets", fault, "ossensor/antigena/resets.py", old, new)


def _native(name: str, fault: str, old: str, new: str) -> Mutation:
    return Mutation("native", fault, f"ossensor/capture/native/{name}.c", old, new)


MUTATIONS: Final = (
    # -- who may touch a slot, and in which order --------------------------------------------------------------------
    _slots(
        "an epoch is not marked as finished",
        "        if closing.final:\n",
        "        if False:\n",
    ),
    _slots(
        "an epoch is marked as finished by any of its batches",
        "        if closing.final:\n",
        "        if True:\n",
    ),
    _slots(
        "a batch that was being published as the last is not the last",
        "                    final=region.header(slot, Header.FINAL) == 1,\n                )\n        return None\n",
        "                    final=False,\n                )\n        return None\n",
    ),
    _region(
        "the next epoch is ending from its start",
        "        self.set_ending(on=False)\n",
        "",
    ),
    _region(
        "a reading that was lost is forgotten at the next one",
        """\
    def end_reading(self) -> None:
        if not self.reading_lost:
""",
        """\
    def end_reading(self) -> None:
        if True:
""",
    ),
    _slots(
        "the next sequence is stored before the slot is marked FILLING",
        """\
        region.set_header(slot, Header.STATE, State.FILLING)
        # Killed here: orphan() finds the sequence in the slot.
        region.set_control(Control.SEQUENCE, sequence + 1)
""",
        """\
        region.set_control(Control.SEQUENCE, sequence + 1)
        region.set_header(slot, Header.STATE, State.FILLING)
""",
    ),
    _slots(
        "the total is stored before the slot's own word",
        """\
        region.set_header(slot, Header.COMMIT, commit.pack())
        # Killed here: Region.committed() and Region.consumed() take the slot's word for it.
        region.set_control(Control.COMMITTED, region.header(slot, Header.BASE) + commit.packets)
""",
        """\
        region.set_control(Control.COMMITTED, region.header(slot, Header.BASE) + commit.packets)
        region.set_header(slot, Header.COMMIT, commit.pack())
""",
    ),
    _slots(
        "a batch is READY before its length is there",
        "        region.set_header(slot, Header.LENGTH, closing.length)\n",
        "        region.set_header(slot, Header.STATE, State.READY)\n"
        "        region.set_header(slot, Header.LENGTH, closing.length)\n",
    ),
    _slots(
        "SETTLING is said before the redo log holds the value",
        """\
        region.set_header(batch.slot, Header.SETTLE_VALUE, region.control(word) + batch.packets)
        region.set_header(batch.slot, Header.STATE, State.SETTLING)
""",
        """\
        region.set_header(batch.slot, Header.STATE, State.SETTLING)
        region.set_header(batch.slot, Header.SETTLE_VALUE, region.control(word) + batch.packets)
""",
    ),
    _slots(
        "the redo log adds instead of storing",
        "region.set_control(word, region.header(slot, Header.SETTLE_VALUE))",
        "region.set_control(word, region.control(word) + region.commit_of(slot).packets)",
    ),
    _slots(
        "a successor of the uploader leaves a SETTLING slot as it is",
        "if region.state(slot) == State.SETTLING:",
        "if region.state(slot) == State.FILLING:",
    ),
    _slots(
        "a successor of the uploader does not ring for what its predecessor freed",
        "        # The predecessor may have freed slots without ringing.\n        _ring(self._free_write, _ANY_SLOT)\n",
        "",
    ),
    _slots(
        "a settled slot is not rung for",
        "        # Killed here: the doorbell is missing; the successor's first act is to ring for all.\n"
        "        _ring(self._free_write, slot)\n",
        "",
    ),
    _slots(
        "a scan looks once",
        """\
        newest: dict[str, int] = {}
        for batch in self._ready(range(self.region.count)):
            newest[batch.epoch] = max(batch.sequence, newest.get(batch.epoch, -1))
        complete = [b.slot for b in self._ready(range(self.region.count)) if b.sequence <= newest.get(b.epoch, -1)]
        return self._take(complete)
""",
        "        return self._take([b.slot for b in self._ready(range(self.region.count))])\n",
    ),
    _slots(
        "a scan's second look is not bounded by its first",
        " if b.sequence <= newest.get(b.epoch, -1)]",
        "]",
    ),
    _slots(
        "a slot is offered twice",
        "slot < self.region.count and slot not in self._known_free and self.region.state",
        "slot < self.region.count and self.region.state",
    ),
    _slots(
        "a batch that is in hand is given out again",
        "if slot < region.count and slot not in self._held and",
        "if slot < region.count and",
    ),
    _slots(
        "a doorbell may name a slot that is not there",
        "if slot < region.count and slot not in self._held and",
        "if slot not in self._held and",
    ),
    _slots(
        "an abandoned slot keeps its sequence",
        "        self.region.set_control(Control.SEQUENCE, self.region.header(slot, Header.SEQUENCE))\n",
        "",
    ),
    _slots(
        "a successor of the worker does not mend the packets' total",
        "                region.set_control(Control.COMMITTED, region.committed())\n",
        "",
    ),
    _slots(
        "a successor of the worker does not mend the blocks' total",
        "                region.set_control(Control.BLOCKS, region.consumed())\n",
        "",
    ),
    _slots(
        "the packets before a batch are counted over all epochs",
        "first_packet = committed - region.control(Control.EPOCH_START)",
        "first_packet = committed",
    ),
    _slots("an empty section is believed", "not 0 < batch.length <=", "not 0 <= batch.length <="),
    _slots(
        "a section one byte longer than its slot is believed",
        "<= self.region.slot_bytes or",
        "<= 1 + self.region.slot_bytes or",
    ),
    _slots("a sequence beyond the protocol's is believed", "max(numbers) >= 2**63", "max(numbers) > 2**63"),
    _slots(
        "any number of packets is believed",
        "packets=min(region.commit_of(slot).packets, region.slot_bytes // _SMALLEST_PACKET_BYTES)",
        "packets=region.commit_of(slot).packets",
    ),
    _slots("batches come in the order of their slots", "key=lambda b: (b.epoch, b.sequence)", "key=lambda b: b.slot"),
    _slots(
        "a queue with a batch that waits is said to be idle",
        "return all(self.region.state(slot) == State.FREE for slot in range(self.region.count))",
        "return not self._held",
    ),
    _region(
        "a batch that is being settled is nobody's",
        "state in {State.FILLING, State.READY} or (state == State.SETTLING and not self._counted(slot))",
        "state in {State.FILLING, State.READY}",
    ),
    _region(
        "a batch whose settling was counted is in flight, too",
        "(state == State.SETTLING and not self._counted(slot))",
        "state == State.SETTLING",
    ),
    _region(
        "packets that only the slot knows of are not committed",
        "return max(self.control(Control.COMMITTED), *filling, 0)",
        "return self.control(Control.COMMITTED)",
    ),
    _region(
        "blocks that only the slot knows of are not consumed",
        "return max(self.control(Control.BLOCKS), *filling, 0)",
        "return self.control(Control.BLOCKS)",
    ),
    _region(
        "the redo log of a worker may name any word",
        "return Control.DELIVERED <= word <= Control.SPOOLED",
        "return word <= Control.SPOOLED",
    ),
    _region("the commit word loses its highest block", "word >> 22 & 0xFFFF)", "word >> 22 & 0x7FFF)"),
    _region("a new epoch goes on with the blocks of the old", "        self.set_control(Control.BLOCKS, 0)\n", ""),
    _region("the memory may grow", "fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW", "fcntl.F_SEAL_SHRINK"),
    _region("the memory may shrink", "fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW", "fcntl.F_SEAL_GROW"),
    _region("a section may end within a word", "limit - limit % _WORD", "limit"),
    _region(
        "a control page that contradicts the memory's size is believed",
        "if self.size(self.count, self.slot_bytes) != len(self._bytes):",
        "if self.size(self.count, self.slot_bytes) < len(self._bytes):",
    ),
    # -- what a signature covers, and what is believed of it -----------------------------------------------------------
    _signing(
        "the content encoding is not signed",
        'n.startswith(FIELD_PREFIX) or n == "content-encoding"',
        "n.startswith(FIELD_PREFIX)",
    ),
    _signing(
        "our own fields are not signed",
        'n.startswith(FIELD_PREFIX) or n == "content-encoding"',
        'n == "content-encoding"',
    ),
    _signing("the query is not signed", '"@path", "@query", "content-digest"', '"@path", "content-digest"'),
    _signing("the method is not signed", '("@method", "@authority"', '("@authority"'),
    _signing("a reply is bound to no request", ", '\"@path\";req', '\"signature\";req')", ", '\"@path\";req')"),
    _signing("a reply's status is not signed", '("@status", "content-digest"', '("content-digest"'),
    _signing("the sender chooses what it covers", "for name in required if", "for name in () if"),
    _signing("a signed request has many spellings", "if not _is_spelled_as_made(request, result):", "if False:"),
    _signing("a signature may have an end", '"alg", "nonce", "tag"}', '"alg", "nonce", "tag", "expires"}'),
    _signing("base64 may be loose", "[AEIMQUYcgkosw048]=", "[A-Za-z0-9+/]="),
    _signing("any tag will do", "expect_tag=tag", "expect_tag=None"),
    _signing(
        "a reply's body is not held against its digest",
        "if not body_matches(result.covered_components['\"content-digest\"'], hashlib.sha256(body).digest()):",
        'if not body_matches(result.covered_components[\'"content-digest"\'], hashlib.sha256(b"").digest()) and body:',
    ),
    _signing(
        "a second digest beside ours is let through",
        "hmac.compare_digest(digest.encode(), digest_field(sha256).encode())",
        "digest.startswith(digest_field(sha256))",
    ),
    _signing("the window ends before its last second", "<= WINDOW_S", "< WINDOW_S"),
    _signing("a signature from the future is believed", "abs(now_s - created_s)", "(now_s - created_s)"),
    _signing(
        "a time that is no integer is believed",
        'type(sig_input.params.get("created")) is not int',
        "not sig_input.params",
    ),
    _signing("a number has two spellings", "(0|[1-9][0-9]{0,18})", "([0-9]{1,19})"),
    _signing("a nonce may have a tail", "_NONCE.fullmatch(text)", "_NONCE.match(text)"),
    _signing(
        "a request needs no nonce",
        '        raise RefusedError("the signature has no nonce")\n',
        '        result.nonce = "0" * 32 + "-0"\n',
    ),
    _signing("the secret is in the key's repr", "secret: bytes = field(repr=False)", "secret: bytes"),
    _signing("the key's name is not of this protocol", '"sha256")[:8].hex()', '"sha256")[:7].hex()'),
    _signing(
        "what the library cannot parse is raised",
        "HTTPMessageSignaturesException, ValueError, KeyError",
        "ValueError, KeyError",
    ),
    # -- the books ---------------------------------------------------------------------------------------------------
    _accounting(
        "drops of the kernel explain nothing",
        "explained = self.kernel_drops + self.delivered",
        "explained = self.delivered",
    ),
    _accounting(
        "what was delivered explains nothing", "self.kernel_drops + self.delivered + self", "self.kernel_drops + self"
    ),
    _accounting("what was spooled explains nothing", "self.delivered + self.spooled + sum", "self.delivered + sum"),
    _accounting(
        "what is in flight explains nothing",
        "sum(self.dropped.values()) + self.in_flight",
        "sum(self.dropped.values())",
    ),
    _accounting("reasons are counted, not their packets", "sum(self.dropped.values())", "len(self.dropped)"),
    _accounting("what was counted twice is no fault", "return self.missing == 0", "return self.missing <= 0"),
    _accounting("books are short of what they have too much", "self.received - explained", "explained - self.received"),
    _accounting(
        "the uploader's reasons change places",
        "(Reason.REJECTED, Reason.TOO_LARGE, Reason.CORRUPT)",
        "(Reason.TOO_LARGE, Reason.REJECTED, Reason.CORRUPT)",
    ),
    _accounting(
        "the supervisor has one reason less",
        "(Reason.WORKER_DIED, Reason.INTERFACE_GONE, Reason.SHUTDOWN)",
        "(Reason.WORKER_DIED, Reason.INTERFACE_GONE)",
    ),
    _accounting("the line leaves out what was spooled", "        if self.spooled:\n", "        if not self.spooled:\n"),
    _accounting(
        "the line names reasons that never were",
        "for reason, count in self.dropped.items() if count}",
        "for reason, count in self.dropped.items()}",
    ),
    # -- the packets that end a connection -----------------------------------------------------------------------------
    _resets(
        "a reset is answered", "    if segment.flags & RST:\n", "    if segment.flags & RST and segment.flags & ACK:\n"
    ),
    _resets("one end that is one host is enough", "return all(_one_host", "return any(_one_host"),
    _resets("this network is a host", "return 0 < first < 224", "return first < 224"),
    _resets("the first multicast network is a host", "return 0 < first < 224", "return 0 < first <= 224"),
    _resets(
        "multicast over IPv6 is a host", "return first != 0xFF and any(address.packed)", "return any(address.packed)"
    ),
    _resets(
        "the unspecified address is a host", "return first != 0xFF and any(address.packed)", "return first != 0xFF"
    ),
    _resets("one step less is taken ahead", "range(ahead.steps + 1)", "range(max(1, ahead.steps))"),
    _resets(
        "both ends get the steps of one",
        "segment.after + step * ahead.to_destination",
        "segment.after + step * ahead.to_source",
    ),
    _resets(
        "the sender's number does not wrap",
        "segment.acknowledgment + step * ahead.to_source & 0xFFFFFFFF",
        "segment.acknowledgment + step * ahead.to_source",
    ),
    _resets(
        "the receiver's number is that of the segment's first byte",
        "at_destination = segment.after + step",
        "at_destination = segment.sequence + step",
    ),
    _resets(
        "the receiver's reset has no ACK",
        "at_destination, segment.acknowledgment, RST | ACK)",
        "at_destination, segment.acknowledgment, RST)",
    ),
    _resets(
        "a SYN's answer acknowledges nothing",
        "to_source = packets.tcp(destination, source, 0, segment.after, RST | ACK)",
        "to_source = packets.tcp(destination, source, 0, segment.after, RST)",
    ),
    _resets("a question asks for what is not sent yet", "(n - 1 & 0xFFFFFFFF for n in", "(n & 0xFFFFFFFF for n in"),
    _resets(
        "a question resets",
        "to_source = packets.tcp(destination, source, before_source, segment.after, ACK)",
        "to_source = packets.tcp(destination, source, before_source, segment.after, RST | ACK)",
    ),
    _resets(
        "a datagram's receiver is told of its sender's port",
        "back = packets.udp(destination, source)",
        "back = packets.udp(source, destination)",
    ),
    _resets(
        "a datagram's sender is told by itself",
        "packets.port_unreachable(destination.address, source.address, segment.ip)",
        "packets.port_unreachable(source.address, destination.address, segment.ip)",
    ),
    # -- the native loop ---------------------------------------------------------------------------------------------
    _native(
        "blocks",
        "a packet may lie over the one before",
        "if (left > 1 && packet.tp_next_offset < end)",
        "if (left > 1 && packet.tp_next_offset < packet.tp_mac)",
    ),
    _native("blocks", "a packet may end behind its block", "end > block_bytes - at)", "end > block_bytes)"),
    _native(
        "blocks",
        "a packet may begin in its own header",
        "if (packet.tp_mac < sizeof packet ||",
        "if (packet.tp_mac < 1 ||",
    ),
    _native(
        "blocks",
        "a packet may lie in the next block",
        "if (at > block_bytes || block_bytes - at < sizeof packet)",
        "if (block_bytes - at < sizeof packet)",
    ),
    _native(
        "blocks",
        "a block may be longer than it is",
        "    if (head.blk_len > block_bytes)\n        return DAMAGED;\n",
        "",
    ),
    _native(
        "blocks",
        "a packet may end behind the room",
        "if (length > section->room - section->used)",
        "if (length > section->room)",
    ),
    _native(
        "blocks",
        "what is FULL is half there",
        "            return FULL;\n        at += packet.tp_next_offset;",
        "            { *section = grown; return FULL; }\n        at += packet.tp_next_offset;",
    ),
    _native(
        "blocks",
        "the guess takes a block that fits for one that does not",
        "head.blk_len - shrinks_by > section->room",
        "head.blk_len > section->room",
    ),
    _native(
        "blocks",
        "the first time is the last",
        "if (section->packets == 0 || ns < section->first_ns)",
        "if (section->packets == 0 || ns > section->first_ns)",
    ),
    _native(
        "blocks", "seconds are half as long", "(uint64_t)packet->tp_sec * 1000000000u", "packet->tp_sec * 1000000000u"
    ),
    _native("blocks", "the padding is what was there", "    put32(at + length - 8, 0);\n", ""),
    _native("blocks", "a tag does not count for the length on the wire", "packet->tp_len + inserted", "packet->tp_len"),
    _native(
        "blocks",
        "a tag lies beyond the snap length",
        "if (captured > recipe->snaplen)\n        captured = recipe->snaplen;",
        "if (kept > recipe->snaplen)\n        captured = recipe->snaplen;",
    ),
    _native(
        "blocks",
        "half a tag is put back",
        "if (inserted && captured >= ETHERNET_ADDRESSES + VLAN_BYTES)",
        "if (inserted && captured >= ETHERNET_ADDRESSES + 2)",
    ),
    _native(
        "blocks",
        "a tag without a name is of a provider",
        "#define ETHERTYPE_VLAN 0x8100u",
        "#define ETHERTYPE_VLAN 0x88a8u",
    ),
    _native("blocks", "a cut packet's checksum is finished", "&& captured == original)", "&& captured)"),
    _native(
        "checksum", "whatever the field holds is believed", "if (held % 0xffff != fold(pseudo) % 0xffff)", "if (0)"
    ),
    _native(
        "checksum",
        "a fragment is taken for a whole packet",
        "(get16(ip + 6) & 0x3fff) != 0",
        "(get16(ip + 6) & 0x1fff) != 0",
    ),
    _native(
        "checksum",
        "an odd last byte is left out",
        "    memcpy(rest, at, bytes);\n",
        "    memcpy(rest, at, bytes & ~(size_t)1);\n",
    ),
    _native("checksum", "a sum of zero says that there is none", "sum = 0xffff; /*", "sum = 0; /*"),
    _native(
        "checksum",
        "what follows the IP packet is summed up, too",
        "segment->bytes = total - header;",
        "segment->bytes = bytes - header;",
    ),
    _native("checksum", "a segment shorter than its header is finished", "|| segment.bytes < least)", ")"),
    _native(
        "module",
        "blocks are counted from 0",
        "(sequence - 1) % (unsigned long long)",
        "sequence % (unsigned long long)",
    ),
    _native(
        "module", "a block of another round is read", "block_sequence(block) == next ? block_copy", "next ? block_copy"
    ),
    _native(
        "module",
        "what came before a damaged block is lost with it",
        "if (verdict == DAMAGED && next == sequence)",
        "if (verdict == DAMAGED)",
    ),
    _native(
        "module",
        "a killed reader's next block is given back unread",
        "block_sequence(block) < sequence)",
        "block_sequence(block) <= sequence)",
    ),
    _native(
        "module",
        "what an old block held is unread",
        "if (block_sequence(block) != sequence + (unsigned long long)i)",
        "if (0)",
    ),
    _native("module", "a place outside the slot is written to", "|| used > room || room > slot.len", "|| used > room"),
)
