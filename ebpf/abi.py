# SPDX-License-Identifier: Apache-2.0
"""C owns the types: structs and enums are read from the flattened text that bcc compiles.

cffi parses and lays out. Here is only what finds a declaration and what it depends on, so that types of the kernel's
headers, which are not in the text, do no harm as long as no record uses them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ebpf.errors import SourceError
from ebpf.records import Field, Record, Scalar, Shape, array, integer, octets
from ebpf.source import place

U8, U16, U32, U64 = Scalar("__u8", 1), Scalar("__u16", 2), Scalar("__u32", 4), Scalar("__u64", 8)
S32 = Scalar("__s32", 4, signed=True)
Codec = Record | Scalar

_INTEGERS = {1: ("char", U8), 2: ("short", U16), 4: ("int", U32), 8: ("long long", U64)}
_SCALARS = {
    **{f"{prefix}{size * 8}": scalar for size, (_, scalar) in _INTEGERS.items() for prefix in ("__u", "u", "__be")},
    **{f"unsigned {ctype}": scalar for ctype, scalar in _INTEGERS.values()},
    **dict.fromkeys(("__s32", "s32", "int"), S32),
    "unsigned long": U64,
}
_TYPEDEFS = "".join(
    f"typedef unsigned {ctype} __u{size * 8}, u{size * 8}, __be{size * 8}, __le{size * 8};"
    f"typedef signed {ctype} __s{size * 8}, s{size * 8};"
    for size, (ctype, _) in _INTEGERS.items()
)

_COMMENT_OR_LITERAL = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_DECLARATION = re.compile(r"^(struct|enum)\b[ \t]*(\w*)\s*\{([^{}]*|.*?^)\}([^;{}]*);", re.MULTILINE | re.DOTALL)
_DEFINE = re.compile(r"^(?:#[ \t]*(ifndef)[^\n]*\n)?#[ \t]*define[ \t]+(\w+)[ \t]+(\S[^\n]*)", re.MULTILINE)
_TYPEDEF = re.compile(r"^typedef\s[^;{}()]*?(\w+)\s*;", re.MULTILINE)
_MEMBER = re.compile(r"(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<line>\n)|(?P<name>[A-Za-z_]\w*)(?:\s*=[^,/\n]*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A C enum: ``members`` and their ``comments`` by name, in the order of the text."""

    name: str
    members: Mapping[str, int]
    comments: Mapping[str, str]

    def name_of(self, value: int) -> str:
        """The first member of this value. Raises ValueError when there is none."""
        for name, one in self.members.items():
            if one == value:
                return name
        raise ValueError(f"enum {self.name} has no member of value {value}")


@dataclass(frozen=True, slots=True)
class _Declaration:
    text: str  # comments blanked
    body: str
    tail: str  # between the closing brace and the semicolon
    start: int  # where the whole and the body begin in the flattened text
    body_start: int


