"""The search by plain numpy: every frame of every video in float32, nothing clever."""

import jax
import numpy as np

from dlkd_jax.data import sources
from dlkd_jax.gallery.runs import read_config
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import read_best


def _unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class Oracle:
  """All vectors of a world, one video and one sentence at a time, through the student itself."""

  def __init__(self, world, splits=('test', 'gallery')):
    config, (params, _) = read_config(world.run), read_best(world.run)
    student = recipe.make_student(config)
    encode = lambda rows, mask, method: student.apply({'params': params}, rows, mask, method=method)  # noqa: E731
    self._encode = jax.jit(encode, static_argnames='method')
    self._most, self._words = config.data.max_frames, config.data.max_words
    self.frames, self.times = {}, {}
    for split in splits:
      source = sources.open_source(str(world.data), 'custom_prvr', split)
      for number in range(len(source)):
        record = source[number]
        video = sources.text(record['video_id'])
        self.frames[video] = self._video(record)
        self.times[video] = record['times']

  def _apply(self, rows, method):
    rows = np.asarray(rows, np.float32)
    rows = rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + 1e-5)
    mask = np.ones((1, len(rows)), bool)
    found = self._encode(rows[None], mask, method)
    return {name: np.asarray(array)[0] for name, array in found.items()}

  def _video(self, record):
    rows = record['student_frames']
    n, most = len(rows), self._most
    parts = {name: np.zeros((n, 0)) for name in ('inheritance', 'exploration')}
    if n <= most:
      parts = self._apply(rows, 'encode_frames')
    else:
      # Every frame from the window whose middle is nearest.
      count = 1 + -(-(n - most) // (most // 2))
      starts = [round(float(s)) for s in np.linspace(0, n - most, count)]
      encoded = [self._apply(rows[s : s + most], 'encode_frames') for s in starts]
      chosen = [min(range(count), key=lambda w: (abs(i + 0.5 - starts[w] - most / 2), -w)) for i in range(n)]
      parts = {name: np.stack([encoded[w][name][i - starts[w]] for i, w in enumerate(chosen)]) for name in encoded[0]}
    return {name: _unit(array) for name, array in parts.items()} | {'teacher': _unit(record['teacher_frames'])}

  def query(self, tokens, sentence):
    vectors = self._apply(tokens[: self._words], 'encode_tokens')
    return {name: _unit(vector) for name, vector in vectors.items()} | {'teacher': _unit(sentence)}

  def curves(self, query, video):
    return {name: rows @ query[name] for name, rows in self.frames[video].items() if name in query}

  def scores(self, query, weights):
    """Returns [(fused score, video)], best first."""
    found = []
    for video in self.frames:
      curves = self.curves(query, video)
      found.append((sum(weight * curves[name].max() for name, weight in weights.items()), video))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


WEIGHTS = {'inheritance': 0.7, 'exploration': 0.3}
