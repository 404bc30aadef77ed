"""Conversion of checkpoints: of numpy arrays, through files, and, where torch is installed, of a .ckpt."""

import collections
import functools
import json
import os
import pathlib
import sys
import types

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from dlkd_jax import sharding
from dlkd_jax.models.parameter_files import read_parameters
from dlkd_jax.models.release_parameters import from_release
from dlkd_jax.models.students import init_parameters
from dlkd_jax.tools import convert_checkpoint
from dlkd_jax.tools.convert_checkpoint import overrides, parse_release, student_sizes
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from dlkd_jax.training.state import create_state
from tests import options as made
from tests.paths import golden

RECIPE_SIZES = {'hidden': 384, 'max_frames': 128, 'max_words': 30, 'branches': ('inheritance', 'exploration')}


@pytest.fixture(scope='module')
def released() -> dict[str, np.ndarray]:
  with np.load(golden('evaluation.npz'), allow_pickle=False) as file:
    return {name.removeprefix('param/'): file[name] for name in file.files if name.startswith('param/')}


def flatten(params) -> dict[str, np.ndarray]:
  return flax.traverse_util.flatten_dict(params, sep='/')


def assert_same(found, expected):
  found, expected = flatten(found), flatten(expected)
  assert set(found) == set(expected)
  for name, x in expected.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], x, err_msg=name)


def fail(capsys, *arguments) -> str:
  with pytest.raises(SystemExit) as exit_info:
    convert_checkpoint.main([str(a) for a in arguments])
  assert exit_info.value.code
  return capsys.readouterr().err


def write_release(arrays, path: pathlib.Path) -> pathlib.Path:
  safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, path)
  return path


# Below torch.


def test_content_of_a_checkpoint(released):
  source = parse_release({'model': released, 'model_cfg': {'n_heads': 4}, 'epoch': 7}, 'model.ckpt')
  assert (source.heads, source.epoch) == (4, 7)
  assert_same(source.params, from_release(released))
  assert student_sizes(source.params) == {
    'hidden': 32, 'max_frames': 16, 'max_words': 10, 'branches': ('inheritance', 'exploration'), 'Dv': 24, 'Dq': 16,
  }  # fmt: skip


def test_prefix_of_data_parallel_half_precision_and_no_settings(released):
  model = {f'module.{name}': x.astype(np.float16) for name, x in released.items()}
  source = parse_release({'model': model}, 'model.ckpt')
  assert (source.heads, source.epoch) == (None, None)
  assert_same(source.params, from_release({name: x.astype(np.float16) for name, x in released.items()}))


def test_single_branch(released):
  model = {name: x for name, x in released.items() if not name.startswith('exp_')}
  sizes = student_sizes(parse_release({'model': model}, 'model.ckpt').params)
  assert sizes['branches'] == ('inheritance',)
  expected = ["--config.model.branches=('inheritance',)", '--config.evaluation.weights=(1.0,)']
  assert overrides(RECIPE_SIZES | {'branches': ('inheritance',)}, None) == expected


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({'state_dict': {}, 'epoch': 1}, r"no \"model\".*\['epoch', 'state_dict'\]"),
    ([1, 2], 'found list'),
    ({'model': {'a': 'text'}}, r"\['a'\] in \"model\" are no tensors"),
    ({'model': {'a.weight': np.zeros(1)}}, r"unknown \['a.weight'\]"),
  ],
)
def test_other_content_is_refused(content, message):
  with pytest.raises(ValueError, match=message):
    parse_release(content, 'model.ckpt')


def test_settings_that_are_no_numbers_are_ignored(released):
  source = parse_release({'model': released, 'model_cfg': {'n_heads': '4; ls'}, 'epoch': None}, 'model.ckpt')
  assert (source.heads, source.epoch) == (None, None)


def test_branches_of_different_size_and_infinite_values_are_named(released):
  params = from_release(released)
  params['exploration']['frame_projection']['kernel'] = np.zeros((32, 48), np.float32)
  params['inheritance']['frame_projection']['bias'] = np.full(32, np.nan, np.float32)
  with pytest.raises(ValueError) as error:
    student_sizes(params)
  assert r'exploration/frame_projection/kernel: found (32, 48), expected (32, 32)' in str(error.value)
  assert 'inheritance/frame_projection/bias: not all values are finite' in str(error.value)


def test_overrides():
  assert overrides(RECIPE_SIZES, 4) == overrides(RECIPE_SIZES, None) == []
  flags = overrides(RECIPE_SIZES | {'hidden': 256, 'max_frames': 80, 'max_words': 77}, 8)
  assert flags[:4] == [
    '--config.model.hidden=256',
    '--config.model.heads=8',
    '--config.data.max_frames=80',
    '--config.data.frame_sizes=(32,64,80)',
  ]
  assert flags[4] == '--config.data.max_words=77' and flags[5].endswith('30,77)')


