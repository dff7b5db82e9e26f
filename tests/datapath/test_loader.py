# SPDX-License-Identifier: Apache-2.0
"""From text to a loaded program: the cache, constants, map references, and what clang and the verifier refuse."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf import compiler, testrun
from ebpf.abi import Abi
from ebpf.attach import attach
from ebpf.compiler import compile_source
from ebpf.errors import CompileError, LayoutMismatch, NotSupported, VerifierError
from ebpf.loader import Program, load
from ebpf.maps import Map
from ebpf.source import Source, flatten
from pydp.lab import Segment

pytestmark = pytest.mark.usefixtures("requires_root")

HEAD = "#include <uapi/linux/bpf.h>\n#include <uapi/linux/pkt_cls.h>\n"
FRAME = bytes(64)
CONSTANTS = """
#define CONSTANT(number) ({ __u64 v; asm volatile("%0 = %1 ll" : "=r"(v) : "i"(0x7d9d5eed00000000ULL + (number))); v; })
BPF_TABLE("array", __u32, __u64, seen, 2);
static __always_inline void see(__u32 index, __u64 value)
{
	__u64 *place = seen.lookup(&index);
	if (place)
		*place = value;
}
int constants(struct xdp_md *ctx)
{
	see(0, CONSTANT(0));
	see(1, CONSTANT(17));
	return XDP_PASS;
}
"""


def source(text: str, tmp_path: Path | None = None) -> Source:
    return flatten(HEAD + text, name="main.c", include_dirs=[tmp_path] if tmp_path else [])


def xdp(text: str, maps: dict[str, Map] | None = None, *, frags: bool = False) -> Program:
    return load(compile_source(source(text)), "work", "xdp", maps or {}, frags=frags)


# Compile


def test_equal_sources_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"int work(struct xdp_md *ctx)\n{{\n\treturn {secrets.randbits(30)};\n}}\n"
    compiled = []
    real = compiler._compile

    def watched(given: Source, cflags: tuple[str, ...]) -> compiler.Compiled:
        compiled.append(given)
        return real(given, cflags)

    monkeypatch.setattr(compiler, "_compile", watched)
    first = compile_source(source(text))
    assert compile_source(source(text)) is first
    assert compile_source(source(text), ("-DOTHER=1",)) is not first
    assert compile_source(source(text.replace("return", "return 1 +"))) is not first
    assert len(compiled) == 3


def test_an_error_in_an_included_file_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "wrong.h").write_text("// one\n\nstatic int f(void)\n{\n\treturn missing;\n}\n")
    with pytest.raises(CompileError) as caught:
        compile_source(source('#include "lib/wrong.h"\nint work(struct xdp_md *ctx) { return f(); }\n', tmp_path))
    assert (caught.value.file, caught.value.line) == ("lib/wrong.h", 5)
    assert str(caught.value) == "lib/wrong.h:5: use of undeclared identifier 'missing'"
    assert "lib/wrong.h:5:9" in caught.value.log


def test_an_error_in_the_main_text_has_its_place_too(tmp_path: Path) -> None:
    (tmp_path / "right.h").write_text("static int f(void)\n{\n\treturn 1;\n}\n")
    text = '#include "right.h"\nint work(struct xdp_md *ctx)\n{\n\treturn f() +;\n}\n'
    with pytest.raises(CompileError) as caught:
        compile_source(source(text, tmp_path))
    assert (caught.value.file, caught.value.line) == ("main.c", 6)  # two lines of HEAD before


def test_clang_leaves_standard_error_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CompileError):
        compile_source(source("int work(struct xdp_md *ctx) { return nothing; }\n"))
    assert capfd.readouterr().err == ""


def test_specs_and_references() -> None:
    compiled = compile_source(source(CONSTANTS))
    assert compiled.maps["seen"].kind == "array"
    assert compiled.maps["seen"].max_entries == 2
    assert compiled.programs["constants"].map_names == {"seen"}
    assert [number for _, number in compiled.programs["constants"].constants] == [0, 17]


# Load


def test_constants_are_written_in() -> None:
    compiled = compile_source(source(CONSTANTS))
    for values in ({0: 5, 17: 2**64 - 3}, {0: 0, 17: 0x123456789ABCDEF0}):
        with Map.create(compiled.maps["seen"]) as seen:
            with load(compiled, "constants", "xdp", {"seen": seen}, constants=values) as program:
                testrun.run(program, FRAME)
            assert dict(seen.items()) == {0: values[0], 1: values[17]}


def test_one_compilation_serves_maps_of_any_size() -> None:
    text = """
