# SPDX-License-Identifier: Apache-2.0
"""Records and enums read from C text. ctypes, which has its own idea of the C layout, gives the expected bytes."""

from __future__ import annotations

import ctypes
import struct
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.abi import S32, U8, U16, U32, U64, Abi, codec
from ebpf.errors import SourceError

TEXT = """\
#line 1 "main.c"
#include <linux/bpf.h>
#line 1 "abi.h"
#define ETH_ALEN 6 /* bytes: {not a body} */
#ifndef WORDS
#define WORDS (ETH_ALEN / 3)
#endif
#define WIDE(x) (x)
enum { EXTRA = 3 };

// what a stage decides {
enum verdict {
	VERDICT_PASS, /* on to the next stage */
	VERDICT_DROP = 0x10, /* dropped: counted,
				* and gone // for good */

	/* a heading that stands alone */

	/* left to the kernel */
	VERDICT_PUNT = VERDICT_DROP + EXTRA,
	VERDICT_BARE,
	VERDICT_BITS = (1 << WORDS) | 0x100, // by a macro
};

struct packet {
	void *data;
	struct __sk_buff *ctx;
	union { __u32 v4; struct in6_addr v6; } address;
};

struct eth_addr { __u8 octet[ETH_ALEN]; };
struct fdb_key {
	struct eth_addr mac; /* } not the end; */
	__u16 vlan;
};
struct fdb_entry {
	__u8 mac[ETH_ALEN];
	__be16 vlan;
	__u64 seen;
};
struct padded {
	__u8 first;
	__u32 second;
	__u8 third;
};
struct everything {
	struct fdb_key keys[2];
	enum verdict verdict;
	__u32 words[WORDS];
	char name[8];
	__s32 delta;
	bool flag;
	__u8 grid[2][3];
	__u64 one[1];
};
#line 80 "lib/odd.h"
struct wide { strange_t thing; };
struct bits { __u32 low : 4; };
struct tight { __u8 a; __u32 b; } __attribute__((packed));
struct maybe {
#ifdef IPV6
	__u32 a[4];
#endif
	__u32 b;
};
struct python { __u32 from; };
struct open { __u32 count; __u8 tail[]; };
struct twice { __u8 a; };
struct twice { __u16 a; };
typedef __u32 vni_t;
struct tunnel { vni_t vni; };

static __always_inline struct packet *next(struct packet *pkt)
{
	return pkt;
}
"""


@pytest.fixture(scope="module")
def abi() -> Abi:
    return Abi(TEXT)


def layout(abi: Abi, name: str) -> list[tuple[str, int, int]]:
    return [(field.name, field.offset, field.size) for field in abi.record(name).fields]


def test_layout_follows_c(abi: Abi) -> None:
    assert layout(abi, "padded") == [("first", 0, 1), ("second", 4, 4), ("third", 8, 1)]
    assert abi.record("padded").size == 12
    assert layout(abi, "fdb_key") == [("mac", 0, 6), ("vlan", 6, 2)]
    assert layout(abi, "tunnel") == [("vni", 0, 4)]
    assert abi.record("fdb_entry").fields[0].ctype == "unsigned char[6]"


def test_padding_is_zero_and_missing_fields_too(abi: Abi) -> None:
    padded = abi.record("padded")
    assert padded.pack(1, 2, 3) == bytes.fromhex("01000000 02000000 03000000")
    assert padded.pack(third=3) == bytes.fromhex("00000000 00000000 03000000")
    assert padded.unpack(b"\x01\xff\xff\xff" + b"\x02\0\0\0" + b"\x03\xff\xff\xff") == (1, 2, 3)
    assert padded.type() == (0, 0, 0)


