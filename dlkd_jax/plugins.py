"""What a configuration names: something of ours by its name, or of any importable module as 'package.module:name'."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from dlkd_jax.errors import UserError


def find(spec: str, known: Mapping[str, Any], field: str) -> Any:
  """Returns what a specification names.

  Args:
    spec: a key of `known`, or 'package.module:name', which is imported.
    known: name → ours, or where it is, as 'package.module:name'.
    field: of the configuration that holds it, for messages.

  Raises:
    UserError: there is no such thing.
  """
  if not isinstance(spec := known.get(spec, spec), str):
    return spec
  module, colon, name = spec.partition(':')
  ours = f'{", ".join(known)} or ' if known else ''
  if not colon:
    raise UserError(f"{field} is {spec!r}, expected {ours}'package.module:name'.")
  try:
    return getattr(importlib.import_module(module), name)
  except (ModuleNotFoundError, AttributeError) as error:
    if isinstance(error, ModuleNotFoundError) and not f'{module}.'.startswith(f'{error.name}.'):
      raise  # The module is there, and lacks another one.
    raise UserError(
      f'{field} names {spec!r}, which cannot be imported ({error}); install its package, or run the command in its '
      'folder.'
    ) from error
