"""Every loss term of the authors' program from its own similarities and encodings."""

import jax
import numpy as np
import pytest

from dlkd_jax.losses.total import BranchView, LossInputs, total_loss
from tests import options as made
from tests.losses.problems import make_pairs
from tests.paths import golden

FILES = {'step_soft': 1.0, 'step_hard': 0.95**7, 'step_soft_single_branch': 1.0}
TERMS = {
  'inher_trip': 'inheritance/triplet',
  'inher_nce': 'inheritance/nce',
  'explore_trip': 'exploration/triplet',
  'explore_nce': 'exploration/nce',
  'kl': 'inheritance/distillation',
  'total': 'total',
}


def own_curve(queries, frames, labels):
  """`[Q, L]` cosines of each caption with the frames of its own video."""
  own = frames[labels].astype(np.float64)
  products = np.einsum('qh,qlh->ql', queries.astype(np.float64), own)
  norms = np.linalg.norm(queries, axis=-1)[:, None] * np.maximum(np.linalg.norm(own, axis=-1), 1e-12)
  return (products / norms).astype(np.float32)


@pytest.mark.parametrize('name', FILES)
def test_every_term_from_the_golden_similarities(name):
  file = np.load(golden(f'{name}.npz'))
  labels = file['batch/text_labels'].astype(np.int32)
  videos = file['batch/student_videos'].shape[0]
  pairs = make_pairs(labels, np.ones(len(labels), bool), np.ones(videos, bool))
  own_mask, branches = file['batch/student_videos_mask'][labels] > 0, {}
  for branch in ('inheritance', 'exploration'):
    if f'sim/{branch}_cos' in file.files:
      cosine, dot = file[f'sim/{branch}_cos'], file[f'sim/{branch}_dot']
      curve = own_curve(file[f'enc/{branch}_query'], file[f'enc/{branch}_video'], labels)
      branches[branch] = BranchView(cosine, dot, cosine, dot, curve, own_mask)
  curve = own_curve(file['batch/teacher_text'][:, 0], file['batch/teacher_videos'], labels)
  teacher = BranchView(None, file['sim/teacher_dot'], None, file['sim/teacher_dot'], curve)
  assert len(branches) == (1 if 'single' in name else 2)

  key, coefficients = jax.random.key(0), made.coefficients(0.8, 0.8, FILES[name])
  terms = made.terms(hard_pool=1, soft_labels=name != 'step_hard')
  total = lambda key: total_loss(LossInputs(branches, teacher, pairs, pairs, coefficients, key), terms, key)  # noqa: E731
  _, parts = jax.jit(total)(key)
  for theirs, ours in TERMS.items():
    if ours in parts:
      np.testing.assert_allclose(parts[ours], file[f'loss/{theirs}'], rtol=1e-5, err_msg=ours)
    else:
      assert 'single' in name and file[f'loss/{theirs}'] == 0.0