def test_every_kind_of_member(abi: Abi) -> None:
    record = abi.record("everything")
    value = record.type(
        keys=((((b"\1\2\3\4\5\6"),), 7), ((b"\0" * 6,), 9)), verdict=0x13, words=(1, 2**32 - 1), name=b"br0",
        delta=-5, flag=True, grid=(b"abc", b"def"), one=(11,),
    )  # fmt: skip
    packed = record.pack(*value)
    expected = struct.pack("=6sH6sHIII8siB3s3s1xQ", b"\1\2\3\4\5\6", 7, b"\0" * 6, 9, 0x13, 1, 2**32 - 1, b"br0",
                           -5, 1, b"abc", b"def", 11)  # fmt: skip
    assert packed == expected
    back = record.unpack(packed)
    assert back == value._replace(name=b"br0\0\0\0\0\0")
    assert back.keys[0].mac.octet == b"\1\2\3\4\5\6"
    assert record.unpack_many(packed * 3) == [back] * 3
    assert record.pack_many([back, value]) == packed * 2
    assert record.unpack(record.pack()) == record.type()


@pytest.mark.parametrize(
    ("record", "values", "message"),
    [
        ("fdb_entry", {"vlan": 65536}, "struct fdb_entry.vlan: 65536 is not in 0..65535"),
        ("fdb_entry", {"seen": -1}, "struct fdb_entry.seen: -1 is not in 0.."),
        ("fdb_entry", {"seen": 1.5}, "struct fdb_entry.seen: 1.5 is not an integer"),
        ("fdb_entry", {"mac": b"12345"}, "struct fdb_entry.mac: 5 bytes given, it holds 6"),
        ("fdb_entry", {"mac": "123456"}, "struct fdb_entry.mac: '123456' is not bytes"),
        ("fdb_key", {"mac": (b"1234567",)}, "struct fdb_key.mac.octet: 7 bytes given, it holds 6"),
        ("fdb_key", {"mac": b"123456"}, "struct fdb_key.mac: b'123456' is not a tuple"),
        ("fdb_key", {"mac": ()}, "struct fdb_key.mac: 0 values given, it has 1 fields"),
        ("everything", {"words": (1,)}, "struct everything.words: 1 items given, it holds 2"),
        ("everything", {"words": 1}, "struct everything.words: 1 is not a sequence"),
        ("everything", {"words": (1, 2**32)}, "struct everything.words[1]: 4294967296 is not in"),
        ("everything", {"name": b"123456789"}, "struct everything.name: 9 bytes given, it holds 8"),
        ("everything", {"delta": 2**31}, "struct everything.delta: 2147483648 is not in -2147483648..2147483647"),
    ],
)
def test_what_does_not_fit_is_named(abi: Abi, record: str, values: dict[str, Any], message: str) -> None:
    found = abi.record(record)
    for pack in (partial(found.pack, **values), partial(found.pack_many, [found.type(), found.type(**values)])):
        with pytest.raises(ValueError) as caught:
            pack()
        assert str(caught.value).startswith(message)


def test_fields_that_do_not_exist(abi: Abi) -> None:
    with pytest.raises(TypeError):
        abi.record("padded").pack(1, 2, 3, 4)
    with pytest.raises(TypeError):
        abi.record("padded").pack(fourth=4)


def test_data_of_the_wrong_length(abi: Abi) -> None:
    with pytest.raises(ValueError, match="struct padded has 12 bytes, not 11"):
        abi.record("padded").unpack(bytes(11))
    with pytest.raises(ValueError, match="struct padded has 12 bytes: 25 is no multiple"):
        abi.record("padded").unpack_many(bytes(25))
    assert abi.record("padded").unpack_many(b"") == []


def test_many_flat_records(abi: Abi) -> None:
    record = abi.record("fdb_entry")
    entries = [record.type(n.to_bytes(6, "big"), n & 0xFFF, n << 20) for n in range(1000)]
    packed = record.pack_many(entries)
    assert packed == b"".join(struct.pack("=6sHQ", *entry) for entry in entries)
    assert record.unpack_many(memoryview(packed)) == entries
    assert record.unpack_many(packed)[5].seen == 5 << 20
    assert record.pack_many([(b"123456",)]) == struct.pack("=6sHQ", b"123456", 0, 0)


def test_a_record_is_parsed_once(abi: Abi) -> None:
    assert abi.record("fdb_entry") is abi.record("fdb_entry")


