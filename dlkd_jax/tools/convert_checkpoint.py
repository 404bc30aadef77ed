"""Converts parameters from the names and layout of the authors' release to ours, and back.

A checkpoint of the release becomes a file that this program evaluates:

    python -m dlkd_jax.tools.convert_checkpoint model.ckpt student.safetensors
    dlkd eval --config=configs/tvr.py --workdir=runs/released --params=student.safetensors

Of a run (its best checkpoint) to such a file; and of either to the release's names, which PyTorch users load with
`model.load_state_dict(safetensors.torch.load_file('model.safetensors'))`:

    python -m dlkd_jax.tools.convert_checkpoint --workdir=runs/tvr student.safetensors
    python -m dlkd_jax.tools.convert_checkpoint --workdir=runs/tvr --to_release model.safetensors
    python -m dlkd_jax.tools.convert_checkpoint --to_release student.safetensors model.safetensors

A .ckpt needs PyTorch (`pip install 'dlkd_jax[torch]'`), nothing else does. It is a pickle, of which tensors and plain
values are read and nothing is executed. The number of attention heads cannot be seen from parameters, and a wrong one
loads without an error and gives wrong scores; a .ckpt, a run and our own files say it, other files do not. The release
has names for the paper's student alone: a run of another one (plus, anchored) becomes a file of ours, and nothing else.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import pickle
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from dlkd_jax import doors
from dlkd_jax.config_defaults import base
from dlkd_jax.errors import UserError
from dlkd_jax.file_kinds import whose_kind
from dlkd_jax.files import expand_any
from dlkd_jax.models.dldkd import DlDkdStudent
from dlkd_jax.models.parameter_files import read_arrays, read_metadata, save_arrays, write_parameters
from dlkd_jax.models.release_parameters import BRANCHES, from_release, to_release
from dlkd_jax.models.students import init_parameters

PAPER = 'dldkd'  # The name of the paper's student.


class Parameters(NamedTuple):
  """Parameters that were read (a pytree of numpy arrays), where from, and what else is known; epochs count from 0.

  `student` is `config.model.name`, `workdir` of the run that they are of.
  """

  name: str
  params: dict[str, Any]
  heads: int | None = None
  epoch: int | None = None
  student: str = PAPER
  workdir: pathlib.Path | None = None


def load_torch_checkpoint(path: pathlib.Path, expected: str = 'the .ckpt of the release') -> Any:
  """Reads a torch checkpoint without executing anything of it; an EasyDict in it becomes an OrderedDict.

  Args:
    path: the file.
    expected: what it should be, for messages.

  Raises:
    UserError: PyTorch is not installed; or the file is damaged, no checkpoint, or names a Python object that parameters
      do not need.
  """
  try:
    import torch
  except ModuleNotFoundError:
    raise UserError(f"{path} needs PyTorch; install it with `pip install 'dlkd_jax[torch]'`.") from None
  # A stand-in by name, so that easydict is not imported; torch fills no subclass of dict but this one.
  stand_in = (collections.OrderedDict, 'easydict.EasyDict')
  try:
    with torch.serialization.safe_globals([stand_in]):
      return torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # Damaged bytes end in nearly any exception of zip, pickle and torch.
    refused = re.search(r'GLOBAL (\S+)', str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if refused:
      raise UserError(
        f'{path} names the Python object {refused[1]}; using it could run code, so the file is refused. Expected '
        f'tensors, numbers, texts and easydict.EasyDict only; ask its authors for a file of nothing else.'
      ) from error
    reason = re.search(r'WeightsUnpickler error: (.*)', str(error)) or re.search('(.*)', str(error))
    # Torch's own files are zip archives.
    reason = whose_kind(path, f'{type(error).__name__}: {reason[1]}', 'zip archive')
    raise UserError(
      f'{path} is not a whole torch checkpoint ({reason}); expected {expected}. Download or copy it again and compare '
      'its size.'
    ) from error


def parse_release(content: Any, name: str) -> Parameters:
  """Takes the content of a checkpoint of the release apart.

  Args:
    content: `{'model': {name: tensor or array}, 'model_cfg': …, 'epoch': int}`; only the first is needed.
    name: of the file, for messages.

  Raises:
    ValueError: "model" is missing, or it does not hold the parameters of a student.
  """
  if not isinstance(content, Mapping) or not isinstance(content.get('model'), Mapping):
    found = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
    raise UserError(f'{name} has no "model" with a state dict: found {found}, expected {{"model": …, "epoch": …}}.')
  model = {str(key): value for key, value in content['model'].items()}
  odd = [key for key, value in model.items() if not hasattr(value, 'shape')]
  if odd:
    raise UserError(f'{name}: {odd[:5]} in "model" are no tensors; expected the state dict alone.')
  if all(key.startswith('module.') for key in model):  # torch.nn.DataParallel adds it.
    model = {key.removeprefix('module.'): value for key, value in model.items()}
  # numpy has no bfloat16, so tensors become float32 before they become arrays.
  arrays = {key: x.detach().float().numpy() if hasattr(x, 'detach') else x for key, x in model.items()}
  settings = content.get('model_cfg')
  heads = settings.get('n_heads') if isinstance(settings, Mapping) else None
  return Parameters(name, from_release(arrays), *(x if type(x) is int else None for x in (heads, content.get('epoch'))))


def read_file(path: pathlib.Path, ours: bool) -> Parameters:
  """Reads a .ckpt of the release, or safetensors under the release's names or, where `ours`, under ours.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it does not hold what is expected, or is a .ckpt and PyTorch is not installed.
  """
  if not path.is_file():
    raise FileNotFoundError(f'there is no file {path}.')
  if path.suffix != '.safetensors' and not ours:
    return parse_release(load_torch_checkpoint(path), str(path))
  said = read_metadata(path)  # Checks first that the file is whole.
  heads = said.get('heads')
  arrays = read_arrays(path)
  if ours != any('/' in name for name in arrays):
    hint = 'not ours; leave --to_release out' if ours else 'ours already; evaluate it, or convert it with --to_release'
    raise UserError(f'the parameter names in {path} are {hint}.')
  if ours:
    params = flax.traverse_util.unflatten_dict(arrays, sep='/')
    return Parameters(str(path), params, int(heads) if heads else None, student=said.get('student', PAPER))
  return parse_release({'model': arrays}, str(path))


def read_best_checkpoint(workdir: pathlib.Path) -> Parameters:
  """Reads the best checkpoint of a run, or the newest where none is rated; needs no data set.

  Raises:
    FileNotFoundError: there is no checkpoint.
  """
  from dlkd_jax.training.checkpoints import read_best  # Here, since it takes seconds.

  params, step = read_best(workdir)
  model = json.loads((workdir / 'config.json').read_text(encoding='utf-8'))['model']
  name = f'checkpoint of step {step} in {workdir}'
  return Parameters(name, jax.device_get(params), model['heads'], student=model.get('name', PAPER), workdir=workdir)


def student_sizes(params: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the sizes of a student off its parameters: hidden, max_frames, max_words, branches, Dv and Dq.

  Raises:
    ValueError: shapes do not fit together, or values are not finite; the message lists the parameters.
  """
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  shapes = {name: np.shape(x) for name, x in flat.items()}
  # Parameters have no order; the release's first.
  branches = (*(name for name in BRANCHES if name in params), *sorted({*params} - {*BRANCHES}))
  frames, tokens = (f'{"".join(branches[:1])}/{encoder}/' for encoder in ('frame_encoder', 'token_encoder'))
  try:
    (max_frames, hidden), (max_words, _) = (shapes[f'{x}position_embedding'] for x in (frames, tokens))
    (dv,), (dq,) = (shapes[f'{x}input_norm/scale'] for x in (frames, tokens))
  except (KeyError, ValueError) as error:
    raise UserError(f'these are not the parameters of a student: {error}.') from error
  sizes = {'hidden': hidden, 'max_frames': max_frames, 'max_words': max_words, 'branches': branches}
  student = DlDkdStudent(heads=1, input_dropout=0.0, dropout=0.0, dtype=np.float32, **sizes)  # Heads change no shape.
  like = jax.eval_shape(lambda: init_parameters(student, jax.random.key(0), dv, dq))
  expected = {name: x.shape for name, x in flax.traverse_util.flatten_dict(like, sep='/').items()}
  pairs = [(name, shapes.get(name), expected.get(name)) for name in sorted({*shapes, *expected})]
  odd = [f'{name}: found {found}, expected {fitting}' for name, found, fitting in pairs if found != fitting]
  odd += [f'{name}: not all values are finite' for name, x in flat.items() if not np.isfinite(x).all()]
  if odd:
    raise UserError(
      f'these parameters do not fit a student of hidden size {hidden} (all branches have the same), Dv {dv} and '
      f'Dq {dq}:\n  ' + '\n  '.join(odd)
    )
  return sizes | {'Dv': dv, 'Dq': dq}


