"""Where the tests find data that lies beside a checkout and not in it.

`DLKD_SHARED` names the folder; without it, `shared` beside the checkout is tried. It holds packs of real annotations
and videos. A test that needs them is skipped, with a reason, where they are absent. Golden numbers are part of the
checkout.
"""

import os
import pathlib

import pytest

_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def shared(*parts: str) -> pathlib.Path:
  """Returns a path below the shared folder, or skips the test that asked for it."""
  root = pathlib.Path(os.environ.get('DLKD_SHARED') or _REPOSITORY.parent / 'shared')
  path = root.joinpath(*parts)
  if not path.exists():
    pytest.skip(f'{path} is absent; set DLKD_SHARED to the folder that holds {os.path.join(*parts)}')
  return path


def golden(name: str) -> pathlib.Path:
  """Returns the path of one file of golden numbers, which every checkout holds."""
  return _REPOSITORY / 'tests' / 'golden' / name


def pack(name: str) -> pathlib.Path:
  """Returns the root under which the feature pack of a collection lies (`<root>/<collection>/…`)."""
  return shared('packs', name).parent


def repository() -> pathlib.Path:
  """Returns the root of the checkout."""
  return _REPOSITORY
