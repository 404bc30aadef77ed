"""Packs whose moments cannot be, and folders that can only be read, or not at all."""

from __future__ import annotations

import json

import numpy as np

from tests.tfds_builders import pack_writer
from tfds_builders import base_builder, build


def test_moments_that_cannot_be_are_cut_or_unknown_and_named_once(tmp_path, caplog):
  written = pack_writer.write(tmp_path / 'pack')
  captions = [caption for video in written.videos.values() for caption in video.captions]
  moments = [[3, 1, 5], [3, 100, 5], [7, 8, 5], [-1, 2, 5], [2, 2, 5], [1, 2, 5], [None, None, 5], [1, 2, 0]]
  content = {caption: moments[number % len(moments)] for number, caption in enumerate(captions)}
  (written.text / 'tvr.moments.json').write_text('\ufeff' + json.dumps(content), encoding='utf-8')
  flags = [f'--manual_dir={written.root}', f'--data_dir={tmp_path / "data"}']
  assert build.main(['tvr', *flags]) == 0
  (said,) = {record.getMessage() for record in caplog.records if 'cannot be in their videos' in record.getMessage()}
  assert f'{captions[0]!r} from 3 to 1 s' in said
  nan = [np.nan, np.nan]
  expected = [nan, [3, 5], nan, nan, nan, [1, 2], nan, [1, 2]]
  builder = build.tfds.builder_from_directory(tmp_path / 'data' / 'tvr_prvr' / '1.0.0')
  found = {}
  for split in builder.info.splits:
    for record in builder.as_data_source(split):
      found |= zip([name.decode() for name in record['caption_ids']], record['moments'], strict=True)
  for number, caption in enumerate(captions):
    np.testing.assert_array_equal(found[caption], np.array(expected[number % len(moments)], np.float32))


def test_a_finished_set_is_found_where_nothing_can_be_written(tmp_path, capsys, monkeypatch):
  written = pack_writer.write(tmp_path / 'pack')
  flags = ['tvr', f'--manual_dir={written.root}', f'--data_dir={tmp_path / "data"}']
  assert build.main(flags) == 0

  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied', 'a folder')

  with monkeypatch.context() as patch:  # The administrator may write anywhere.
    patch.setattr(base_builder, 'only_builder', refuse)
    assert build.main(flags) == 0
  assert 'already built' in capsys.readouterr().out


def test_a_data_dir_within_a_file_is_one_line(tmp_path, capsys):
  written = pack_writer.write(tmp_path / 'pack')
  (tmp_path / 'file').write_text('x')
  assert build.main(['tvr', f'--manual_dir={written.root}', f'--data_dir={tmp_path / "file" / "data"}']) == 1
  error = capsys.readouterr().err
  assert error.startswith('error: ') and str(tmp_path / 'file') in error and 'Traceback' not in error
