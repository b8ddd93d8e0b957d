"""Counts of texts equal those counted by hand; counts of compiled programs equal those computed by arithmetic."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from purejaxppo.bench import hlo
from purejaxppo.bench.hlo import count, parse, shape_bytes, trip_count

TEXT = """HloModule by_hand, is_scheduled=true, entry_computation_layout={(f32[8,16]{1,0})->f32[8,16]{1,0}}

%product (param_0: f32[8,16], param_1: f32[16,16]) -> f32[8,16] {
  %param_0 = f32[8,16]{1,0} parameter(0)
  %param_1 = f32[16,16]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,16]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%row (param_2: f32[8,16], param_3: s32[]) -> f32[1,16] {
  %param_2 = f32[8,16]{1,0} parameter(0)
  %param_3 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice.1 = f32[1,16]{1,0} dynamic-slice(%param_2, %param_3, %zero), dynamic_slice_sizes={1,16}
}

%inner_body (p: (s32[], f32[8,16], f32[16,16])) -> (s32[], f32[8,16], /*index=2*/f32[16,16]) {
  %p = (s32[], f32[8,16]{1,0}, /*index=2*/f32[16,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %w = f32[16,16]{1,0} get-tuple-element(%p), index=2
  %y = f32[8,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%product, metadata={op_name="jit(f)/dot_general"}
  %j = s32[] add(%i, %i)
  ROOT %t = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) tuple(%j, %y, %w)
}

%inner_condition (q: (s32[], f32[8,16], f32[16,16])) -> pred[] {
  %q = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%k, %k), direction=LT
}

%outer_body (p2: (s32[], f32[8,16], f32[16,16])) -> (s32[], f32[8,16], f32[16,16]) {
  %p2 = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) parameter(0)
  %again = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) while(%p2), condition=%inner_condition, body=%inner_body, KNOWN
  %a = s32[] get-tuple-element(%again), index=0
  %b = f32[8,16]{1,0} get-tuple-element(%again), index=1
  %c = f32[16,16]{1,0} get-tuple-element(%again), index=2
  %b2 = f32[8,16]{1,0} copy(%b)
  ROOT %t2 = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) tuple(%a, %b2, %c)
}

%small (p3: f32[8,16]) -> f32[8,16] {
  %p3 = f32[8,16]{1,0} parameter(0)
  %n1 = f32[8,16]{1,0} negate(%p3)
  ROOT %n2 = f32[8,16]{1,0} negate(%n1)
}

ENTRY %main (arg: f32[8,16], w0: f32[16,16]) -> f32[8,16] {
  %arg = f32[8,16]{1,0} parameter(0)
  %w0 = f32[16,16]{1,0} parameter(1)
  %start = s32[] constant(0)
  %one = f32[1,16]{1,0} fusion(%arg, %start), kind=kLoop, calls=%row
  %called = f32[8,16]{1,0} call(%arg), to_apply=%small
  %single = f32[8,16]{1,0} call(%called), to_apply=%small, frontend_attributes={xla_cpu_small_call="true"}
  %in = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) tuple(%start, %single, %w0)
  %loop = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) while(%in), condition=%inner_condition, body=%outer_body, OUTER
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def trips(n: int) -> str:
    return 'backend_config={"known_init_step":{"init":"0"},"known_trip_count":{"n":"' + str(n) + '"}}'


def test_a_text_counted_by_hand():
    counted = count(TEXT.replace("KNOWN", trips(5)).replace("OUTER", trips(3)))
    # entry: a fusion, two negations of the call, the small call; outer iteration: a copy; inner: a fusion, an add
    assert counted.kernels == {"fusion": 1 + 15, "negate": 2, "call": 1, "copy": 3, "add": 15}
    assert counted.executed == 37
    assert counted.flops == 15 * 2 * 8 * 16 * 16
    assert [(loop.name, loop.trips, loop.iterations, loop.kernels) for loop in counted.loops] == [
        ("loop", 3, 3, 11),
        ("again", 5, 15, 2),
    ]
    assert counted.unknown_loops == 0
    x, w = 4 * 8 * 16, 4 * 16 * 16
    row = 2 * 4 * 16 + 4  # of the sliced operand only the row counts, and the index
    assert counted.bytes == row + 2 * 2 * x + 2 * x + 3 * 2 * x + 15 * (2 * x + w + 12)


