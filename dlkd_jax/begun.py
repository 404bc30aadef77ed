"""What a folder was begun with: noted once, compared ever after, and refused where something else is asked for."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dlkd_jax import files
from dlkd_jax.errors import UserError


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = '') -> list[str]:
  """Lists the fields in which two nested dictionaries differ, as lines `group.field: saved → current`."""
  lines = []
  for name in sorted({*saved, *current}):
    old, new, field = saved.get(name, '(absent)'), current.get(name, '(absent)'), f'{prefix}{name}'
    if isinstance(old, dict) and isinstance(new, dict):
      lines += differences(old, new, f'{field}.')
    elif old != new:
      lines.append(f'{field}: {old!r} → {new!r}')
  return lines


def given(options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns options without those that are None: one that is not written is one that was not there yet, or unused."""
  return {key: value for key, value in options.items() if value is not None}


def note(path: pathlib.Path, settings: Mapping[str, Any], grows: str | None = None) -> None:
  """Notes in a file of a work directory what that is begun with, or compares it with what is noted there.

  Args:
    path: of the file.
    settings: plain values.
    grows: a field that may be another one than before: what is made of it is added.

  Raises:
    UserError: the work directory was begun with other settings; the message lists the differences.
    OSError: it cannot be written.
  """
  current = {key: value for key, value in json.loads(json.dumps(settings)).items() if key != grows}
  if not path.exists():
    files.write_json(path, current)
    return
  try:
    saved = dict(json.loads(path.read_text(encoding='utf-8')))
    saved.pop(grows, None)
  except (ValueError, TypeError) as error:
    raise UserError(f'{path} is damaged ({error}); remove {path.parent}, or choose another --workdir') from error
  if lines := differences(saved, current):
    raise UserError(
      f'{path.parent} was begun with other settings (then → now): {"; ".join(lines)}. Remove it, or choose another '
      '--workdir'
    )
