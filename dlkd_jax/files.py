"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file under a temporary name and renames it, replacing what was there.

  It is on the disk, not only on its way there, when this returns.

  Raises:
    OSError: it cannot be written; what was there is unchanged, and the temporary file is gone.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  try:
    with temporary.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  except OSError as error:
    error.filename = error.filename or str(path)  # A failed write does not say of what.
    temporary.unlink(missing_ok=True)
    raise


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes indented JSON as `write_text` does."""
  write_text(path, json.dumps(content, indent=2) + '\n')