@pytest.mark.parametrize("assumed", [0.0, 1.0, 2.5])
def test_a_loop_of_unknown_length_has_the_assumed_number_of_iterations(assumed):
    counted = count(TEXT.replace("KNOWN", "x=1").replace("OUTER", trips(3)), assumed)
    assert counted.unknown_loops == 1
    assert counted.kernels.get("add", 0) == 3 * assumed
    assert counted.kernels["compare"] == 3 * (assumed + 1)
    assert counted.flops == 3 * assumed * 2 * 8 * 16 * 16


def test_the_most_expensive_branch_of_a_conditional_counts():
    branches = """
%cheap (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %n = f32[4]{0} negate(%p)
}

%expensive (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %n = f32[4]{0} negate(%p)
  ROOT %m = f32[4]{0} copy(%n)
}

ENTRY %main (i: s32[], x: f32[4]) -> f32[4] {
  %i = s32[] parameter(0)
  %x = f32[4]{0} parameter(1)
  ROOT %c = f32[4]{0} conditional(%i, %x, %x), branch_computations={%cheap, %expensive}
}
"""
    assert count(branches).kernels == {"negate": 1, "copy": 1}


def test_library_calls_and_convolutions():
    dims = '"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}'
    gemm = f'custom_call_target="__cublas$gemm", backend_config={{{dims}}}'
    text = f"""
ENTRY %main (a: f32[32,64], b: f32[64,8], i: f32[1,28,28,3], k: f32[3,3,3,16]) -> f32[1,28,28,16] {{
  %a = f32[32,64]{{1,0}} parameter(0)
  %b = f32[64,8]{{1,0}} parameter(1)
  %i = f32[1,28,28,3]{{3,2,1,0}} parameter(2)
  %k = f32[3,3,3,16]{{3,2,1,0}} parameter(3)
  %g = (f32[32,8]{{1,0}}, s8[4194304]{{0}}) custom-call(%a, %b), {gemm}
  %s = f32[32,64]{{1,0}} custom-call(%a), custom_call_target="TopK"
  ROOT %c = f32[1,28,28,16]{{3,2,1,0}} convolution(%i, %k), window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_01io->b01f
}}
"""
    counted = count(text)
    assert counted.kernels == {"custom-call": 2, "convolution": 1}
    assert counted.flops == 2 * 32 * 8 * 64 + 2 * (28 * 28 * 16) * (3 * 3 * 3)


def test_an_update_in_place_counts_the_bytes_it_writes():
    text = """
%put (p0: f32[128,4], p1: f32[1,4], p2: s32[]) -> f32[128,4] {
  %p0 = f32[128,4]{1,0} parameter(0)
  %p1 = f32[1,4]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %z = s32[] constant(0)
  ROOT %u = f32[128,4]{1,0} dynamic-update-slice(%p0, %p1, %p2, %z)
}

ENTRY %main (x: f32[128,4], y: f32[1,4], i: s32[]) -> f32[128,4] {
  %x = f32[128,4]{1,0} parameter(0)
  %y = f32[1,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = f32[128,4]{1,0} fusion(%x, %y, %i), kind=kLoop, calls=%put
}
"""
    assert count(text).bytes == 2 * 16 + 4


def compiled(function, *args) -> str:
    return jax.jit(function).lower(*args).compile().as_text()


def chain(length):
    """Compile `length` products of [32, 64] and [64, 64], one after the other."""
    x, w = jnp.ones((32, 64)), jnp.ones((64, 64))
    return compiled(lambda x, w: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=length)[0], x, w)


