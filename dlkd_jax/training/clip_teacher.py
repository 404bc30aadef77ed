"""The image tower of a CLIP model as the teacher inside the train step."""

from __future__ import annotations

from typing import Any

import ml_collections

from dlkd_jax.errors import UserError
from dlkd_jax.models import clip_files, hub
from dlkd_jax.training.online_teacher import OnlineTeacher


def load_clip(spec: ml_collections.ConfigDict, dtype: Any) -> OnlineTeacher:
  """Reads the image tower of the CLIP or SigLIP at the place `spec.clip`; see `hub.find` and `clip_files.load_clip`.

  Raises:
    FileNotFoundError: there is no model.
    UserError: it is damaged, or does not say how pictures are prepared.
  """
  path = hub.find(spec.clip).path
  model = clip_files.load_clip(path)
  config, preprocess = model.config, model.preprocess
  if preprocess is None:
    raise UserError(f'{path}: does not say how pictures are prepared; add its preprocessor_config.json')
  tower = model.image_tower(dtype)
  return OnlineTeacher(
    name=str(path),
    encode=lambda params, pixels: tower.apply({'params': params}, pixels).features,
    params=model.params['image'],
    size=config.image.size,
    features=config.features,
    mean=preprocess.mean,
    std=preprocess.std,
    scale=preprocess.scale,
  )