# Through files, without torch.


def test_there_and_back(released, tmp_path, capsys):
  source = write_release(released, tmp_path / 'model.safetensors')
  ours, theirs = tmp_path / 'new' / 'student.safetensors', tmp_path / 'back.safetensors'
  convert_checkpoint.main([str(source), str(ours)])
  text = capsys.readouterr().out
  assert 'attention heads: unknown' in text
  assert f'dlkd eval --config=configs/tvr.py --workdir=runs/released --params={ours} --config.model.hidden=32' in text
  assert_same(read_parameters(ours, like=from_release(released)), from_release(released))
  convert_checkpoint.main(['--to_release', str(ours), str(theirs)])
  assert_same(safetensors.numpy.load_file(theirs), released)
  assert sorted(p.name for p in tmp_path.rglob('*.tmp')) == []


def test_target_is_not_overwritten_unasked(released, tmp_path, capsys):
  source, target = write_release(released, tmp_path / 'model.safetensors'), tmp_path / 'student.safetensors'
  target.write_text('precious')
  assert 'overwrite it with --force' in fail(capsys, source, target)
  assert target.read_text() == 'precious'
  convert_checkpoint.main(['--force', str(source), str(target)])
  assert target.stat().st_size > 1000


def test_failure_leaves_the_old_target(released, tmp_path, capsys):
  source, target = write_release({'a/b': np.zeros(1)}, tmp_path / 'x.safetensors'), tmp_path / 'student.safetensors'
  target.write_text('precious')
  assert 'not the parameters of a student' in fail(capsys, '--to_release', '--force', source, target)
  assert target.read_text() == 'precious'


