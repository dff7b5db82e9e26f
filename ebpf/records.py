# SPDX-License-Identifier: Apache-2.0
"""Bytes of a C struct or integer to Python values and back.

A struct is a named tuple: integers are ints as the CPU reads them (big-endian fields are not swapped), ``__u8`` and
``char`` arrays are bytes, other arrays are tuples, nested structs are named tuples. Padding is written as zero, since
the kernel compares hash keys with their padding.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_CODES = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q",
          (1, True): "b", (2, True): "h", (4, True): "i", (8, True): "q"}  # fmt: skip

Layout = Sequence[tuple[str, int, int]]
"""(name, offset, size) of the fields of a struct, in bytes."""
Class = type[Any]
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Shape:
    """How one value lies in the flat tuple that struct.Struct reads and writes."""

    format: str
    count: int  # flat values it takes
    zero: Any
    load: Callable[[Sequence[Any]], Any]  # flat values -> value
    dump: Callable[[Any, str], Iterable[Any]]  # value and how errors call it -> flat values
    direct: bool = False  # the flat value is the value
    exact: int = 0  # bytes that must have this length, which struct.pack does not check


def integer(size: int, signed: bool) -> Shape:
    """An integer of ``size`` bytes."""
    bits = size * 8
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def dump(value: Any, where: str) -> Iterable[Any]:
        if not isinstance(value, int):
            raise ValueError(f"{where}: {value!r} is not an integer")
        if not low <= value <= high:
            raise ValueError(f"{where}: {value} is not in {low}..{high}")
        return (value,)

    return Shape(_CODES[size, signed], 1, 0, lambda flat: flat[0], dump, direct=True)


def octets(size: int, text: bool) -> Shape:
    """An array of ``size`` bytes; a ``text`` (char array) may be given shorter and is filled up with zeros."""

    def dump(value: Any, where: str) -> Iterable[Any]:
        if not isinstance(value, Bytes):
            raise ValueError(f"{where}: {value!r} is not bytes")
        if len(value) != size and not (text and len(value) < size):
            raise ValueError(f"{where}: {len(value)} bytes given, it holds {size}")
        return (bytes(value),)

    return Shape(f"{size}s", 1, bytes(size), lambda flat: flat[0], dump, direct=True, exact=size)


def array(item: Shape, length: int) -> Shape:
    """An array of anything but bytes."""
    step = item.count

    def load(flat: Sequence[Any]) -> Any:
        return tuple(item.load(flat[at : at + step]) for at in range(0, length * step, step))

    def dump(value: Any, where: str) -> Iterator[Any]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise ValueError(f"{where}: {value!r} is not a sequence")
        if len(value) != length:
            raise ValueError(f"{where}: {len(value)} items given, it holds {length}")
        for number, one in enumerate(value):
            yield from item.dump(one, f"{where}[{number}]")

    return Shape(item.format * length, step * length, (item.zero,) * length, tuple if item.direct else load, dump)


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a struct; ``offset`` and ``size`` in bytes, ``ctype`` as C spells it with typedefs resolved."""

    name: str
    offset: int
    size: int
    ctype: str


