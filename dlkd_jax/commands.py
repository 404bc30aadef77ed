"""The commands of the program `dlkd`, and how they are written where it was called in another way."""

from __future__ import annotations

import re

# Command → the module that it is, with what that is given first, and what it does.
SEARCHING = {
  'add': ('dlkd_jax.add', 'puts folders of films into an index, and keeps it in step with them'),
  'search': ('dlkd_jax.search', 'finds films, and when in them, by a sentence'),
  'serve': ('dlkd_jax.serve', 'a page to search on, and to watch what is found'),
  'info': ('dlkd_jax.index info', 'what an index holds'),
  'remove': ('dlkd_jax.index remove', 'takes films out of an index'),
  'tune': ('dlkd_jax.index tune', 'weighs the student and the teacher of an index by captions'),
}
TRAINING = {
  'extract': ('dlkd_jax.extract', 'films and captions into a data set'),
  'build': ('tfds_builders.build', 'the feature packs of the paper, or a made-up set, into a data set'),
  'train': ('dlkd_jax.main', 'trains a student'),
  'eval': ('dlkd_jax.main --mode=eval', 'evaluates a trained student'),
  'report': ('dlkd_jax.report', 'an evaluation to publish, of one training or several'),
  'sweep': ('dlkd_jax.sweep', 'trains the ablations of a recipe, and makes one table of them'),
  'index': ('dlkd_jax.index', 'a trained student and its data set into an index'),
  'demo': ('dlkd_jax.demo', 'all of it on rendered films, from nothing to a table'),
}
COMMANDS = SEARCHING | TRAINING

# What the program was called as, `dlkd` or `python -m dlkd_jax`; None where a module of a command was started itself.
program: str | None = None


def as_called(text: str) -> str:
  """Returns a text with its `dlkd COMMAND` as one writes it who called the program as it was called now."""

  def written(found: re.Match[str]) -> str:
    return f'{program} {found[1]}' if program else f'python -m {COMMANDS[found[1]][0]}'

  return re.sub(rf'\bdlkd ({"|".join(COMMANDS)})\b', written, text)