class Abi:
    """The structs and enums of a flattened text, each parsed when it is asked for.

    A declaration begins with ``struct NAME {`` or ``enum NAME {`` in the first column and ends with ``}`` there (one
    line will do, too). Sizes of arrays and values of members may use ``#define`` constants and other enums of the text.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        bare = _COMMENT_OR_LITERAL.sub(_blanked, text)
        self._declared: dict[str, list[_Declaration]] = {}
        self._constants: dict[str, str] = {}  # enumerator or macro -> the declaration that cffi needs to know it
        self._typedefs = {found[1]: found[0] for found in _TYPEDEF.finditer(bare)}
        for found in _DECLARATION.finditer(bare):
            kind, name, body, tail = found.groups()
            declaration = _Declaration(found[0], body, tail.strip(), found.start(), found.start(3))
            self._declared.setdefault(f"{kind} {name}", []).append(declaration)
            if kind == "enum":
                self._constants.update(dict.fromkeys((one["name"] for one in _members(body)), declaration.text))
        for found in _DEFINE.finditer(bare):
            default, name, value = found.groups()
            if default and name in self._constants:
                continue  # "#ifndef NAME, #define NAME" gives a default to what is defined already
            self._constants[name] = f"enum {{ {name} = ({value.strip()}) }};"
        self._records: dict[str, Record] = {}
        self._enums: dict[str, Enumeration] = {}

    def record(self, name: str) -> Record:
        """The struct of this tag. Raises SourceError when the text has none, or none that Python can read."""
        if name not in self._records:
            declaration = self._one(f"struct {name}")
            parsed = self._parse(f"struct {name}", declaration)
            try:
                self._records[name] = _record(parsed)
            except (TypeError, ValueError) as error:
                raise self._complaint(declaration, str(error)) from None
        return self._records[name]

    def read(self, names: Iterable[str]) -> None:
        """Read several structs at a time, which takes about as long as one of them. What cannot be read is left for
        `record`, which says what is wrong with it.
        """
        wanted = [name for name in dict.fromkeys(names) if name not in self._records]
        try:
            declared = [self._one(f"struct {name}") for name in wanted]
            needed = dict.fromkeys(text for one in declared for text in (*self._needs(one, ()), one.text))
            parsed = _structs("\n".join(needed), tuple(wanted))
            self._records.update({name: _record(one) for name, one in zip(wanted, parsed, strict=True)})
        except (SourceError, TypeError, ValueError):
            return

    def enum(self, name: str) -> Enumeration:
        """The enum of this tag. Raises SourceError when the text has none, or cannot tell its values."""
        if name not in self._enums:
            declaration = self._one(f"enum {name}")
            values = self._parse(f"enum {name}", declaration).relements
            body = self._text[declaration.body_start : declaration.body_start + len(declaration.body)]
            comments = _comments(body)
            self._enums[name] = Enumeration(name, {one: values[one] for one in comments}, comments)
        return self._enums[name]

    def _one(self, ctype: str) -> _Declaration:
        found = self._declared.get(ctype, [])
        if not found:
            raise SourceError(f"the C text declares no {ctype}")
        if len(found) > 1:
            raise self._complaint(found[1], f"{ctype} is declared twice")
        if found[0].tail or re.search(r"^\s*#", found[0].body, re.MULTILINE):
            raise self._complaint(found[0], f"{ctype} has attributes or conditions, so its layout cannot be read")
        return found[0]

    def _parse(self, ctype: str, declaration: _Declaration) -> Any:
        try:
            return _parsed("\n".join(dict.fromkeys([*self._needs(declaration, ()), declaration.text])), ctype)
        except ValueError as error:
            raise self._complaint(declaration, f"{ctype} cannot be read: {error}") from error

    def _needs(self, declaration: _Declaration, above: tuple[str, ...]) -> Iterator[str]:
        """The declarations that this one depends on, deepest first; ``above`` are those that led here."""
        for kind, name, pointer in re.findall(r"\b(struct|enum)\s+(\w+)\s*(\*?)", declaration.body):
            ctype = f"{kind} {name}"
            if not pointer and ctype in self._declared and ctype not in above:
                needed = self._one(ctype)
                yield from self._needs(needed, (*above, ctype))
                yield needed.text
        for word in re.findall(r"\b[A-Za-z_]\w*", declaration.body):
            if word in self._typedefs:
                yield self._typedefs[word]
        sized = declaration.body if declaration.text.startswith("enum") else " ".join(_bounds(declaration.body))
        yield from self._needed_constants(sized, declaration.text, above)

    def _needed_constants(self, text: str, by: str, above: tuple[str, ...]) -> Iterator[str]:
        for word in re.findall(r"\b[A-Za-z_]\w*", text):
            needed = self._constants.get(word, by)
            if needed != by and needed not in above:
                yield from self._needed_constants(needed, needed, (*above, needed))
                yield needed

    def _complaint(self, declaration: _Declaration, message: str) -> SourceError:
        file, line = place(self._text, declaration.start)
        return SourceError(message, file=file, line=line)


@functools.lru_cache(maxsize=64)
def _parsed(text: str, ctype: str) -> Any:
    """The cffi type of this name that TEXT declares. Raises ValueError."""
    import cffi  # late: it takes as long as the rest of the library
    from pycparser import c_parser  # type: ignore[import-untyped]

    ffi = cffi.FFI()
    try:
        ffi.cdef(f"{_TYPEDEFS}\n{text}")
        return ffi.typeof(ctype)
    except (cffi.CDefError, cffi.FFIError, c_parser.ParseError, NotImplementedError, TypeError) as error:
        reason = re.sub(r"\n?<cdef source string>(:\d+:\d+)?", "", str(error))  # a place in our cdef says nothing
        raise ValueError(reason) from error


@functools.lru_cache(maxsize=64)
def _structs(text: str, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The cffi types of structs that TEXT declares. Raises ValueError. By one question for all, since each is a text
    that is parsed. Kept, as programs of one attach have most of their structs in common.
    """
    members = "".join(f"struct {name} *member{number};" for number, name in enumerate(names))
    whole = _parsed(f"{text}\nstruct of_all {{ {members} }};", "struct of_all")
    return tuple(member.type.item for _, member in whole.fields)