BPF_TABLE("array", __u32, __u64, sized, 1);
int work(struct xdp_md *ctx)
{
	__u32 index = 99;
	__u64 *place = sized.lookup(&index);
	return place ? *place : XDP_DROP;
}
"""
    compiled = compile_source(source(text))
    for entries, action in ((100, 2), (99, 1)):
        with Map.create(compiled.maps["sized"].sized(entries)) as one:
            one.update({entries - 1: 2})
            with load(compiled, "work", "xdp", {"sized": one}) as program:
                assert testrun.run(program, FRAME).action == action


def test_the_verifiers_word_has_a_place_and_a_reason(tmp_path: Path) -> None:
    (tmp_path / "careless.h").write_text(
        "static __always_inline int first(struct xdp_md *ctx)\n{\n"
        "\t__u8 *data = (void *)(long)ctx->data;\n\treturn data[13];\n}\n"
    )
    text = '#include "careless.h"\nint work(struct xdp_md *ctx)\n{\n\treturn first(ctx);\n}\n'
    compiled = compile_source(source(text, tmp_path))
    with pytest.raises(VerifierError) as caught:
        load(compiled, "work", "xdp", {})
    assert (caught.value.file, caught.value.line) == ("careless.h", 4)
    assert "outside of the packet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "invalid access to packet" in caught.value.log
    assert "@ careless.h:4" in caught.value.log
    assert "processed" in caught.value.log


def test_what_a_hook_lacks_is_refused_by_the_verifier() -> None:
    text = "int work(struct xdp_md *ctx)\n{\n\treturn bpf_skb_vlan_pop((void *)ctx);\n}\n"
    with pytest.raises((VerifierError, NotSupported)) as caught:
        xdp(text)
    assert "work" in str(caught.value)


def test_pinned_programs_are_opened_again(bpffs: Path) -> None:
    path = bpffs / f"pydp_test_{os.getpid():x}_{secrets.token_hex(4)}"
    with xdp("int work(struct xdp_md *ctx)\n{\n\treturn XDP_TX;\n}\n") as program:
        program.pin(str(path))
        try:
            with Program.open(str(path)) as again:
                assert (again.id, again.tag, again.name) == (program.id, program.tag, "work")
                assert testrun.run(again, FRAME).action == 3
        finally:
            path.unlink()


def test_bccs_reading_of_a_struct_is_compared_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that we read in another way than clang lays it out would corrupt every entry."""
    text = """
struct laid {
	__u8 small;
	__u64 large;
};
BPF_TABLE("array", __u32, struct laid, records, 1);
int work(struct xdp_md *ctx)
{
	__u32 zero = 0;
	return records.lookup(&zero) ? XDP_PASS : XDP_DROP;
}
"""
    monkeypatch.setenv("PYDP_NO_CACHE", "1")
    monkeypatch.setattr(compiler, "Abi", lambda _: PACKED)
    with pytest.raises(LayoutMismatch, match=r"map records: .* is not clang's.*struct laid.large is at 1"):
        compile_source(source(text))


PACKED = Abi("struct laid {\n\t__u8 small;\n\t__u8 large[8];\n};\n")


# Frames of several buffers


@pytest.fixture
def lengths() -> Iterator[Callable[[bool], Program]]:
    """Programs that pass what is as long as they see it."""
    text = "int work(struct xdp_md *ctx)\n{\n\treturn bpf_xdp_get_buff_len(ctx) == 9000 ? XDP_PASS : XDP_DROP;\n}\n"
    made: list[Program] = []

    def make(frags: bool) -> Program:
        made.append(xdp(text, frags=frags))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_frags_take_long_frames(lengths: Callable[[bool], Program]) -> None:
    outcome = testrun.run(lengths(True), bytes(range(250)) * 36)
    assert outcome.action == 2
    assert outcome.frame == bytes(range(250)) * 36


def test_without_frags_a_device_with_long_frames_refuses(
    lengths: Callable[[bool], Program], segment: Callable[..., Segment]
) -> None:
    """A test run gives such a program long frames all the same; devices do not."""
    made = segment(1, mtu=9000)
    with pytest.raises(NotSupported, match="p0: its MTU is too large for native XDP"):
        made.sw.call(attach, lengths(False), made[0].port_index, "xdp", name="p0")
    link = made.sw.call(attach, lengths(True), made[0].port_index, "xdp", name="p0")
    link.detach()
