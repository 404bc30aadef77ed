"""Tests of telling whole frames from those that build on lost packets."""

import dataclasses

from dlkd_jax.video.damage import Chain, Damage


@dataclasses.dataclass
class _Thing:
  pts: int | None
  is_keyframe: bool = False
  is_corrupt: bool = False


def _send(chain, *things):
  for pts, key in things:
    chain.send(_Thing(pts, key))


def test_everything_is_whole_without_a_loss():
  chain = Chain()
  _send(chain, (0, True), (2, False), (1, False))
  assert all(chain.whole(_Thing(pts)) for pts in (0, 1, 2))


def test_a_loss_spoils_what_follows_in_the_file_up_to_the_next_key_frame():
  chain = Chain()
  _send(chain, (0, True), (3, False), (1, False))
  chain.lose()
  _send(chain, (2, False), (4, False), (8, True), (6, False), (9, False))
  # Frame 3 came before the loss; 6 follows the key frame 8 in the file and is shown before it.
  assert {pts: chain.whole(_Thing(pts)) for pts in (0, 3, 2, 4, 6, 8, 9)} == {
    0: True, 3: True, 2: False, 4: False, 6: False, 8: True, 9: True
  }  # fmt: skip


def test_a_loss_may_have_happened_some_packets_before():
  chain = Chain()
  _send(chain, (0, True), (1, False), (2, False), (3, False))
  chain.lose(back=2)
  assert [chain.whole(_Thing(pts)) for pts in (0, 1, 2, 3)] == [True, False, False, False]


def test_two_losses_and_a_patched_frame():
  chain = Chain()
  _send(chain, (0, True), (1, False))
  chain.lose()
  _send(chain, (2, False), (10, True), (11, False), (12, False))
  assert not chain.whole(_Thing(2))
  assert chain.whole(_Thing(10)) and not chain.whole(_Thing(11, is_corrupt=True))
  assert not chain.whole(_Thing(12))
  _send(chain, (20, True))
  assert chain.whole(_Thing(20)) and not chain.whole(_Thing(1))


def test_damage_counts_and_keeps_the_first_time():
  damage = Damage()
  assert str(damage) == ''
  for time in (2, 3, 4):
    damage.note('a frame is not whole', time)
  damage.note('is truncated', 9)
  assert str(damage) == '3 times a frame is not whole, first at 2.00 s; is truncated at 9.00 s'
