"""Conversion between the parameter names of the authors' release and ours: numpy arrays in, pytree out, and back.

The release keeps torch's layout: `<module>.weight` of a linear layer is `[out, in]`; ours is `[in, out]`. Its
exploration branch carries the prefix `exp_`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from dlkd_jax.errors import UserError

BRANCHES = 'inheritance', 'exploration'
_PREFIXES = dict(zip(BRANCHES, ('', 'exp_'), strict=True))
_DENSE = (('weight', 'kernel', True), ('bias', 'bias', False))
_NORM = (('weight', 'scale', False), ('bias', 'bias', False))
# Module of the release → module of ours, in one encoder.
_ENCODER_MODULES = (
  ('input_proj.LayerNorm', ('input_norm',), _NORM),
  ('input_proj.net.1', ('input_projection',), _DENSE),
  ('pos_embed.LayerNorm', ('position_norm',), _NORM),
  ('encoder.self.query', ('attention', 'query'), _DENSE),
  ('encoder.self.key', ('attention', 'key'), _DENSE),
  ('encoder.self.value', ('attention', 'value'), _DENSE),
  ('encoder.output.dense', ('attention', 'output'), _DENSE),
  ('encoder.output.LayerNorm', ('attention', 'norm'), _NORM),
)
_HEADS = (
  ('modular_vector_mapping.weight', ('token_pooling', 'kernel'), True),
  ('out_mapping_linear.weight', ('frame_projection', 'kernel'), True),
  ('out_mapping_linear.bias', ('frame_projection', 'bias'), False),
)


def _branch_names(branch: str) -> Iterator[tuple[str, tuple[str, ...], bool]]:
  """Yields (name in the release, path in our pytree, whether to transpose) for one branch."""
  prefix = _PREFIXES[branch]
  for theirs, ours in (('visual_', 'frame_encoder'), ('query_', 'token_encoder')):
    yield f'{prefix}{theirs}pos_embed.position_embeddings.weight', (branch, ours, 'position_embedding'), False
    for module, path, leaves in _ENCODER_MODULES:
      for their_leaf, our_leaf, transposed in leaves:
        name = f'{prefix}{theirs}{module}.{their_leaf}'
        yield name, (branch, ours, *path, our_leaf), transposed
  for name, path, transposed in _HEADS:
    yield prefix + name, (branch, *path), transposed


def from_release(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Turns arrays under the release's names into the student's pytree of float32 numpy arrays.

  A file without any `exp_` parameter becomes a single-branch student.

  Raises:
    UserError: names are missing or unknown; the message lists them.
  """
  dual = any(name.startswith('exp_') for name in arrays)
  names = [entry for branch in (BRANCHES if dual else BRANCHES[:1]) for entry in _branch_names(branch)]
  expected = {name for name, _, _ in names}
  if odd := expected ^ set(arrays):
    missing, unknown = sorted(odd & expected), sorted(odd - expected)
    raise UserError(
      f'these are not the parameters of a {"dual" if dual else "single"}-branch DL-DKD++ student: '
      f'missing {missing or "none"}, unknown {unknown or "none"}. Pass the "model" state dict of the release, whole.'
    )
  flat = {path: _turned(arrays[name], transposed).astype(np.float32) for name, path, transposed in names}
  return flax.traverse_util.unflatten_dict(flat)


def _turned(array: Any, transposed: bool) -> np.ndarray:
  array = np.asarray(array)
  return array.T.copy() if transposed else array


def to_release(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Turns the student's pytree into numpy arrays under the release's names; the inverse of `from_release`.

  Raises:
    UserError: the pytree holds parameters that the release has no name for, or lacks some.
  """
  flat = flax.traverse_util.flatten_dict(dict(params))
  names = [entry for branch in params if branch in _PREFIXES for entry in _branch_names(branch)]
  odd = sorted('/'.join(path) for path in set(flat) ^ {path for _, path, _ in names})
  if odd:
    raise UserError(f'missing or unknown parameters: {odd}; expected the pytree of a Student, whole.')
  return {name: _turned(flat[path], transposed) for name, path, transposed in names}