def test_several_at_a_time_are_what_each_is(abi: Abi) -> None:
    names = ["fdb_entry", "everything", "padded", "tunnel", "fdb_entry", "fdb_key"]
    together = Abi(TEXT)
    together.read(names)
    for name in names:
        assert layout(together, name) == layout(abi, name)
        zeros = bytes(abi.record(name).size)
        assert together.record(name).unpack(zeros) == abi.record(name).unpack(zeros)


@pytest.mark.parametrize("bad", ["gone", "packet", "wide", "bits", "tight", "maybe", "python", "open", "twice"])
def test_one_that_cannot_be_read_leaves_the_others(bad: str) -> None:
    together = Abi(TEXT)
    together.read(["fdb_entry", bad, "padded"])
    assert layout(together, "fdb_entry") == [("mac", 0, 6), ("vlan", 6, 2), ("seen", 8, 8)]
    with pytest.raises(SourceError):
        together.record(bad)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "the C text declares no struct gone"),
        ("packet", "abi.h:22: struct packet cannot be read"),
        ("wide", "lib/odd.h:80: struct wide cannot be read: "),
        ("bits", "lib/odd.h:81: struct bits.low: bit-fields are not read"),
        ("tight", "lib/odd.h:82: struct tight has attributes"),
        ("maybe", "lib/odd.h:83: struct maybe has attributes or conditions"),
        ("python", "lib/odd.h:89: Type names and field names cannot be a keyword: 'from'"),
        ("open", "lib/odd.h:90: struct open.tail: unsigned char[] has no meaning"),
        ("twice", "lib/odd.h:92: struct twice is declared twice"),
    ],
)
def test_what_python_cannot_read_is_refused_with_its_place(abi: Abi, name: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        abi.record(name)
    assert str(caught.value).startswith(message)


def test_a_pointer_is_refused() -> None:
    with pytest.raises(SourceError, match=r"struct p\.next: struct p \* has no meaning outside of the program"):
        Abi("struct p {\n\tstruct p *next;\n};\n").record("p")


def test_enum_values_and_comments(abi: Abi) -> None:
    verdict = abi.enum("verdict")
    assert dict(verdict.members) == {
        "VERDICT_PASS": 0, "VERDICT_DROP": 16, "VERDICT_PUNT": 19, "VERDICT_BARE": 20, "VERDICT_BITS": 0x104,
    }  # fmt: skip
    assert list(verdict.members) == list(verdict.comments)
    assert verdict.comments["VERDICT_PASS"] == "on to the next stage"
    assert verdict.comments["VERDICT_DROP"] == "dropped: counted, and gone // for good"
    assert verdict.comments["VERDICT_PUNT"] == "left to the kernel"
    assert verdict.comments["VERDICT_BARE"] == ""
    assert verdict.comments["VERDICT_BITS"] == "by a macro"
    assert verdict.name_of(19) == "VERDICT_PUNT"
    with pytest.raises(ValueError, match="enum verdict has no member of value 99"):
        verdict.name_of(99)


def test_a_comment_behind_wins_over_one_before() -> None:
    comments = Abi("enum e {\n\t/* before */\n\tA, /* one */ /* two */\n\tB, C /* c */\n};\n").enum("e").comments
    assert comments == {"A": "one two", "B": "", "C": "c"}


def test_unknown_enum(abi: Abi) -> None:
    with pytest.raises(SourceError, match="declares no enum gone"):
        abi.enum("gone")


def test_a_default_does_not_override_a_configured_constant() -> None:
    configured = "#define SIZE 3\n#ifndef SIZE\n#define SIZE 9\n#endif\nstruct s { __u16 a[SIZE]; };\n"
    assert Abi(configured).record("s").size == 6
    assert Abi(configured.split("\n", 1)[1]).record("s").size == 18


def test_codec(abi: Abi) -> None:
    assert codec(abi, "struct fdb_entry") is abi.record("fdb_entry")
    assert codec(abi, "enum verdict") == U32
    for ctype, expected in (
        ("__u8", U8),
        ("u16", U16),
        ("const __u32", U32),
        ("unsigned long long", U64),
        ("int", S32),
    ):
        assert codec(abi, ctype) == expected
    with pytest.raises(SourceError, match="void \\* is no struct"):
        codec(abi, "void *")


def test_scalars() -> None:
    assert U32.pack(5) == struct.pack("=I", 5)
    assert S32.unpack(struct.pack("=i", -5)) == -5
    assert U16.unpack_many(U16.pack_many([1, 65535])) == [1, 65535]
    for pack in (partial(U16.pack, 65536), partial(U16.pack_many, [1, 65536])):
        with pytest.raises(ValueError, match=r"__u16: 65536 is not in 0\.\.65535"):
            pack()
    with pytest.raises(ValueError, match="__u16 has 2 bytes, not 4"):
        U16.unpack(bytes(4))
    with pytest.raises(ValueError, match="5 is no multiple"):
        U16.unpack_many(bytes(5))
    assert U32.differences_ctypes(ctypes.c_int) == []
    assert U32.differences_ctypes(ctypes.c_uint64) == ["__u32 has 4 bytes here and 8 there"]


def test_differences_are_sentences(abi: Abi) -> None:
    entry = abi.record("fdb_entry")
    assert entry.differences(layout(abi, "fdb_entry"), 16) == []
    assert entry.differences([("mac", 0, 6), ("vlan", 8, 2), ("age", 16, 8)], 24) == [
        "struct fdb_entry has 16 bytes here and 24 there",
        "struct fdb_entry.vlan is at 6, 2 bytes long, here and is at 8, 2 bytes long, there",
        "struct fdb_entry.seen is at 8, 8 bytes long, here and does not exist there",
        "struct fdb_entry.age does not exist here and is at 16, 8 bytes long, there",
    ]
    assert entry.differences_ctypes(ctypes.c_int) == ["struct fdb_entry is an integer of 4 bytes there"]


def test_bcc_padding_fields_do_not_count(abi: Abi) -> None:
    class Key(ctypes.Structure):
        _fields_ = [("first", ctypes.c_uint8), ("__pad_1", ctypes.c_char * 3), ("second", ctypes.c_uint32),
                    ("third", ctypes.c_uint8), ("__pad_end", ctypes.c_char * 3)]  # fmt: skip

    assert abi.record("padded").differences_ctypes(Key) == []
    assert U32.differences_ctypes(Key) == ["__u32 is struct Key there"]


MEMBERS = {
    "__u8": ctypes.c_uint8, "__u16": ctypes.c_uint16, "__be32": ctypes.c_uint32, "u64": ctypes.c_uint64,
    "__s8": ctypes.c_int8, "__s16": ctypes.c_int16, "s32": ctypes.c_int32, "__s64": ctypes.c_int64,
}  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(sorted(MEMBERS)), st.integers(0, 3)), min_size=1, max_size=8), st.data())
def test_any_struct_is_laid_out_as_ctypes_does(members: list[tuple[str, int]], data: st.DataObject) -> None:
    fields: list[tuple[str, Any]] = []
    lines: list[str] = []
    values: list[Any] = []
    for number, (ctype, length) in enumerate(members):
        kind: Any = MEMBERS[ctype]
        bits = ctypes.sizeof(kind) * 8
        signed = kind(-1).value < 0
        one = st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)
        drawn: Any = data.draw(st.tuples(*[one] * length) if length else one)
        values.append(bytes(drawn) if ctype == "__u8" and length else drawn)
        fields.append((f"f{number}", kind * length if length else kind))
        lines.append(f"\t{ctype} f{number}{f'[{length}]' if length else ''};")
    expected: Any = type("Expected", (ctypes.Structure,), {"_fields_": fields})
    record = Abi("struct s {\n" + "\n".join(lines) + "\n};\n").record("s")
    assert record.differences_ctypes(expected) == []
    buffer = bytearray(record.size)
    filled = expected.from_buffer(buffer)
    for (name, kind), value in zip(fields, values, strict=True):
        setattr(filled, name, kind(*value) if isinstance(value, tuple | bytes) else value)
    assert record.pack(*values) == bytes(buffer)
    assert record.unpack(bytes(buffer)) == tuple(values)
