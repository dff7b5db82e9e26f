# SPDX-License-Identifier: Apache-2.0
"""What the verifier says, as kernels before and since 6.9 say it."""

from __future__ import annotations

import pytest

from ebpf.verifierlog import last_place, reason, tells_places, unmarked, with_our_lines

TEXT = """#line 1 "/src/lib/one.h"
static int first(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	return data[13];
}
#line 1 "main.c"
int work(struct xdp_md *ctx)
{
	int found = 0;
	found = first(ctx);
	return found;
}
int other(struct xdp_md *ctx)
{
	return found;
}
"""
NEW = """0: R1=ctx() R10=fp0
; return data[13]; @ one.h:5
1: (71) r0 = *(u8 *)(r1 +13)
invalid access to packet, off=13 size=1, R1(id=0,off=13,r=0)
R1 offset is outside of the packet
processed 2 insns (limit 1000000) max_states_per_insn 0
"""
OLD = NEW.replace(" @ one.h:5", "")
NO_TEXT = NEW.replace("return data[13];", "")  # what bcc tells of files other than its own


@pytest.mark.parametrize("log", [NEW, NO_TEXT, OLD], ids=["since 6.9", "without text", "before"])
def test_a_remark_has_the_place_in_our_file(log: str) -> None:
    """bcc's attribute before first() has moved it a line down."""
    ours = with_our_lines(log, TEXT)
    assert "; return data[13]; @ one.h:4\n" in ours
    assert last_place(ours) == ("one.h", 4)
    assert reason(ours) == "R1 offset is outside of the packet"


@pytest.mark.parametrize("code", ["return found;", "bpf_map_lookup_elem((void *)3, &key)"], ids=["twice", "rewritten"])
def test_a_line_whose_place_nobody_knows_has_none(code: str) -> None:
    """Not that of a remark before it, either."""
    ours = with_our_lines(f"; return data[13];\n1: r0 = 1\n; {code}\n2: r0 = 2\n", TEXT)
    assert last_place(ours) == ("", 0)


def test_an_empty_line_has_no_place() -> None:
    assert last_place(with_our_lines("; \n1: r0 = 1\n", TEXT + "\n")) == ("", 0)


def test_which_kernel_tells_places() -> None:
    assert [tells_places(log) for log in (NEW, NO_TEXT, OLD, "; \n")] == [True, True, False, False]


def test_without_marks_lines_stay_where_they_are() -> None:
    one = unmarked(TEXT)
    assert "#line" not in one
    assert [line for line in one.splitlines() if line] == [line for line in TEXT.splitlines() if "#line" not in line]
    assert len(one.splitlines()) == len(TEXT.splitlines())


def test_a_log_without_remarks() -> None:
    assert last_place(with_our_lines("invalid argument\n", TEXT)) == ("", 0)
    assert reason("") == "refused by the verifier"
