import jax
import jax.numpy as jnp
import pytest

from dlkd_jax.tools.planning import collectives, hlo, traffic
from tests.tools.planning.compiled import exchanges, product_in_a_loop, trace

LOOP = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=1
  %step = s32[]{:T(128)} constant(STEP)
  %next = s32[]{:T(128)} add(%i, %step)
  %sum = f32[8,4]{1,0:T(8,128)} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) tuple(%next, %sum)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} constant(LIMIT)
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=DIRECTION
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(FIRST)
  %start = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}, /*index=2*/s32[]{:T(128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  ROOT %r = f32[8,4]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def loop(first=0, step=1, limit=6, direction='LT'):
  text = LOOP.replace('FIRST', str(first)).replace('STEP', str(step)).replace('LIMIT', str(limit))
  return hlo.parse(text.replace('DIRECTION', direction))


@pytest.mark.parametrize(
  'options, rounds',
  [({}, 6), ({'first': 2}, 4), ({'step': 4}, 2), ({'direction': 'LE'}, 7), ({'first': 9}, 0)],
  ids=str,
)
def test_rounds_of_a_loop(options, rounds):
  program = loop(**options)
  assert program.unknown_loops == []
  (found,) = collectives.find(program, 4)
  assert found.times == rounds
  assert found.result == rounds * 8 * 4 * 4


def test_a_loop_that_is_not_understood_is_named():
  program = loop(direction='NE')
  assert program.unknown_loops == ['loop']
  assert collectives.find(program, 4)[0].times == 1


def test_a_noted_number_of_rounds_is_believed():
  text = LOOP.replace('body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"11"}}')
  text = text.replace('FIRST', '0').replace('STEP', '1').replace('LIMIT', '6').replace('DIRECTION', 'NE')
  assert collectives.find(hlo.parse(text), 4)[0].times == 11


def test_arrays_on_the_chip_are_no_traffic():
  # The sum reads its operand on the chip and writes 8 × 4 float32 to main memory; the counter is three numbers.
  assert traffic.memory_bytes(loop(limit=1)) == 8 * 4 * 4 + 3 * 4


def test_a_text_that_is_no_program_is_refused():
  with pytest.raises(ValueError, match='ENTRY'):
    hlo.parse('nothing')


def test_exchanges_of_the_cpu_program():
  traced = exchanges(jax.devices()[:8])
  found = {c.kind: c for c in collectives.find(hlo.parse(traced.lower().compile().as_text()), 8)}
  row = 128 * 4
  assert set(found) == set(collectives.KINDS)
  assert {kind: c.times for kind, c in found.items()} == dict.fromkeys(collectives.KINDS, 1) | {'all-reduce': 5}
  assert found['all-gather'].result == 16 * 8 * row
  assert found['all-gather'].sent == 16 * 7 * row
  assert found['all-reduce'].sent == 5 * 2 * 8 * row * 7 / 8
  assert found['reduce-scatter'].result == 8 * row
  assert found['reduce-scatter'].sent == 8 * 7 * row
  assert found['all-to-all'].sent == 4 * 8 * row * 7 / 8
  assert found['collective-permute'].sent == 16 * row


def test_groups_exchange_among_themselves():
  groups = [[0, 1, 2, 3], [4, 5, 6, 7]]
  gather = lambda x: jax.lax.all_gather(x, 'data', tiled=True, axis_index_groups=groups)  # noqa: E731
  traced = trace(gather, jax.devices()[:8], (64, 128))
  (found,) = collectives.find(hlo.parse(traced.lower().compile().as_text()), 8)
  assert found.sent == 3 * 8 * 128 * 4


def test_traffic_of_a_product_is_its_operands_and_result():
  traced = trace(lambda x, y: x @ y.T, jax.devices()[:1], (256, 512), (128, 512))
  moved = traffic.memory_bytes(hlo.parse(traced.lower().compile().as_text()))
  assert moved == pytest.approx(4 * (256 * 512 + 128 * 512 + 256 * 128), rel=0.01)


def test_traffic_of_a_loop_over_slices_is_the_slices():
  def program(x):
    return jax.lax.map(lambda row: jnp.sin(row) * 2, x)

  traced = trace(program, jax.devices()[:1], (64, 4096))
  moved = traffic.memory_bytes(hlo.parse(traced.lower().compile().as_text()))
  assert 2 * 64 * 4096 * 4 <= moved <= 5 * 64 * 4096 * 4


def test_loops_are_counted_where_the_compiler_counts_them_once():
  traced = product_in_a_loop(jax.devices()[:2])
  program = hlo.parse(traced.lower().compile().as_text())
  assert program.unknown_loops == []
  assert max(e.times for e in program.executions()) == 7
