"""E6: the ways to spell a signed request otherwise: those that HTTP calls the same (SAME), and all others (REFUSED)."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from test_vsensor_kit import EPOCH, KEY, NOW_S

from ossensor.transport.protocol import FIELD_BOOKS, FIELD_FLOOR, FIELD_PACKETS

HOST = "vsensor.test:8443"
SIGNED = (
    "Host",
    "Content-Type",
    FIELD_FLOOR,
    FIELD_PACKETS,
    FIELD_BOOKS,
    "Content-Digest",
    "Signature-Input",
    "Signature",
)
NUMBERS = (FIELD_FLOOR, FIELD_PACKETS)
BASE64 = {"Content-Digest": "sha-256=:", "Signature": "ossensor=:"}  # with what stands before it
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


@dataclass
class Spelling:
    """A request line and field lines, without line ends, as they are sent. To begin with, as they were signed."""

    line: str
    fields: list[str]

    def at(self, name: str) -> int:
        (found,) = [n for n, text in enumerate(self.fields) if text.startswith(f"{name}: ")]
        return found

    def value(self, name: str) -> str:
        return self.fields[self.at(name)].partition(": ")[2]

    def put(self, name: str, value: str) -> None:
        """The value as it is given, after colon and space."""
        self.fields[self.at(name)] = f"{name}: {value}"

    def change(self, name: str, old: str, new: str) -> None:
        assert self.value(name).count(old) >= 1, (name, old)
        self.put(name, self.value(name).replace(old, new, 1))

    def each(self, make: Callable[[str], str]) -> None:
        self.fields = [make(text) for text in self.fields]

    @property
    def head(self) -> bytes:
        return "\r\n".join([self.line, *self.fields, "", ""]).encode("latin-1")


Change = Callable[[Spelling], object]


def change(name: str, old: str, new: str) -> Change:
    return lambda s: s.change(name, old, new)


def line(old: str, new: str) -> Change:
    def apply(spelling: Spelling) -> None:
        assert spelling.line.count(old) == 1, old
        spelling.line = spelling.line.replace(old, new)

    return apply


def value(name: str, make: Callable[[str], str]) -> Change:
    def apply(spelling: Spelling) -> None:
        before = spelling.value(name)
        spelling.put(name, make(before))
        assert spelling.value(name) != before, name

    return apply


def also(name: str, make: Callable[[str], str] = str, *, called: str = "", first: bool = False) -> Change:
    """The field again, perhaps by another name, after or before all others."""

    def apply(spelling: Spelling) -> None:
        spelling.fields.insert(0 if first else len(spelling.fields), f"{called or name}: {make(spelling.value(name))}")

    return apply


def renamed(name: str, new: str) -> Change:
    return lambda s: s.fields.__setitem__(s.at(name), f"{new}: {s.value(name)}")


def in_latin1(text: str) -> str:
    """The UTF-8 of the text, as characters that are one byte each on the wire."""
    return text.encode().decode("latin-1")


def _loose(text: str) -> str:
    """With a bit set that fills up the last character, and that lenient decoders ignore."""
    start, _, end = text.rpartition("=:")
    assert (end, len(base64.b64decode(start.rpartition(":")[2] + "="))) == ("", 32)
    return start[:-1] + ALPHABET[ALPHABET.index(start[-1]) + 1] + "=:"


def _url_alphabet(text: str) -> str:
    name, colon, rest = text.partition("=:")
    return name + colon + rest.replace("+", "-").replace("/", "_")


def _of_numbers() -> Iterator[tuple[str, Change]]:
    """Everything that some reader takes for the same number."""
    spelled = [
        "+{}",
        "-{}",
        "0{}",
        "{}.0",
        "{}.",
        "{}e0",
        "0x{}",
        "{}_0",
        "_{}",
        "{}_",
        "{},",
        "({})",
        '"{}"',
        "{};a",
        "?{}",
        ":{}:",
    ]
    for name in NUMBERS:
        for form in spelled:
            yield f"{name} spelled {form}", value(name, form.format)
        for zero in ("\u0660", "\u06f0", "\u0966", "\uff10"):  # Arabic, Persian, Devanagari, full width
            yield (
                f"{name} in digits from U+{ord(zero):04X}",
                value(name, lambda v, zero=zero: in_latin1("".join(chr(ord(zero) + int(c)) for c in v))),
            )
    for old, new in (
        ("received=1", "received=01"), ("received=1", "received=+1"), ("received=1", "received=1.0"),
        ("received=1", "received=1_0"), ("received=1", in_latin1("received=\u0661")), (", ", ","), (", ", ",  "),
        (", ", ",\t"), ("first-packet", "First-Packet"), ("first-packet", "first_packet"),
        ("first-packet=0, received=1", "received=1, first-packet=0"),
    ):  # fmt: skip
        yield f"books: {new!r}", change(FIELD_BOOKS, old, new)


def _of_base64() -> Iterator[tuple[str, Change]]:
    for name, before in BASE64.items():
        yield f"{name} without padding", value(name, lambda v: v.removesuffix("=:") + ":")
        yield f"{name} with more padding", value(name, lambda v: v.removesuffix(":") + "=:")
        yield f"{name} with loose bits", value(name, _loose)
        yield f"{name} in the URL alphabet", value(name, _url_alphabet)
        for what, more in (("a space", " "), ("a tab", "\t"), ("a dot", "."), ("a colon", ":"), ("an =", "=")):
            yield f"{name} with {what} within", value(name, lambda v, more=more: v[:30] + more + v[30:])
        for old, new in (
            (before, before.upper()), (before, before.replace("=:", "= :")), (before, before.replace("=:", " =:")),
            (before, before + ":"), (before, before.replace(":", '"')), (before, f", {before}"),
            (before, f"a, {before}"), (before, f"{before}AA==:, {before}"),
        ):  # fmt: skip
            yield f"{name}: {new!r}", change(name, old, new)
        for more in (",", ", ", ";", ";a", ";a=1", ", a", ", a=:AA==:", "; a"):
            yield f"{name} with {more!r} behind", value(name, lambda v, more=more: v + more)


def _of_parameters() -> Iterator[tuple[str, Change]]:
    created, keyid, alg, tag = f"created={NOW_S}", f'keyid="{KEY.id}"', 'alg="hmac-sha256"', 'tag="ossensor-data"'
    changes = {
        created: [
            *(f"created={form}".format(NOW_S) for form in ("{}.0", "0{}", "+{}", "-{}", "{}e0", "@{}", '"{}"', ":{}:")),
            f"created= {NOW_S}",
            f"created={NOW_S:_}", f"created={in_latin1(''.join(chr(0x660 + int(c)) for c in str(NOW_S)))}",
            f"created ={NOW_S}", f"Created={NOW_S}", f"{created};{created}", f"created=1;{created}",
        ],
        keyid: [
            keyid.upper(), f"{keyid};{keyid}",
            *(f"keyid={form.format(KEY.id)}" for form in ("{}", "'{}'", '" {}"', '"\\{}"', ":{}:", "%{}", '%"{}"')),
        ],
        alg: ['alg="HMAC-SHA256"', "alg=hmac-sha256", 'alg="hmac_sha256"'],
        tag: [
            tag.upper(), 'tag="ossensor_data"', 'tag="ossensor-data "', "tag=ossensor-data",
            *(tag + more for more in (";expires=9999999999", ";a", ",", ", a=1", ";")),
        ],
        f";{alg}": ["", f";{alg};{alg}"],
        f"{keyid};{alg}": [f"{alg};{keyid}"],
        'nonce="': ['nonce=" ', "nonce=", "nonce=:"],
        'nonce="fedc': ['nonce="FEDC', 'nonce="fed\\c'],
        '-0";tag': ['-00";tag', '-+0";tag', '-0.0";tag', '_0";tag', '-0_0";tag', '-0 ";tag', in_latin1('-\u0660";tag')],
        ";created": ["; created", " ;created", ";\tcreated", ";;created"],
        '("@method"': ['( "@method"', '"@method"'],
        '"ossensor-packets")': ['"ossensor-packets" )', '"ossensor-packets"'],
        '"@method" ': ['"@method"  ', '"@method"\t', '"@method",', '"@method"'],
        '"@method"': ['"@Method"', "@method", '"\\@method"', '"@method";a', '"@method";req'],
        '"@method" "@authority"': ['"@authority" "@method"', '"@method"'],
        '"@path"': ['"@path" "@path"', '"@target-uri"', '"@path";req'],
        '"@query"': ['"@query-param";name="a"', '"@Query"'],
        '"content-type"': ['"content-type";sf', '"content-type";bs', '"Content-Type"', '"content_type"'],
        '"content-digest"': ['"content-digest";key="sha-256"', '"content-digest";sf', '"Content-Digest"'],
        '"ossensor-floor"': ['"ossensor_floor"', '"Ossensor-Floor"', '"ossensor-floor";sf', '"ossensor-floor";key="0"'],
        "ossensor=(": ["Ossensor=(", "ossensor =(", "ossensor= (", "a, ossensor=(", "ossensor=1, ossensor=("],
    }  # fmt: skip
    for old, spelled in changes.items():
        for new in spelled:
            yield f"Signature-Input: {old!r} as {new!r}", change("Signature-Input", old, new)


def _of_fields() -> Iterator[tuple[str, Change]]:
    for name in SIGNED:
        yield f"{name} twice", also(name)
        yield f"{name} twice, the first in capitals", also(name, called=name.upper(), first=True)
        yield f"{name} and another", also(name, lambda v: v + "1")
        yield f"another and {name}", also(name, lambda v: v + "1", first=True)
        yield f"{name} and an empty one", also(name, lambda _: "")
        yield f"{name} and itself in one line", value(name, lambda v: f"{v}, {v}")
        yield f"{name} with a comma behind", value(name, lambda v: v + ",")
        yield f"{name} in quotes", value(name, '"{}"'.format)
        yield f"{name} with a NUL", value(name, lambda v: v + "\0")
        yield f"{name} with a no-break space", value(name, lambda v: v + "\xa0")
        yield f"{name} with a space before its colon", renamed(name, name + " ")
        yield f"{name} as a line that goes on", renamed(name, " " + name)
        yield f"{name} left out", lambda s, name=name: s.fields.pop(s.at(name))
        if "-" in name:
            yield f"{name} with underscores", renamed(name, name.replace("-", "_"))
    for new in (
        "Application/X-Pcapng",
        "application/x-pcapng;",
        "application/x-pcapng; a=b",
        "application/x_pcapng",
        "application /x-pcapng",
    ):
        yield f"Content-Type: {new}", value("Content-Type", lambda _, new=new: new)
    for form in (
        "{}.:8443",
        "{}",
        "{}:",
        "{}:08443",
        "{}:8443/",
        "{}:8443#",
        "{} :8443",
        "a@{}:8443",
        "https://{}:8443",
    ):
        yield f"Host: {form}", value("Host", lambda _, form=form: form.format("vsensor.test"))
    for name in ("vsensor_test", "vsensor%2Etest", "vsensor%2etest", "vsensor\\.test"):
        yield f"Host: {name}", value("Host", lambda _, name=name: f"{name}:8443")


def _of_lines() -> Iterator[tuple[str, Change]]:
    target = f"/v1/sensors/sensor-1/epochs/{EPOCH}/interfaces/eth0/batches/0"
    changes = {
        "PUT": ["put", "Put", "PATCH", " PUT"],
        " /v1": ["  /v1", "\t/v1", " //v1", " /./v1", " /x/../v1", " /V1", " /%76%31", " v1"],
        "/sensors": [";a/sensors", "//sensors", "%2Fsensors"],
        "sensor-1": ["Sensor-1", "sensor_1", "%73ensor-1", "sensor-1/.", "sensor-01"],
        EPOCH: [EPOCH.upper(), f"{EPOCH[:31]}%66"],
        "eth0": ["ETH0", "%65th0", "eth%30", "eth0%00", "eth0%20", "eth0+"],
        "batches/0": [f"batches/{n}" for n in ("00", "+0", "-0", "0.0", "0_0", "0/", "0;", "0&a", "%30", "%D9%A0")],
        "es/0": [in_latin1("es/\u0660")],
        "/0 ": ["/0?a ", "/0?%20 ", "/0?? ", "/0# ", "/0#a ", "/0?# ", "/0?#a "],
        target: [f"https://{HOST}{target}", f"//{HOST}{target}"],
    }  # fmt: skip
    for old, spelled in changes.items():
        for new in spelled:
            yield f"line: {old!r} as {new!r}", line(old, new)


REFUSED: dict[str, Change] = dict(
    spelling for family in (_of_numbers, _of_base64, _of_parameters, _of_fields, _of_lines) for spelling in family()
)


def _named(make: Callable[[str], str]) -> Change:
    def apply(text: str) -> str:
        name, colon, rest = text.partition(":")
        return make(name) + colon + rest

    return lambda s: s.each(apply)


# What a recipient of HTTP may not hear a difference in.
SAME: dict[str, Change] = {
    "as it was signed": lambda _: None,
    "fields in reverse order": lambda s: s.fields.reverse(),  # RFC 9110 section 5.3: those of different names
    "fields sorted": lambda s: s.fields.sort(),
    "names in capitals": _named(str.upper),  # RFC 9110 section 5.1
    "names in small letters": _named(str.lower),
    "spaces and tabs around values": lambda s: s.each(
        lambda text: text.replace(": ", ": \t ", 1) + " \t"
    ),  # RFC 9110 section 5.5: no part of a value
    "no space before values": lambda s: s.each(lambda text: text.replace(": ", ":", 1)),
    "a value folded at its space": change(
        "Signature-Input", '"@method" ', '"@method"\r\n '
    ),  # RFC 9112 section 5.2: a space
    "the host in capitals": value("Host", str.upper),  # RFC 9110 section 4.2.3
    "an empty query": line(" HTTP/", "? HTTP/"),  # RFC 9421 section 2.2.7
    # Fields that nobody reads. CGI would take the second for ossensor-floor; ASGI does not.
    "a stranger's field": lambda s: s.fields.append("X-Forwarded-For: 192.0.2.1"),
    "a field with underscores beside ours": lambda s: s.fields.append("ossensor_floor: 7"),
}