@dataclass(frozen=True, slots=True)
class Record:
    """A C struct. ``type`` is the named tuple of its fields, whose defaults are zero."""

    name: str
    size: int
    fields: tuple[Field, ...]
    type: Class = field(compare=False, repr=False)
    _shapes: tuple[Shape, ...] = field(compare=False, repr=False)
    _struct: struct.Struct = field(compare=False, repr=False)
    _make: Callable[[Iterable[Any]], Any] = field(compare=False, repr=False)
    _flat: bool = field(compare=False, repr=False)  # flat values are the fields

    @classmethod
    def build(cls, name: str, size: int, members: Sequence[tuple[Field, Shape]]) -> Record:
        """Make a Record of ``size`` bytes from its ``members`` in the order of their offsets.

        Raises ValueError for a field that cannot be a Python name.
        """
        layout, at = ["="], 0
        for member, shape in members:
            layout += [f"{member.offset - at}x", shape.format]
            at = member.offset + member.size
        fields, shapes = tuple(member for member, _ in members), tuple(shape for _, shape in members)
        namedtuple: Any = collections.namedtuple  # its names are not known to a type checker
        type_ = namedtuple(name, [one.name for one in fields], defaults=[shape.zero for shape in shapes])
        make = functools.partial(tuple.__new__, type_)  # what type_._make does, without its Python frame
        flat = all(shape.direct for shape in shapes)
        return cls(name, size, fields, type_, shapes, struct.Struct("".join([*layout, f"{size - at}x"])), make, flat)

    @property
    def shape(self) -> Shape:
        """This struct as a member of another."""
        count = sum(shape.count for shape in self._shapes)
        return Shape(self._struct.format.removeprefix("="), count, self.type(), self._load, self._dump)

    def pack(self, *values: Any, **named: Any) -> bytes:
        """The bytes of a record given by position or name; what is missing is zero.

        Raises ValueError naming struct and field for what does not fit, TypeError for a field there is not.
        """
        item = self.type(*values, **named) if named or len(values) != len(self.fields) else values
        return self._struct.pack(*self._dump(item, f"struct {self.name}"))

    def pack_many(self, items: Iterable[Sequence[Any]]) -> bytes:
        """The bytes of ``items`` (named or plain tuples), one after the other. Raises as ``pack``."""
        if not self._flat:
            return b"".join([self.pack(*item) for item in items])
        pack, exact = self._struct.pack, [(n, shape.exact) for n, shape in enumerate(self._shapes) if shape.exact]
        packed = []
        for item in items:
            try:
                for number, length in exact:
                    if len(item[number]) != length:
                        raise ValueError
                packed.append(pack(*item))
            except (struct.error, ValueError, TypeError, IndexError):
                packed.append(self.pack(*item))  # says what is wrong, or fills up what is short
        return b"".join(packed)

    def unpack(self, data: Bytes) -> Any:
        """The named tuple in ``data``. Raises ValueError when its length is not ``size``."""
        if len(data) != self.size:
            raise ValueError(f"struct {self.name} has {self.size} bytes, not {len(data)}")
        flat = self._struct.unpack(data)
        return self._make(flat) if self._flat else self._load(flat)

    def unpack_many(self, data: Bytes) -> list[Any]:
        """The named tuples that lie one after the other in ``data``. Raises ValueError when it holds a part of one."""
        if len(data) % self.size:
            raise ValueError(f"struct {self.name} has {self.size} bytes: {len(data)} is no multiple of it")
        return list(map(self._make if self._flat else self._load, self._struct.iter_unpack(data)))

    def differences(self, fields: Layout, size: int) -> list[str]:
        """How another layout of this struct ("there") differs from this one ("here"), one sentence each."""
        here = {one.name: (one.offset, one.size) for one in self.fields}
        there = {name: (offset, length) for name, offset, length in fields}
        said = [f"struct {self.name} has {self.size} bytes here and {size} there"] if size != self.size else []
        said += [
            f"struct {self.name}.{name} {_at(here.get(name))} here and {_at(there.get(name))} there"
            for name in {**here, **there}
            if here.get(name) != there.get(name)
        ]
        return said

    def differences_ctypes(self, other: Class) -> list[str]:
        """How a ctypes class such as bcc's table.Key differs from this struct. bcc's padding fields do not count."""
        if not hasattr(other, "_fields_"):
            return [f"struct {self.name} is an integer of {ctypes.sizeof(other)} bytes there"]
        names = [entry[0] for entry in other._fields_ if not entry[0].startswith("__pad_")]
        fields = [(name, getattr(other, name).offset, getattr(other, name).size) for name in names]
        return self.differences(fields, ctypes.sizeof(other))

    def _load(self, flat: Sequence[Any]) -> Any:
        values, at = [], 0
        for shape in self._shapes:
            values.append(flat[at] if shape.direct else shape.load(flat[at : at + shape.count]))
            at += shape.count
        return self._make(values)

    def _dump(self, value: Any, where: str) -> Iterator[Any]:
        if not isinstance(value, tuple | list):
            raise ValueError(f"{where}: {value!r} is not a tuple")
        if len(value) != len(self.fields):
            raise ValueError(f"{where}: {len(value)} values given, it has {len(self.fields)} fields")
        for one, member, shape in zip(value, self.fields, self._shapes, strict=True):
            yield from shape.dump(one, f"{where}.{member.name}")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A map's key or value that is a plain integer, with the interface of a Record."""

    name: str
    size: int
    signed: bool = False

    def pack(self, value: int = 0) -> bytes:
        """The bytes of ``value``. Raises ValueError when it does not fit."""
        (checked,) = integer(self.size, self.signed).dump(value, self.name)
        return struct.pack(f"={_CODES[self.size, self.signed]}", checked)

    def pack_many(self, items: Iterable[int]) -> bytes:
        """The bytes of ``items``, one after the other. Raises as ``pack``."""
        values = list(items)
        try:
            return struct.pack(f"={len(values)}{_CODES[self.size, self.signed]}", *values)
        except struct.error:
            return b"".join(map(self.pack, values))  # says which is wrong

    def unpack(self, data: Bytes) -> int:
        """The integer in ``data``. Raises ValueError when its length is not ``size``."""
        if len(data) != self.size:
            raise ValueError(f"{self.name} has {self.size} bytes, not {len(data)}")
        return self.unpack_many(data)[0]

    def unpack_many(self, data: Bytes) -> list[int]:
        """The integers that lie one after the other in ``data``. Raises ValueError when it holds a part of one."""
        if len(data) % self.size:
            raise ValueError(f"{self.name} has {self.size} bytes: {len(data)} is no multiple of it")
        return list(struct.unpack(f"={len(data) // self.size}{_CODES[self.size, self.signed]}", data))

    def differences_ctypes(self, other: Class) -> list[str]:
        """How a ctypes class differs from this integer."""
        if hasattr(other, "_fields_"):
            return [f"{self.name} is struct {other.__name__} there"]
        size = ctypes.sizeof(other)
        return [f"{self.name} has {self.size} bytes here and {size} there"] if size != self.size else []


def _at(found: tuple[int, int] | None) -> str:
    return f"is at {found[0]}, {found[1]} bytes long," if found else "does not exist"
