"""With what the films of an index are encoded: a model that is named, those of a training, or those of the index."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from dlkd_jax.errors import UserError
from dlkd_jax.gallery.encoding import TEACHER
from dlkd_jax.models import hub
from dlkd_jax.video import backbones, reading
from dlkd_jax.video.extraction_models import Models

# English sentences; its main branch has the weights as safetensors, 605 MB.
DEFAULT_CLIP = 'hf:laion/CLIP-ViT-B-32-laion2B-s34B-b79K'


_MODELS = ('student', 'tokens', TEACHER)
_OTHERWISE = 'use `dlkd extract` and `dlkd index add`, which name each model'


@dataclasses.dataclass(frozen=True)
class FilmEncoding:
  """Models that see films, opened when the first film is to be read.

  Attributes:
    options: 'rate' (pictures a second), 'max_side' (pixels, None: as they are), and 'student', 'tokens' and 'teacher' →
      fingerprint, None where there is none.
    where: 'student', 'tokens' and 'teacher' → place of the model's files, of those that are known.
    sizes: Dv, Dq and Dt, None where there are none.
  """

  options: Mapping[str, Any]
  where: Mapping[str, str]
  sizes: Mapping[str, int | None]

  @property
  def how(self) -> reading.How:
    """How films are decoded."""
    return reading.How(self.options['rate'], self.options['max_side'] or None)

  @functools.cached_property
  def models(self) -> Models:
    """The models; opened once.

    Raises:
      UserError: one is not where it was, or is another than it was.
    """
    models = Models(self._spec('student'), None, self._spec(TEACHER))
    for name, found in models.fingerprints().items():
      if name != 'tokens' and found != self.options.get(name):
        raise UserError(
          f'{self.where.get(name)} holds {found!r}, and the frames are made by {self.options.get(name)!r}; put the '
          'right one there, or say with --clip where it is'
        )
    return models

  def without_models(self) -> FilmEncoding:
    """Returns the same with its models not opened, for another process."""
    return dataclasses.replace(self)

  def _spec(self, name: str) -> str | None:
    """Returns what opens a model again."""
    if (fingerprint := self.options.get(name)) is None:
      return None
    try:
      spec = backbones.spec_again(fingerprint, self.where.get(name), pictures=True)
    except LookupError as error:
      raise UserError(f'the frames of this index are made by {fingerprint!r}: {error}; {_OTHERWISE}') from error
    if spec is None:
      raise UserError(
        f'the frames of this index are made by {fingerprint!r}, and it is not known where that is; say so '
        f'with --clip, or {_OTHERWISE}'
      )
    return spec


def of_clip(clip: str, rate: float) -> FilmEncoding:
  """Returns the encoding by a model of pictures and sentences alone.

  Args:
    clip: its place, as `hub.find` has it.
    rate: pictures a second.

  Raises:
    UserError: it cannot be had.
  """
  models = Models(None, None, f'clip:{clip}')
  options = {'rate': rate, 'max_side': reading.MAX_SIDE, **models.fingerprints()}
  made = FilmEncoding(options, models.where(), models.sizes())
  made.__dict__['models'] = models  # It is open.
  return made


def of_data_set(
  options: Mapping[str, Any], where: Mapping[str, str], sizes: Mapping[str, Any], clip: str | None
) -> FilmEncoding:
  """Returns the encoding that a data set was extracted with, so that a student sees what it was trained on.

  Args:
    options, where, sizes: of the data set, as of a `collection.Collection`.
    clip: where its model of pictures and sentences is now; None: where it was.

  Raises:
    UserError: it was not extracted from films.
  """
  if not isinstance(options.get('student'), str) or 'rate' not in options:
    raise UserError(
      'the data set that the student was trained on came as features, and what made them is not known: films cannot be '
      'encoded for it. Leave --workdir out: a CLIP alone scores then'
    )
  kept = {'rate': float(options['rate']), 'max_side': options.get('max_side')}
  kept |= {name: options.get(name) for name in _MODELS}
  return FilmEncoding(kept, _moved(where, kept, _MODELS, clip), dict(sizes))


def of_index(manifest: Mapping[str, Any], clip: str | None, rate: float | None) -> FilmEncoding:
  """Returns the encoding that the films of an index have.

  Args:
    manifest: of it.
    clip: where its model of pictures and sentences is now; None: where it was.
    rate: what is asked for; None: whatever it is.

  Raises:
    UserError: another model or rate is asked for than it was made with.
  """
  settings, features = manifest['settings'], manifest['features']
  there = settings.get('rate') or reading.How.rate
  if rate is not None and rate != there:
    raise UserError(
      f'the index has {there:g} pictures a second, and --rate={rate:g} is asked for; leave it out, or make another '
      '--index'
    )
  options = {'rate': there, 'max_side': settings.get('max_side', reading.MAX_SIDE)}
  used = (TEACHER,) if manifest['student'] is None else _MODELS
  options |= {name: features.get(name) if name in used else None for name in _MODELS}
  notes = {**manifest.get('text', {}), **manifest.get('pictures', {})}
  where = {name: about['where'] for name, about in notes.items() if about and about.get('where')}
  where = _moved(where, options, used, clip)
  made = FilmEncoding(options, where, {name: features.get(name) for name in ('Dv', 'Dq', 'Dt')})
  if clip is not None:
    _ = made.models  # So that another one is refused at once.
  return made


def _moved(
  where: Mapping[str, str], options: Mapping[str, Any], used: Sequence[str], clip: str | None
) -> dict[str, str]:
  """Returns places of models, that of the model of pictures and sentences where it is now."""
  if clip is None:
    return dict(where)
  now = hub.find(clip).where
  return {**where, **{name: now for name in used if options[name] and backbones.is_joint(options[name])}}
