"""The flags that a search has, whether it is asked on the command line or on the page."""

from __future__ import annotations

from typing import Any

from absl import flags

from dlkd_jax.errors import UserError

flags.disclaim_key_flags()  # They are of the command that asks for them.


class Scoring:
  """Flags of how a search scores; made once, where a command defines its flags."""

  def __init__(self):
    """Defines them."""
    self._threshold = flags.DEFINE_float('threshold', None, 'Least score of a video that is found.')
    self._weights = flags.DEFINE_string(
      'weights', None, "Weights of the scorers, as BRANCH=0.7,teacher=0.3; default: the index's."
    )
    self._zero_shot = flags.DEFINE_bool('zero_shot', False, 'The teacher alone scores: --weights=teacher=1.')
    self._exact = flags.DEFINE_bool('exact', False, 'Score every frame; else large indexes are searched in two stages.')
    self._two_stage = flags.DEFINE_bool('two_stage', False, 'Search in two stages also where that costs more.')
    self.clip = flags.DEFINE_string(
      'clip', None, "The index's CLIP, a folder or hf:OWNER/NAME, where it is not where the index says."
    )
    flags.mark_bool_flags_as_mutual_exclusive(['exact', 'two_stage'])

  def options(self) -> dict[str, Any]:
    """Returns `threshold`, `weights` and `exact`, as `Gallery.search` takes them.

    Raises:
      UserError: flags contradict each other, or the weights are not written so.
    """
    from dlkd_jax.gallery import weights  # Here, so that --help answers at once.

    if self._zero_shot.value and self._weights.value:
      raise UserError('--zero_shot and --weights contradict each other; give one of them')
    chosen = weights.parse(self._weights.value) if self._weights.value else None
    return {
      'threshold': self._threshold.value,
      'weights': {'teacher': 1.0} if self._zero_shot.value else chosen,
      'exact': True if self._exact.value else False if self._two_stage.value else None,
    }