def test_flops_of_products_in_a_scan():
    for length in (10, 20):
        assert count(chain(length)).flops == length * 2 * 32 * 64 * 64


def test_kernels_grow_with_the_iterations_of_a_loop():
    counts = [count(chain(length)) for length in (10, 20)]
    loops = [counted.loops[0] for counted in counts]
    assert [loop.trips for loop in loops] == [10, 20]
    assert loops[0].kernels == loops[1].kernels >= 2  # a product and a tanh, with or without the counter
    assert counts[1].executed - counts[0].executed == 10 * loops[0].kernels


def test_per_iteration_is_of_the_most_expensive_loop_of_that_length():
    """A step of the environments has more kernels than the other loops over T, such as that of the advantages."""

    def rollout(x, w):
        x, ys = jax.lax.scan(lambda x, _: (jnp.sin(x) @ w, x), x, length=13)
        return x, jax.lax.scan(lambda total, y: (0.5 * total + y, total), ys[0], ys)[1]

    counted = count(compiled(rollout, jnp.ones((256, 64)), jnp.ones((64, 64))))
    cheap, expensive = sorted(loop.kernels for loop in counted.loops if loop.trips == 13)
    assert cheap < expensive == counted.per_iteration(13)
    assert counted.per_iteration(12) is None


def test_it_loads_without_any_package():
    """The environments of benchmarks/compare.py contain a peer, not this package."""
    load = f"import runpy; print(runpy.run_path({hlo.__file__!r})['count'].__name__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", load], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "count"


def test_nested_and_vmapped_scans():
    def nested(x, w):
        inner = lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]  # noqa: E731
        return jax.lax.scan(lambda x, _: (inner(x) + 1.0, None), x, length=5)[0]

    x, w = jnp.ones((32, 64)), jnp.ones((64, 64))
    one = count(compiled(nested, x, w))
    assert one.flops == 35 * 2 * 32 * 64 * 64
    assert sorted(loop.iterations for loop in one.loops) == [5.0, 35.0]
    many = count(compiled(jax.vmap(nested, (0, None)), jnp.ones((3, 32, 64)), w))
    assert many.flops == 3 * one.flops
    assert sorted(loop.iterations for loop in many.loops) == [5.0, 35.0]


def test_gradients_of_a_dense_layer_cost_three_products():
    def loss(w, x):
        return jnp.square(jnp.tanh(x @ w) @ w).sum()

    x, w = jnp.ones((32, 64)), jnp.ones((64, 64))
    product = 2 * 32 * 64 * 64
    # forward 2; backward: both factors of the second product, of the first the weights alone
    assert count(compiled(jax.grad(loss), w, x)).flops == 5 * product


def test_a_while_loop_on_data_has_no_known_length():
    text = compiled(
        lambda x: jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: jnp.sin(x) @ x, x), jnp.ones((64, 64))
    )
    counted = count(text)
    assert counted.unknown_loops == 1
    assert counted.flops == 2 * 64**3


def test_parts_of_a_text_are_parsed():
    program = parse(TEXT)
    assert program.entry == "main"
    assert set(program.computations) >= {"product", "inner_body", "outer_body", "main"}
    fusion = program.computations["inner_body"][4]
    assert fusion[:4] == ("y", "fusion", "f32[8,16]{1,0}", ("x", "w"))
    assert "metadata" not in fusion.attributes
    assert trip_count(trips(12)) == 12
    assert trip_count("condition=%c, body=%b") is None


def test_a_text_that_is_not_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        count("module @jit_f { func.func public @main() }")


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[8,16]{1,0}", 512), ("(s32[], pred[3], bf16[2]{0})", 11), ("token[]", 0), ("c64[2]", 16), ("f8e4m3fn[4]", 4)],
)
def test_bytes_of_shapes(shape, size):
    assert shape_bytes(shape) == size
