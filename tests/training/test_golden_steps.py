"""Agreement of the whole training step with golden numbers of the authors' program."""

import functools

import flax.traverse_util
import jax
import numpy as np
import optax
import pytest

from dlkd_jax.data.batch import Batch
from dlkd_jax.layout import padded_layout
from dlkd_jax.models.release_parameters import from_release, to_release
from dlkd_jax.similarity.max_over_frames import max_frame_similarity
from dlkd_jax.training.objective import compute_objective
from dlkd_jax.training.optimizer import bert_adam, warmup_linear
from tests import options as made
from tests.losses.test_golden_losses import FILES, TERMS
from tests.paths import golden


@pytest.fixture(autouse=True)
def exact():
  """On accelerators, products of float32 are less than that by default; the train step asks for all of it itself."""
  with jax.default_matmul_precision('highest'):
    yield


def section(file, prefix):
  return {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}


class Case:
  """One golden file: the student, its parameters, the batch and the objective as a function of the parameters."""

  def __init__(self, name, form):
    self.file = np.load(golden(f'{name}.npz'))
    self.params = from_release(section(self.file, 'param/'))
    arrays = section(self.file, 'batch/')
    positions = self.params['inheritance']
    self.student = made.student(
      hidden=32,
      max_frames=positions['frame_encoder']['position_embedding'].shape[0],
      max_words=positions['token_encoder']['position_embedding'].shape[0],
      branches=tuple(sorted(self.params, reverse=True)),
    )
    videos, captions = len(arrays['student_videos']), len(arrays['text_labels'])
    self.batch = Batch(
      student_frames=arrays['student_videos'],
      student_tokens=arrays['student_text'],
      frame_layout=padded_layout(arrays['student_videos_mask'] > 0),
      token_layout=padded_layout(arrays['student_text_mask'] > 0),
      labels=arrays['text_labels'].astype(np.int32),
      video_mask=np.ones(videos, bool),
      caption_mask=np.ones(captions, bool),
      video_ordinals=np.arange(videos, dtype=np.int32),
      caption_ordinals=np.arange(captions, dtype=np.int32),
      teacher_frames=arrays['teacher_videos'],
      teacher_text=arrays['teacher_text'][:, 0],
    ).check()
    loss = made.terms(hard_pool=1, soft_labels=name != 'step_hard', branches=self.student.branches)
    options = made.objective_options(loss, form=form)
    coefficients = made.coefficients(0.8, 0.8, FILES[name])

    @jax.jit
    def objective(params):
      return compute_objective(
        params,
        self.student,
        self.batch,
        coefficients=coefficients,
        key=jax.random.key(0),
        options=options,
        deterministic=True,
      )

    self.graded = jax.jit(jax.value_and_grad(objective, has_aux=True))

  @functools.cached_property
  def first(self):
    """Loss, parts and gradients at the parameters of the file."""
    return self.graded(self.params)


# The kernel is interpreted here, which is slow.
CASES = [(name, 'blocked') for name in FILES] + [
  ('step_soft', 'plain'),
  pytest.param(('step_soft', 'pallas'), marks=pytest.mark.slow),
]


@pytest.fixture(params=CASES, ids=str, scope='module')
def case(request):
  return Case(*request.param)


def relative(actual, expected):
  return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def test_encodings_and_similarities(case):
  batch, file = case.batch, case.file

  @jax.jit
  def encode(params, batch):
    frames, queries = case.student.apply(
      {'params': params}, batch.student_frames, batch.frame_layout, batch.student_tokens, batch.token_layout
    )
    similarities = {
      name: max_frame_similarity(queries[name][:, 0], frames[name], batch.frame_layout) for name in frames
    }
    teacher = max_frame_similarity(batch.teacher_text, batch.teacher_frames, batch.frame_layout)
    return frames, queries, similarities, teacher

  frames, queries, similarities, teacher = encode(case.params, batch)
  assert set(frames) == set(case.params)
  for name in frames:
    real = np.asarray(batch.frame_layout.mask)
    np.testing.assert_allclose(frames[name][real], file[f'enc/{name}_video'][real], rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(queries[name], file[f'enc/{name}_query'][:, None], rtol=1e-4, atol=2e-6)
    similarity = similarities[name]
    np.testing.assert_allclose(similarity.cosine, file[f'sim/{name}_cos'], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(similarity.dot, file[f'sim/{name}_dot'], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(teacher.cosine, file['sim/teacher_cos'], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(teacher.dot, file['sim/teacher_dot'], rtol=1e-5, atol=1e-6)


def test_every_loss_part(case):
  (_, parts), _ = case.first
  for theirs, ours in TERMS.items():
    expected = case.file[f'loss/{theirs}']
    if ours not in parts:
      assert expected == 0.0 and len(case.student.branches) == 1
      continue
    np.testing.assert_allclose(parts[ours], expected, rtol=1e-5, err_msg=ours)


def test_every_gradient_tensor(case):
  gradients = to_release(case.first[1])
  expected = section(case.file, 'grad/')
  assert set(gradients) == set(expected)
  for name, gradient in gradients.items():
    # The key bias has no influence on a softmax over keys: its gradient is rounding, in both programs.
    if name.endswith('self.key.bias'):
      assert np.abs(gradient - expected[name]).max() < 1e-6
      continue
    assert relative(gradient, expected[name]) < 1e-4, name


def test_five_optimizer_steps(case):
  optimizer = bert_adam(warmup_linear(3e-4, 200, 0.01), 0.01, 1.0)

  @jax.jit
  def update(params, state, gradients):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  params, state, losses = case.params, optimizer.init(case.params), []
  for _ in range(5):
    (loss, _), gradients = case.graded(params)
    params, state = update(params, state, gradients)
    losses.append(loss)
  np.testing.assert_allclose(losses, case.file['traj/loss'], rtol=1e-5)
  params = to_release(params)
  for name, expected in section(case.file, 'traj/param/').items():
    np.testing.assert_allclose(params[name], expected, atol=1e-5, rtol=1e-5, err_msg=name)


def test_parameters_convert_there_and_back(case):
  arrays = section(case.file, 'param/')
  back = to_release(from_release(arrays))
  assert set(back) == set(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array)
  leaves = flax.traverse_util.flatten_dict(case.params)
  assert len(leaves) == len(arrays)