def test_wrong_files_and_arguments(released, tmp_path, capsys):
  source, target = write_release(released, tmp_path / 'model.safetensors'), tmp_path / 'student.safetensors'
  assert 'leave --to_release out' in fail(capsys, '--to_release', source, target)
  assert 'there is no file' in fail(capsys, tmp_path / 'absent.ckpt', target)
  assert 'holds no checkpoint' in fail(capsys, '--workdir', tmp_path, target)
  assert 'expected SOURCE and TARGET' in fail(capsys, target)
  assert 'TARGET ends in .safetensors' in fail(capsys, source, tmp_path / 'model.ckpt')
  whole = source.read_bytes()
  source.write_bytes(whole[: len(whole) // 2])
  assert 'not a whole safetensors file' in fail(capsys, source, target)
  convert_checkpoint.main([str(write_release(released, source)), str(target)])
  assert 'ours already' in fail(capsys, target, tmp_path / 'other.safetensors')


def test_help_teaches_the_next_command(capsys):
  with pytest.raises(SystemExit):
    convert_checkpoint.main(['--help'])
  command = 'dlkd eval --config=configs/tvr.py --workdir=runs/released --params=student.safetensors'
  assert command in capsys.readouterr().out


def test_missing_torch_is_said(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  source = tmp_path / 'model.ckpt'
  source.touch()
  assert "pip install 'dlkd_jax[torch]'" in fail(capsys, source, tmp_path / 'student.safetensors')


def test_best_checkpoint_of_a_run(tmp_path, capsys):
  student = made.student(hidden=8, heads=2, max_frames=4, max_words=3)
  make = functools.partial(init_parameters, student, jax.random.key(0), 6, 5)
  best = create_state(make, optax.adam(1e-3), sharding.make_mesh())
  checkpoints = Checkpoints(tmp_path)
  for step, state in ((1, best), (2, jax.tree.map(jnp.zeros_like, best))):
    checkpoints.save(step, state, Progress({}, best_sum_r=50.0, best_step=1))
  checkpoints.wait()
  (tmp_path / 'config.json').write_text(json.dumps({'model': {'heads': 2}}))
  unfinished = tmp_path / 'checkpoints' / '4.partial'
  unfinished.mkdir()
  target = tmp_path / 'student.safetensors'
  convert_checkpoint.main([f'--workdir={tmp_path}', str(target)])
  text = capsys.readouterr().out
  assert 'checkpoint of step 1' in text and '--config.model.heads=2' in text
  expected = jax.device_get(best.params)
  assert_same(read_parameters(target, like=expected), expected)
  assert unfinished.is_dir(), 'a checkpoint that a training is writing was removed'


def test_other_students_have_no_names_in_the_release(tmp_path, capsys):
  params = {'exploration': {'turn': {'kernel': np.ones((2, 3), np.float32)}}}
  checkpoints = Checkpoints(tmp_path)
  make = create_state(lambda: params, optax.adam(1e-3), sharding.make_mesh())
  checkpoints.save(1, make, Progress({}, best_sum_r=50.0, best_step=1))
  checkpoints.wait()
  (tmp_path / 'config.json').write_text(json.dumps({'model': {'heads': 4, 'name': 'plus'}}))
  ours, theirs = tmp_path / 'ours.safetensors', tmp_path / 'theirs.safetensors'
  wanted = "of the student 'plus', and the release has names for the paper's alone"
  assert wanted in fail(capsys, f'--workdir={tmp_path}', '--to_release', theirs)
  convert_checkpoint.main([f'--workdir={tmp_path}', str(ours)])
  assert f'dlkd eval --workdir={tmp_path} --params={ours}' in capsys.readouterr().out
  assert_same(read_parameters(ours, like=params, heads=4), params)
  assert wanted in fail(capsys, '--to_release', ours, theirs) and not theirs.exists()


# With torch.


@pytest.fixture
def torch():
  return pytest.importorskip('torch')


class EasyDict(dict):
  """Pickles as easydict's class does: an object of that name, its items, and the same as attributes."""

  __module__ = 'easydict'

  def __init__(self, **items):
    super().__init__(items)
    self.__dict__.update(items)


def tensors(torch, released, **options) -> collections.OrderedDict:
  return collections.OrderedDict((name, torch.from_numpy(x).to(**options)) for name, x in released.items())


@pytest.mark.parametrize('zipped', [True, False])
def test_checkpoint_of_the_release(torch, released, tmp_path, capsys, monkeypatch, zipped):
  settings = EasyDict(n_heads=4, device=[0], use_hard_negative=False, drop=0.2, nested=EasyDict(a=1))
  content = {'model': tensors(torch, released), 'model_cfg': settings, 'epoch': 7}
  source, target = tmp_path / 'model.ckpt', tmp_path / 'student.safetensors'
  module = types.ModuleType('easydict')
  module.EasyDict = EasyDict
  with monkeypatch.context() as writing:
    writing.setitem(sys.modules, 'easydict', module)
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
  monkeypatch.setitem(sys.modules, 'easydict', None)  # From here on, importing it fails.
  convert_checkpoint.main([str(source), str(target)])
  text = capsys.readouterr().out
  assert 'epoch 7 (from 0), branches: inheritance and exploration; hidden size 32, attention heads: 4' in text
  assert_same(read_parameters(target, like=from_release(released)), from_release(released))
  from safetensors.torch import load_file

  back = tmp_path / 'back.safetensors'
  convert_checkpoint.main(['--to_release', str(target), str(back)])
  loaded = load_file(back)
  assert all(torch.equal(loaded[name], x) for name, x in content['model'].items()) and len(loaded) == len(released)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
def test_other_precisions_and_gradients(torch, released, tmp_path, dtype):
  model = tensors(torch, released, dtype=getattr(torch, dtype))
  model = {f'module.{n}': torch.nn.Parameter(x) for n, x in model.items()}
  torch.save({'model': model}, tmp_path / 'model.ckpt')
  source = parse_release(convert_checkpoint.load_torch_checkpoint(tmp_path / 'model.ckpt'), 'model.ckpt')
  assert_same(source.params, from_release({n[7:]: x.detach().float().numpy() for n, x in model.items()}))


class _Malicious:
  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
  ('function', 'name'), [(os.system, f'{os.system.__module__}.system'), (eval, 'eval'), (pathlib.Path, 'pathlib')]
)
def test_other_objects_are_refused_and_not_called(torch, released, tmp_path, capsys, function, name, zipped):
  mark, source, target = tmp_path / 'mark', tmp_path / 'model.ckpt', tmp_path / 'student.safetensors'
  argument = f'touch {mark}' if function is os.system else f'open({str(mark)!r}, "w")'
  content = {'model': tensors(torch, released), 'model_cfg': _Malicious(function, argument)}
  torch.save(content, source, _use_new_zipfile_serialization=zipped)
  assert f'names the Python object {name}' in fail(capsys, source, target)
  assert not mark.exists() and not target.exists()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.99])
def test_truncated_file(torch, released, tmp_path, capsys, share, zipped):
  source, target = tmp_path / 'model.ckpt', tmp_path / 'student.safetensors'
  torch.save({'model': tensors(torch, released)}, source, _use_new_zipfile_serialization=zipped)
  whole = source.read_bytes()
  source.write_bytes(whole[: int(len(whole) * share)])
  assert 'is not a whole torch checkpoint' in fail(capsys, source, target)
  assert not target.exists()


def test_web_page_instead_of_a_checkpoint(torch, tmp_path, capsys):
  source = tmp_path / 'model.ckpt'
  source.write_text('<!DOCTYPE html><html>Too many users have viewed this file.</html>')
  assert 'is not a whole torch checkpoint' in fail(capsys, source, tmp_path / 'student.safetensors')
