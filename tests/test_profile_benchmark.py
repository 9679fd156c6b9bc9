"""What a profile says of programs whose operations are known."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import profile
from benchmarks.profile import Operation, read_program

PROGRAM = """HloModule jit_step

FileNames
1 "/a/flax/linen/linear.py"
2 "/b/ncgn_jax/models/layers.py"
3 "/b/ncgn_jax/loop.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=9 end_line=9}
2 {file_name_id=2 function_name_id=1 line=9 end_line=9}
3 {file_name_id=3 function_name_id=1 line=9 end_line=9}

StackFrames
1 {file_location_id=3 parent_frame_id=?}
2 {file_location_id=2 parent_frame_id=?}
3 {file_location_id=1 parent_frame_id=?}
4 {file_location_id=1 parent_frame_id=?}

%fused_computation (param_0.5: f32[4,4]) -> f32[4,4] {
  %param_0.5 = f32[4,4]{1,0} parameter(0)
  %reduce.1 = f32[4]{0} reduce(%param_0.5, %param_0.5), to_apply=%add
  ROOT %dot.7 = f32[4,4]{1,0} dot(%param_0.5, %param_0.5), metadata={stack_frame_id=3}
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %a)
}

ENTRY %main (x: f32[4,4]) -> (f32[4,4], s32[]) {
  %x = f32[4,4]{1,0} parameter(0)
  %ynn_fusion = f32[4,4]{1,0} fusion(%x), calls=%fused_computation, \
metadata={op_name="jit(step)/dot" stack_frame_id=3}
  %reduce.9 = f32[4]{0} reduce(%x, %x), to_apply=%add, metadata={stack_frame_id=1}
  %top = (f32[4,2]{1,0}, s32[4,2]{1,0}) custom-call(%x), custom_call_target="TopK", \
metadata={stack_frame_id=4}
  %gemm = f32[4,4]{1,0} custom-call(%x), custom_call_target="__cublas$gemm"
  %flip = f32[4,4]{0,1} transpose(%x), dimensions={1,0}
  ROOT %sum.2 = f32[4,4]{1,0} add(%x, %x)
}
"""


@pytest.mark.parametrize("parents", [(1, 2, 3, 1), (0, 1, 2, 0)])
def test_kinds_and_places_are_read_off_a_program(parents):
    """Parents of stack frames are written with one too many, or as they are."""
    text = PROGRAM
    for parent in parents:
        text = text.replace("parent_frame_id=?", f"parent_frame_id={parent}", 1)
    found = read_program(text)
    assert found["ynn_fusion"] == Operation("matrix product", "models/layers.py")
    assert found["reduce.9"] == Operation("reduction", "loop.py")
    assert found["top"] == Operation("sort", "elsewhere")
    assert found["gemm"] == Operation("matrix product", "elsewhere")
    assert found["flip"].kind == "copy"
    assert found["sum.2"].kind == profile.OTHER


def test_time_of_inner_operations_is_not_counted_twice():
    events = [(0, -100, "while"), (10, -30, "dot"), (40, -5, "add"), (41, -2, "mul")]
    events += [(100, -7, "copy")]
    found = {
        name: round(seconds * 1e9) for name, seconds in profile._without_inner(events)
    }
    assert found == {"dot": 30, "mul": 2, "add": 3, "while": 65, "copy": 7}


@pytest.mark.parametrize(
    ("kind", "size", "work"),
    [
        ("sort", 200, lambda x: jnp.sort(x, axis=0)),
        # Large, so that products take longest on a busy machine too.
        ("matrix product", 500, lambda x: x @ x @ x @ x),
    ],
)
def test_what_takes_longest_is_found(kind, size, work):
    def walk(x):
        return jax.lax.scan(lambda x, _: (work(x) + 1.0, None), x, None, length=4)[0]

    x = jax.random.normal(jax.random.key(0), (size, size))
    compiled = jax.jit(walk).lower(x).compile()
    compiled(x).block_until_ready()
    clock, tables = profile.profile(
        compiled, lambda: compiled(x).block_until_ready(), num_steps=4
    )
    assert clock > 0
    assert next(iter(tables["kind"])) == kind
    for rows in tables.values():
        assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    # Three products or one sort a step, however they are fused.
    calls = tables["kind"][kind]["calls"]
    assert 1 <= calls <= 3
    text = profile.report("walk", clock, tables)
    assert "by kind" in text
    assert kind in text


@pytest.mark.thorough
@pytest.mark.slow
def test_the_published_network_is_profiled(capsys):
    fields = ["data.num_points=32", "model.width=8", "model.num_layers=1"]
    fields += ["train.batch_size=16"]
    arguments = ["--repeats=1", "--sampler_steps=2"]
    arguments += [f"--config.{field}" for field in fields]
    limit = jax.config.jax_traceback_in_locations_limit
    try:
        profile.main(["profile", *arguments])
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
    printed = capsys.readouterr().out
    assert printed.count("## sampler step") == 2
    for part in ("training step", "matrix product", "models/", "graphs/"):
        assert part in printed


def test_what_is_wrong_is_said():
    with pytest.raises(SystemExit) as error:
        profile.main(["profile", "--config.model.width=0"])
    assert "model.width: found 0" in str(error.value)
