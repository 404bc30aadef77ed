"""Small data sets and runs to make indexes of: records without films, and a student that was never trained."""

from __future__ import annotations

import json
import pathlib
import types

import jax
import numpy as np

from configs import custom
from dlkd_jax.models import clip_files
from dlkd_jax.models.students import init_parameters
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from dlkd_jax.video import backbones, work_folder
from dlkd_jax.video.corpus import Caption, Job
from tests.models import clips
from tfds_builders import options
from tfds_builders.custom_prvr import custom_prvr_dataset_builder

FRAME, TOKEN = 6, 8  # Feature widths; the teacher's is that of the small CLIP.
FRAMES, WORDS, HIDDEN = 12, 5, 16
LENGTHS = (1, 5, 12, 13, 20, 30)  # Few, for each is a compilation where nothing is padded.


def clip(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """Writes a small random CLIP."""
  clip_files.save_clip(clips.tiny_model(seed), folder)
  return folder


def data_set(
  data_dir: pathlib.Path,
  clip_dir: pathlib.Path | None,
  videos: int,
  split: str = 'test',
  first: int = 0,
  seed: int = 0,
  student: str = 'fake:1',
) -> pathlib.Path:
  """Builds, or adds to, `custom_prvr` with random frames, 1 to 30 of them, and two captions a video.

  A video's content follows from its number and the seed alone. Its name is `v<number>.mp4`, in the gallery it has no
  captions.

  Args:
    data_dir: folder of data sets.
    clip_dir: the teacher's; None: a set without teacher.
    videos: how many.
    split: that they go to.
    first: number of the first.
    seed: of their content.
    student: what made the frames' features is said to be.
  """
  words = backbones.open_text_backbone(f'words:{TOKEN}')
  teacher = backbones.open_text_backbone(f'clip:{clip_dir}') if clip_dir else None
  width = teacher.sentence_features if teacher else None
  made = {'rate': 1.0, 'max_side': None, 'student': student, 'tokens': words.fingerprint}
  made['teacher'] = teacher.fingerprint if teacher else None
  folder = work_folder.WorkFolder(data_dir / 'custom_prvr_extracted')
  folder.begin(made, {'Dv': FRAME, 'Dq': TOKEN, 'Dt': width}, None)
  for number in range(first, first + videos):
    rng = np.random.default_rng([seed, number])
    n = int(rng.choice(LENGTHS))
    said = () if split == 'gallery' else (f'a red square {number}', f'{number} moves left')
    job = Job(
      f'v{number:03d}.mp4', pathlib.Path('absent'), split, tuple(Caption(s, 0.0, 1.0 + k) for k, s in enumerate(said))
    )
    tokens = words.tokens(said)
    arrays = {
      'student_frames': rng.normal(size=(n, FRAME)).astype(np.float32),
      'times': np.arange(n, dtype=np.float32),
      'student_tokens': np.concatenate([*tokens, np.zeros((0, TOKEN), np.float32)]),
      'token_lengths': np.array([len(rows) for rows in tokens], np.int32),
    }
    if teacher:
      arrays['teacher_frames'] = rng.normal(size=(n, width)).astype(np.float32)
      arrays['teacher_text'] = teacher.sentences(said)
    arrays['moments'] = np.array([(c.start, c.end) for c in job.captions], np.float32).reshape(-1, 2)
    # As of a file that was looked at.
    seen = types.SimpleNamespace(digest=f'{seed}-{number}-{split}')
    folder.write(job, seen, arrays, {'duration': str(float(n)), 'damage': ''})
  builder = custom_prvr_dataset_builder.Builder(
    data_dir=str(data_dir), options=options.BuildOptions(dtype='float32'), extracted=folder.path
  )
  builder.download_and_prepare()
  return data_dir


def config(dual: bool = True, taught: int = 0):
  """The configuration of a small student; of an anchored one that sees so many features of the teacher."""
  made = custom.get_config('' if taught else 'anchored=false' if dual else 'single')
  with made.unlocked():
    made.model.hidden, made.model.heads = HIDDEN, 2
    made.data.max_frames, made.data.frame_sizes = FRAMES, (4, 8, 12)
    made.data.max_words, made.data.word_sizes = WORDS, (3, 5)
    if taught:
      made.model.options.update(residual='linear', teacher_features=taught)
      made.evaluation.weights = (0.1, 0.2, 0.3, 0.4)
  return made


def run(
  workdir: pathlib.Path, seed: int = 0, dual: bool = True, data_dir: pathlib.Path | None = None, taught: int = 0
) -> pathlib.Path:
  """Writes the work directory of a run that was trained in `data_dir`: configuration, and random parameters."""
  made = config(dual, taught)
  with made.unlocked():
    made.data.data_dir = str(data_dir or 'nowhere')
  student = recipe.make_student(made)
  shapes = jax.eval_shape(lambda: init_parameters(student, jax.random.key(0), FRAME + taught, TOKEN + taught))
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda x: rng.normal(0.0, 0.3, x.shape).astype(np.float32), shapes)
  checkpoints = Checkpoints(workdir)
  checkpoints.save(7, {'params': params}, Progress({}, 1, 50.0, 1, 7))
  checkpoints.wait()
  (workdir / 'config.json').write_text(json.dumps(json.loads(made.to_json_best_effort())))
  return workdir