def overrides(sizes: Mapping[str, Any], heads: int | None) -> list[str]:
  """Lists the flags that the recipes need to evaluate such parameters; none where they have these sizes."""
  recipe = base('')
  wanted = {
    ('model', name): x for name, x in (('hidden', sizes['hidden']), ('branches', sizes['branches']), ('heads', heads))
  }
  if sizes['branches'] != recipe.model.branches:
    wanted['evaluation', 'weights'] = (1.0 / len(sizes['branches']),) * len(sizes['branches'])
    wanted['model', 'distilled'] = sizes['branches'][:1]
  for name, padded in (('max_frames', 'frame_sizes'), ('max_words', 'word_sizes')):
    size = sizes[name]
    # The list of sizes that inputs are padded to ends at the limit.
    wanted |= {('data', name): size, ('data', padded): (*(x for x in recipe.data[padded] if x < size), size)}
  changed = {key: x for key, x in wanted.items() if x is not None and x != recipe[key[0]][key[1]]}
  return [f'--config.{group}.{name}={x}'.replace(' ', '') for (group, name), x in changed.items()]


def convert(source: Parameters, target: pathlib.Path, release: bool) -> None:
  """Writes the parameters and prints what they are and how to use them; the file appears only when it is whole.

  Raises:
    UserError: they are not those of the paper's student, as a file under the release's names needs.
  """
  if source.student != PAPER:
    if release:
      raise UserError(
        f"{source.name} is of the student {source.student!r}, and the release has names for the paper's alone "
        f'(model.name {PAPER!r}); leave --to_release out for a file that this program reads.'
      )
    write_parameters(source.params, target, source.heads, source.student)
    command = ['dlkd', 'eval', f'--workdir={source.workdir}', f'--params={target}']
    print(f'wrote {target}, of the student {source.student}; evaluate it beside its run by\n  {shlex.join(command)}')
    return
  sizes = student_sizes(source.params)
  heads = source.heads or 'unknown, parameters do not show it'
  epoch = '' if source.epoch is None else f'epoch {source.epoch} (from 0), '
  branches = ' and '.join(sizes['branches']) + ' only' * (len(sizes['branches']) == 1)
  print(f'{source.name}: {epoch}branches: {branches}; hidden size {sizes["hidden"]}, attention heads: {heads}')
  print(f'  frames {sizes["max_frames"]} of Dv {sizes["Dv"]}, words {sizes["max_words"]} of Dq {sizes["Dq"]}')
  target.parent.mkdir(parents=True, exist_ok=True)
  if release:
    save_arrays(to_release(source.params), target, {'format': 'pt'})
    print(f"wrote {target} under the release's names; load it with n_heads = {source.heads or 'that of its training'}")
    return
  recipe = 'configs/activitynet.py' if sizes['Dv'] == 1024 else 'configs/tvr.py'
  command = ['dlkd', 'eval', f'--config={recipe}', '--workdir=runs/released']
  command += [f'--params={target}', *overrides(sizes, source.heads)]
  write_parameters(source.params, target, source.heads)
  print(f'wrote {target}; evaluate it, with the recipe of your data set, by\n  {shlex.join(command)}')
  if source.heads is None:
    print("  This takes the recipe's heads; a wrong number gives wrong scores without an error: --config.model.heads")


def main(argv: list[str] | None = None) -> None:
  """Parses the command line and converts; errors of the user's input end with one message and exit code 1."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('paths', nargs='+', type=expand_any, help='SOURCE and TARGET, or with --workdir TARGET alone')
  parser.add_argument('--workdir', type=expand_any, help='take the best checkpoint of this run')
  parser.add_argument('--to_release', action='store_true', help="write the release's names")
  parser.add_argument('--force', action='store_true', help='overwrite TARGET')
  args = parser.parse_args(argv)
  *sources, target = args.paths
  if len(sources) != (args.workdir is None) or target.suffix != '.safetensors':
    parser.error('expected SOURCE and TARGET, or --workdir and TARGET; TARGET ends in .safetensors.')

  def work() -> None:
    if target.exists() and not args.force:
      raise UserError(f'{target} exists; choose another name, or overwrite it with --force.')
    source = read_best_checkpoint(args.workdir) if args.workdir else read_file(sources[0], args.to_release)
    convert(source, target, args.to_release)

  if code := doors.guarded(work):
    sys.exit(code)


if __name__ == '__main__':
  main()
