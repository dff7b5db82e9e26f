# SPDX-License-Identifier: Apache-2.0
"""Descriptors for a process without rights.

The one that may open pins answers on a socket: asked "I have the set STAMP", it says "that is still it", or sends the
present one: a JSON document in a memfd, with the state and the names, then the descriptors in the order of the names
(SCM_RIGHTS). Asked for what netfilter's rules counted, which takes rights to be read, it sends a document with that.
Asked for the web configuration, which names files of root, it reads and sends that. Nothing else can be asked.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebpf.errors import EbpfError
from pydp.datapath.api import Datapath
from pydp.datapath.reader import Reader, stamp_of
from pydp.datapath.state import State
from pydp.errors import PydpError, UsageError
from pydp.kernel.natrules import ChainRules, NatRules, RuleCounters, read_rule_counters
from pydp.metrics.webconfig import WebConfig, read_web_config

_ASK = struct.Struct("=q")  # stamp of the set that the asker has
_ANSWER = struct.Struct("=qI")  # stamp, number of descriptors that follow; none: nothing has changed
_CHUNK = 200  # descriptors in one message; SCM_MAX_FD is 253
_NO_STAMP = -1
_RULES = -2  # instead of a stamp: what netfilter's rules counted
_WEB = -3  # instead of a stamp: the web configuration
_SHARE = 20  # of the time, reading rules takes this part at the most: there may be a hundred thousand


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends, which keep messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Supplier:
    """The end with rights. Holds no descriptor between two questions."""

    def __init__(self, channel: socket.socket, datapath: Datapath, web_config: Path | None = None) -> None:
        self._channel = channel
        self._datapath = datapath
        self._web_config = web_config
        self._rules: dict[str, Any] = {}
        self._rules_until = 0.0

    def run(self) -> None:
        """Answer until the other end is closed."""
        try:
            while asked := self._channel.recv(_ASK.size):
                (known,) = _ASK.unpack(asked)
                if known == _RULES:
                    self._send(_RULES, self._read_rules(), [])
                elif known == _WEB:
                    self._send(_WEB, self._read_web(), [])
                else:
                    self._answer(known)
        except ConnectionError:
            return

    def _answer(self, known: int) -> None:
        try:
            if stamp_of(self._datapath.store) == known:
                self._channel.send(_ANSWER.pack(known, 0))
                return
            reader = Reader.open(self._datapath)
        except ConnectionError:
            raise
        except (EbpfError, OSError) as error:
            self._send(_NO_STAMP, {"error": str(error)}, [])
            return
        with reader:
            document = {"state": reader.state.document(), "names": list(reader.descriptors)}
            self._send(reader.stamp, document, list(reader.descriptors.values()))

    def _read_rules(self) -> dict[str, Any]:
        """What was read last, as long as reading it anew would take too much of the time."""
        begin = time.monotonic()
        if begin >= self._rules_until:
            try:
                self._rules = {"rules": dataclasses.asdict(read_rule_counters())}
            except (PydpError, OSError) as error:
                self._rules = {"error": str(error)}
            self._rules_until = begin + _SHARE * (time.monotonic() - begin)
        return self._rules

    def _read_web(self) -> dict[str, Any]:
        try:
            found = read_web_config(self._web_config) if self._web_config else WebConfig()
        except UsageError as error:
            return {"error": str(error)}
        return {"web": found.document()}

    def _send(self, stamp: int, document: dict[str, Any], descriptors: Sequence[int]) -> None:
        text = os.memfd_create("pydp-state", os.MFD_CLOEXEC)
        try:
            with os.fdopen(text, "wb", closefd=False) as file:
                file.write(json.dumps(document).encode())
            together = [text, *descriptors]
            self._channel.send(_ANSWER.pack(stamp, len(together)))
            for at in range(0, len(together), _CHUNK):
                socket.send_fds(self._channel, [b"+"], together[at : at + _CHUNK])
        finally:
            os.close(text)


class Supplied:
    """The end without rights: called, it gives the Reader of the moment, which stays its own."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()  # a question and its answer belong together
        self._reader = Reader(State(), {})

    def __call__(self) -> Reader:
        """Raises PydpError when the other end could not open what is pinned, OSError when it is gone."""
        with self._lock:
            stamp, number = self._ask(self._reader.stamp)
            if number:
                self._reader.close()
                self._reader = Reader(State(), {}, _NO_STAMP)
                self._reader = self._receive(stamp, number)
            return self._reader

    def rules(self) -> RuleCounters:
        """What netfilter's rules counted. Raises PydpError when the other end could not read them, OSError when it is
        gone.
        """
        document = self._document(_RULES)
        rules = document["rules"]
        return RuleCounters(
            tuple(NatRules(**one) for one in rules["nat"]), tuple(ChainRules(**one) for one in rules["chains"])
        )

    def web_config(self) -> WebConfig:
        """The web configuration. Raises PydpError, which names the key at fault, or OSError as above."""
        return WebConfig.from_document(self._document(_WEB)["web"])

    def _document(self, question: int) -> dict[str, Any]:
        with self._lock:
            return self._received(self._ask(question)[1])[0]

    def _ask(self, question: int) -> tuple[int, int]:
        """(stamp, number of descriptors that follow)."""
        self._channel.send(_ASK.pack(question))
        answer = self._channel.recv(_ANSWER.size)
        if not answer:
            raise ConnectionResetError("the process with rights has ended")
        stamp, number = _ANSWER.unpack(answer)
        return stamp, number

    def _receive(self, stamp: int, number: int) -> Reader:
        document, descriptors = self._received(number)
        try:
            state = State.from_document(document["state"])
            named = dict(zip(document["names"], descriptors, strict=True))
        except BaseException:
            _close(descriptors)
            raise
        return Reader(state, named, stamp)

    def _received(self, number: int) -> tuple[dict[str, Any], list[int]]:
        """The document, and the descriptors that came with it: NUMBER in all."""
        received: list[int] = []
        for at in range(0, number, _CHUNK):
            _, some, _, _ = socket.recv_fds(self._channel, 1, min(_CHUNK, number - at), socket.MSG_CMSG_CLOEXEC)
            received += some
        try:
            if len(received) != number:
                raise PydpError(f"{number} descriptors were sent, {len(received)} arrived", hint="ulimit -n")
            document = _read_all(received[0])
            if "error" in document:
                raise PydpError(document["error"])
        except BaseException:
            _close(received)
            raise
        os.close(received[0])
        return document, received[1:]


def _close(descriptors: Sequence[int]) -> None:
    for one in descriptors:
        os.close(one)


def _read_all(descriptor: int) -> dict[str, Any]:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        found: dict[str, Any] = json.load(file)
    return found
