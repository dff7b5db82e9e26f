# SPDX-License-Identifier: Apache-2.0
"""Errors become lines and an exit status in one place."""

from __future__ import annotations

import errno
import os

import pytest

from ebpf import errors as ebpf
from pydp import errors
from pydp.cli.failure import report, status_of
from pydp.cli.main import main
from pydp.cli.output import plural, printable, si, table


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.PydpError("it failed"), 1),
        (errors.UsageError("wrong"), 2),
        (errors.NoSuchLink("eth9"), 2),
        (errors.NothingAttached("nothing"), 3),
        (errors.Unsupported("cannot"), 4),
        (errors.NotAllowed("no"), 5),
        (ebpf.EbpfError("it failed"), 1),
        (ebpf.CompileError("no", file="main.c", line=3), 1),
        (ebpf.VerifierError("no"), 1),
        (ebpf.DeviceGone("gone"), 1),
        (ebpf.ForeignProgram("taken"), 1),
        (ebpf.HeadersMissing("none"), 4),
        (ebpf.BpffsMissing("none"), 4),
        (ebpf.NotSupported("cannot"), 4),
        (ebpf.NotPermitted("no"), 5),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/var"), 1),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/sys/fs/bpf"), 5),
        (OSError(errno.EPERM, os.strerror(errno.EPERM)), 5),
        (ZeroDivisionError("a fault"), 1),
    ],
    ids=repr,
)
def test_the_status_of_every_error(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_headers_that_a_full_disk_keeps_from_being_merged_are_no_lack() -> None:
    error = ebpf.HeadersMissing("cannot be merged in /var: No space left on device")
    error.__cause__ = OSError(errno.ENOSPC, "")
    assert status_of(error) == 1


def test_a_message_and_its_hint_are_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ebpf.BpffsMissing("no bpf file system", hint="mount -t bpf bpf /sys/fs/bpf")) == 4
    assert capsys.readouterr() == ("", "pydp: no bpf file system\n  mount -t bpf bpf /sys/fs/bpf\n")


def test_the_log_is_for_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    error = ebpf.VerifierError("R1 invalid", file="bridge.c", line=7, log="0: (b7) r0 = 0\n1: ...")
    report(error)
    assert capsys.readouterr().err == "pydp: bridge.c:7: R1 invalid\n  --verbose shows the whole log\n"
    report(error, verbose=True)
    assert capsys.readouterr().err.splitlines()[2:] == ["0: (b7) r0 = 0", "1: ..."]


def test_an_error_of_the_system_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    report(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"/var/cache"))
    assert capsys.readouterr().err == "pydp: /var/cache: No space left on device\n"


def test_a_fault_of_ours_is_a_line_and_with_verbose_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("slot")
    except KeyError as caught:
        error = caught
    assert report(error) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"pydp: internal fault: KeyError: 'slot' ({__file__}:")
    report(error, verbose=True)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_is_130_and_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pydp.cli.detach.run", interrupted)
    assert main(["detach", "--all"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("argv", [[], ["nosuch"], ["attach", "--nosuch"], ["detach"], ["detach", "a", "--all"],
                                  ["stats", "--watch", "x"], ["stats", "--watch", "0"], ["fdb", "nosuch"], ["-n"],
                                  ["stats", "--json", "--watch"], ["-n", "no-such-namespace", "status"],
                                  ["-n", "/dev/null", "status"]])  # fmt: skip
def test_wrong_usage_is_2_and_two_lines_at_most(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pydp: ")
    assert 1 <= len(err.splitlines()) <= 2


def test_names_cannot_write_to_the_terminal() -> None:
    assert printable("eth\x1b[2J\x07") == "eth?[2J?"
    assert "\x1b" not in table(("PORT",), [("\x1b[31meth1",)])


def test_a_table_has_aligned_columns_and_no_trailing_blanks() -> None:
    text = table(("PORT", "PACKETS"), [("p0", 5), ("port12", 12345)], right=("PACKETS",), indent="  ")
    assert text.splitlines() == ["  PORT      PACKETS", "  p0              5", "  port12      12345"]
    assert table(("PORT",), []) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7.25, "7.25"), (999.4, "999"), (999.9, "1 k"), (1234567, "1.23 M"), (999_999, "1 M"), (5e9, "5 G")],
)
def test_rates_have_three_digits(value: float, text: str) -> None:
    assert si(value) == text
    assert si(value, "b") == (f"{text}b" if " " in text else f"{text} b")


def test_plurals() -> None:
    assert [plural(number, "port") for number in (0, 1, 2)] == ["0 ports", "1 port", "2 ports"]
    assert plural(2, "address") == "2 addresses"
