"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import pathlib
from typing import Any


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file under a temporary name and renames it, replacing what was there."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text, encoding='utf-8')
  temporary.replace(path)


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes indented JSON as `write_text` does."""
  write_text(path, json.dumps(content, indent=2) + '\n')