def codec(abi: Abi, ctype: str) -> Codec:
    """What packs and unpacks a C type: "struct fdb_entry", "__u32", "u64", ... Raises SourceError for any other."""
    words = [word for word in ctype.split() if word != "const"]
    if words[:1] == ["struct"] and len(words) == 2:
        return abi.record(words[1])
    if words[:1] == ["enum"] and len(words) == 2:
        return U32 if min(abi.enum(words[1]).members.values()) >= 0 else S32
    try:
        return _SCALARS[" ".join(words)]
    except KeyError:
        raise SourceError(f"{ctype} is no struct and no integer type known here") from None


def stripped(text: str) -> str:
    """C text without comments, empty lines and marks of lines: what it compiles to is the same."""
    lines = _COMMENT_OR_LITERAL.sub(_blanked, text).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip() and not line.startswith("#line "))


def _blanked(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0]) if found[0].startswith("/") else found[0]


def _bounds(body: str) -> list[str]:
    return re.findall(r"\[([^\]]*)\]", body)


def _record(parsed: Any) -> Record:
    """A Record from a cffi struct type. Raises TypeError for what has no meaning outside of the program."""
    members = []
    for name, member in parsed.fields:
        where = f"{parsed.cname}.{name}"
        if member.bitsize != -1:
            raise TypeError(f"{where}: bit-fields are not read")
        shape = _shape(member.type, where)
        members.append((Field(name, member.offset, _ffi().sizeof(member.type), member.type.cname), shape))
    return Record.build(parsed.cname.removeprefix("struct "), _ffi().sizeof(parsed), members)


def _shape(parsed: Any, where: str) -> Shape:
    if parsed.kind in ("primitive", "enum"):
        return integer(_ffi().sizeof(parsed), int(_ffi().cast(parsed, -1)) < 0)
    if parsed.kind == "array" and parsed.length is not None:
        if parsed.item.cname in ("unsigned char", "char"):
            return octets(parsed.length, text=parsed.item.cname == "char")
        return array(_shape(parsed.item, where), parsed.length)
    if parsed.kind == "struct" and parsed.fields is not None:
        return _record(parsed).shape
    raise TypeError(f"{where}: {parsed.cname} has no meaning outside of the program")


@functools.cache
def _ffi() -> Any:
    """For questions about types that some other FFI parsed."""
    import cffi

    return cffi.FFI()


def _members(body: str) -> Iterator[re.Match[str]]:
    return (found for found in _MEMBER.finditer(body) if found["name"])


def _comments(body: str) -> dict[str, str]:
    """The members of an enum with the comment behind each on its line, or else the one right before it."""
    comments: dict[str, str] = {}
    before, current, blank = "", "", True
    behind: set[str] = set()
    for found in _MEMBER.finditer(body):
        if found["line"]:
            before, current, blank = "" if blank else before, "", True
            continue
        blank = False
        if found["name"]:
            current = found["name"]
            comments[current], before = before, ""
        elif current:
            said = _plain(found["comment"])
            comments[current] = f"{comments[current]} {said}" if current in behind else said
            behind.add(current)
        else:
            before = f"{before} {_plain(found['comment'])}".strip()
    return comments


def _plain(comment: str) -> str:
    inner = comment[2:-2] if comment.startswith("/*") else comment[2:]
    return " ".join(line.strip().lstrip("*/!<").strip() for line in inner.split("\n")).strip()
