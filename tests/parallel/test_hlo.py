"""The reader of compiled programs, on text written by hand."""
# ruff: noqa: E501 - XLA writes long lines.

import pytest

from mirage_jax.parallel import hlo

LOOP = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner_body (p: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %p = (s32[], f32[64,8]{1,0}) parameter(0)
  %x.1 = f32[64,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %moved = f32[64,8]{1,0} collective-permute(%x.1), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %t = (s32[], f32[64,8]) tuple(%p, %moved)
}

%inner_condition (p: (s32[], f32[64,8])) -> pred[] {
  %p = (s32[], f32[64,8]) parameter(0)
  ROOT %less = pred[] compare(%p, %p), direction=LT
}

%body (p: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %p = (s32[], bf16[16,8]) parameter(0)
  %shard = bf16[16,8]{1,0} get-tuple-element(%p), index=1
  %whole = bf16[64,8]{1,0} all-gather(%shard), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %w2 = (s32[], f32[64,8]) while(%t0), condition=%inner_condition, body=%inner_body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %t = (s32[], bf16[16,8]) tuple(%p, %shard)
}

%condition (p: (s32[], bf16[16,8])) -> pred[] {
  %p = (s32[], bf16[16,8]) parameter(0)
  ROOT %less = pred[] compare(%p, %p), direction=LT
}

%never (q: f32[9]) -> f32[9] {
  %q = f32[9] parameter(0)
  ROOT %r = f32[9] all-reduce(%q), replica_groups={}, to_apply=%add
}

ENTRY %main (a: f32[4,256], b: bf16[16,8]) -> f32[4,256] {
  %a = f32[4,256]{1,0} parameter(0)
  %b = bf16[16,8]{1,0} parameter(1)
  %t0 = (s32[], bf16[16,8]) tuple(%a, %b)
  %w = (s32[], bf16[16,8]) while(%t0), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %grad = f32[1,256]{1,0} reduce-scatter(%a), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %total = f32[4,256]{1,0} all-reduce(%a), channel_id=3, replica_groups={}, to_apply=%add
}
"""


def test_collectives_are_counted_as_often_as_their_loops_run():
    found = hlo.read(LOOP, devices=8)
    assert found.collectives == {
        # 64 x 8 bfloat16, three times, three quarters of it from the other three of a group.
        "all-gather": hlo.Traffic(1, 3, 3 * 1024, 3 * 768),
        "collective-permute": hlo.Traffic(1, 15, 15 * 2048, 15 * 2048),
        # Counted before scattering: 4 x 256 float32.
        "reduce-scatter": hlo.Traffic(1, 1, 4096, 4096 * 3 / 4),
        # Among all devices where no group is given; sent twice in a ring.
        "all-reduce": hlo.Traffic(1, 1, 4096, 2 * 4096 * 7 / 8),
    }
    assert found.unknown_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    text = LOOP.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    found = hlo.read(text, devices=8)
    assert found.collectives["all-gather"].executed == 1
    assert found.collectives["collective-permute"].executed == 5
    assert found.unknown_loops == 1


def test_where_the_compiler_is_silent_the_condition_says_how_often_a_loop_runs():
    text = LOOP.replace(', backend_config={"known_trip_count":{"n":"3"}}', "").replace(
        "  ROOT %less = pred[] compare(%p, %p), direction=LT\n}\n\n%never",
        "  %limit = s32[]{:T(128)} constant(30)\n"
        "  ROOT %less = pred[]{:T(512)} compare(%p, %limit), direction=LT, metadata={}\n}\n\n%never",
    )
    found = hlo.read(text, devices=8)
    assert found.collectives["all-gather"].executed == 30
    assert found.collectives["collective-permute"].executed == 150
    assert found.unknown_loops == 0


ASYNC = """\
HloModule jit_step

%wrapped (q: f32[8,2]) -> f32[8,2] {
  %q = f32[8,2] parameter(0)
  ROOT %r = f32[8,2] all-to-all(%q), replica_groups={{0,1}}, dimensions={0}
}

ENTRY %main (a: f32[8,2]) -> f32[8,2] {
  %a = f32[8,2]{1,0} parameter(0)
  %s = (f32[8,2]{1,0}, f32[16,2]{1,0:T(8,128)S(1)}) all-gather-start(%a), replica_groups=[1,2]<=[2], dimensions={0}
  %d = f32[16,2]{1,0} all-gather-done(%s)
  %ps = (f32[8,2]{1,0}, f32[8,2]{1,0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}
  %pd = f32[8,2]{1,0} collective-permute-done(%ps)
  %rs = f32[8,2]{1,0} all-reduce-start(%a), replica_groups=[1,2]<=[2], to_apply=%wrapped.not.here
  %rd = f32[8,2]{1,0} all-reduce-done(%rs)
  %as = ((f32[8,2]), f32[8,2], u32[]) async-start(%a), calls=%wrapped
  %au = ((f32[8,2]), f32[8,2], u32[]) async-update(%as), calls=%wrapped
  %ad = f32[8,2] async-done(%au), calls=%wrapped
  %k = f32[8,2] custom-call(%a), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/vmap(splash_mha_fwd_residuals)/pallas_call"}
  %splash_mha_dq_no_residuals.3 = f32[8,2] custom-call(%k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
  ROOT %o = f32[8,2] custom-call(%k), custom_call_target="TopK"
}
"""


def test_started_collectives_count_once_and_by_what_is_gathered():
    found = hlo.read(ASYNC, devices=2)
    assert found.collectives == {
        "all-gather": hlo.Traffic(1, 1, 128, 64),
        "collective-permute": hlo.Traffic(1, 1, 64, 64),
        "all-reduce": hlo.Traffic(1, 1, 64, 64),
        "all-to-all": hlo.Traffic(1, 1, 64, 32),
    }
    assert found.kernels == {
        "splash_mha_fwd_residuals": 1,
        "splash_mha_dq_no_residuals": 1,
        "TopK": 1,
    }


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ("f32[]", 4),
        ("bf16[2,3]{1,0:T(8,128)(2,1)}", 12),
        ("(pred[7], u8[1], s64[2], f8e4m3fn[5])", 7 + 1 + 16 + 5),
        ("s4[6]", 3),
        ("f32[0,9]", 0),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(shapes, expected):
    assert hlo.nbytes(shapes) == expected


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        hlo.read("HloModule empty\n", devices=1)
