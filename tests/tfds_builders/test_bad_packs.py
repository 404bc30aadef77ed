"""Each kind of bad pack has an error of its own that names file and id, and nothing is left behind."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from tests.tfds_builders import pack_writer
from tests.tfds_builders.pack_writer import Variant, Written
from tfds_builders import build, errors

# name → (what to break, the error, words that its message must hold). `broken` gets the pack and returns those words
# that only the pack knows, such as an id.
CASES = {}


def case(error: type[errors.PackError], *words: str, variant: Variant | None = None):
  """Registers a way to break a pack."""

  def register(function):
    CASES[function.__name__] = (function, error, words, variant or Variant())
    return function

  return register


def _first(written: Written, split: str = 'train') -> str:
  return next(name for name, video in written.videos.items() if video.split == split)


def _first_caption(written: Written, split: str = 'train') -> str:
  return next(iter(written.videos[_first(written, split)].captions))


def _plain(caption_id: str) -> str:
  video, number = caption_id.rsplit('#enc#', 1)
  return f'{video}#{number}'


def _replace(path, key: str, array: np.ndarray) -> None:
  with h5py.File(path, 'r+') as file:
    del file[key]
    file[key] = array


def _remove(path, key: str) -> None:
  with h5py.File(path, 'r+') as file:
    del file[key]


def _teacher_key(written: Written, split: str = 'train') -> str:
  return _plain(_first_caption(written, split))


@case(errors.MissingFileError, 'FeatureData', 'folder absent')
def no_feature_folder(written):
  written.features.rename(written.features.with_name('Features'))


@case(errors.MissingFileError, 'tvrval.caption.txt', '--splits')
def no_caption_file(written):
  written.captions('val').unlink()


@case(errors.MissingFileError, 'roberta_tvr_query_feat.hdf5', '--tokens')
def no_token_file(written):
  written.tokens.unlink()


@case(errors.MissingFileError, 'new_clip_vit_32_tvr_vid_features.hdf5', '--no_teacher')
def no_teacher_file(written):
  written.teacher_frames.unlink()


@case(errors.MissingFileError, 'i3d_resnet', '--feature', 'other')
def no_such_feature(written):
  written.big.rename(written.features / 'other')


@case(errors.MissingFileError, 'id.txt')
def no_id_file(written):
  (written.big / 'id.txt').unlink()


@case(errors.AmbiguousFileError, 'clip_a.hdf5', 'clip_b.hdf5', '--teacher_text')
def two_teacher_files(written):
  written.teacher_text.rename(written.text / 'clip_a.hdf5')
  (written.text / 'clip_b.hdf5').write_bytes((written.text / 'clip_a.hdf5').read_bytes())


@case(errors.TruncatedFileError, 'feature.bin', 'shape.txt')
def truncated_bin(written):
  path = written.big / 'feature.bin'
  path.write_bytes(path.read_bytes()[:-5])


@case(errors.ShapeFileError, 'id.txt', 'shape.txt')
def shape_disagrees_with_ids(written):
  path = written.big / 'id.txt'
  path.write_text(path.read_text(encoding='utf-8') + ' another', encoding='utf-8')


@case(errors.MalformedFileError, 'shape.txt', 'two integers')
def shape_is_no_shape(written):
  (written.big / 'shape.txt').write_text('many rows')


@case(errors.MissingRowError, 'video2frames.txt', 'id.txt')
def row_absent(written):
  path = written.big / 'video2frames.txt'
  name = f'{_first(written, "val")}_0'
  path.write_text(path.read_text(encoding='utf-8').replace(f"'{name}'", "'ghost_0'"), encoding='utf-8')
  return ('ghost_0', _first(written, 'val'))


@case(errors.MissingFeaturesError, 'roberta_tvr_query_feat.hdf5')
def caption_without_tokens(written):
  _remove(written.tokens, _first_caption(written))
  return (_first_caption(written),)


@case(errors.MissingFeaturesError, 'tvrtest.caption.txt')
def caption_of_unknown_video(written):
  with written.captions('test').open('a') as file:
    file.write('ghost#enc#0 Nobody has seen this.\n')
  return ('ghost',)


@case(errors.MissingTeacherError, 'new_clip_vit_32_tvr_vid_features.hdf5', '--no_teacher')
def video_without_teacher(written):
  _remove(written.teacher_frames, _first(written))
  return (_first(written),)


@case(errors.MissingTeacherError, 'clip_ViT_B_32_tvr_query_feat.hdf5', '--no_teacher')
def caption_without_teacher(written):
  _remove(written.teacher_text, _teacher_key(written))
  return (_first_caption(written),)


@case(errors.MissingTeacherError, 'new_clip_vit_32', "split 'test'", '--no_teacher')
def later_split_partly_taught(written):
  _remove(written.teacher_frames, _first(written, 'test'))
  return (_first(written, 'test'),)


@case(errors.MissingTeacherError, "split 'train'", variant=Variant(taught_splits=()))
def nobody_taught(written):
  return (_first(written),)


@case(errors.WrongSizeError, '9 features', '6', variant=Variant(packing='hdf5 in folder'))
def frames_of_another_size(written):
  _replace(written.big / 'feature.hdf5', _first(written, 'val'), np.ones((3, 9), np.float32))
  return (_first(written, 'val'), 'feature.hdf5')


@case(errors.WrongSizeError, 'roberta_tvr_query_feat.hdf5', '7 features', '5')
def tokens_of_another_size(written):
  _replace(written.tokens, _first_caption(written, 'test'), np.ones((1, 3, 7), np.float32))
  return (_first_caption(written, 'test'),)


@case(errors.WrongSizeError, 'shape [2, 3, 5]')
def tokens_with_batch(written):
  _replace(written.tokens, _first_caption(written), np.ones((2, 3, 5), np.float32))


@case(errors.WrongSizeError, '6 rows', '--pool_teacher_text')
def teacher_text_of_many_rows(written):
  _replace(written.teacher_text, _teacher_key(written), np.ones((6, 4), np.float32))
  return (_first_caption(written),)


@case(errors.WrongSizeError, 'clip_ViT_B_32', 'new_clip_vit_32', 'one teacher')
def two_different_teachers(written):
  for video in written.videos.values():
    for caption_id in video.captions:
      _replace(written.teacher_text, _plain(caption_id), np.ones((1, 11), np.float32))


@case(errors.EmptyError, 'roberta_tvr_query_feat.hdf5')
def no_tokens_at_all(written):
  _replace(written.tokens, _first_caption(written), np.ones((1, 0, 5), np.float32))
  return (_first_caption(written),)


@case(errors.EmptyError, 'tvrtrain.caption.txt', 'line')
def caption_without_text(written):
  with written.captions('train').open('a') as file:
    file.write('silent#enc#0  \n')
  return ('silent#enc#0',)


@case(errors.EmptyError, 'tvrval.caption.txt', 'no captions')
def split_without_captions(written):
  written.captions('val').write_text('\n\n')


@case(errors.MalformedFileError, 'tvrval.caption.txt', 'not a caption id')
def line_without_id(written):
  with written.captions('val').open('a') as file:
    file.write('Somebody forgot the id.\n')


@case(errors.NotFiniteError, 'feature.bin', 'nan')
def nan_in_frames(written):
  path = written.big / 'feature.bin'
  rows = np.fromfile(path, '<f4')
  rows[3] = np.nan
  rows.tofile(path)
  return (_first(written),)


@case(errors.NotFiniteError, 'clip_ViT_B_32_tvr_query_feat.hdf5', 'inf')
def infinity_in_teacher(written):
  _replace(written.teacher_text, _teacher_key(written), np.full((1, 4), np.inf, np.float32))
  return (_teacher_key(written),)


@case(errors.RangeError, 'student_tokens', '--dtype=float32')
def too_large_for_float16(written):
  _replace(written.tokens, _first_caption(written), np.full((2, 5), 70000.0, np.float32))
  return (_first(written),)


@case(errors.DuplicateIdError, 'tvrtrain.caption.txt')
def caption_twice_in_two_spellings(written):
  caption_id = _plain(_first_caption(written))
  with written.captions('train').open('a', encoding='utf-8') as file:
    file.write(f'{caption_id} The same in the other spelling.\n')
  return (caption_id,)


@case(errors.DuplicateIdError, 'id.txt')
def row_twice(written):
  path = written.big / 'id.txt'
  names = path.read_text(encoding='utf-8').split()
  path.write_text(' '.join([*names[:-1], names[0]]), encoding='utf-8')
  return (names[0],)


@case(errors.DuplicateIdError, 'video2frames.txt')
def video_twice(written):
  path = written.big / 'video2frames.txt'
  name = _first(written, 'val')
  path.write_text(path.read_text(encoding='utf-8')[:-1] + f", '{name}': []}}", encoding='utf-8')
  return (name,)


@case(errors.EmptyError, 'feature.bin')
def video_without_rows(written):
  path = written.big / 'video2frames.txt'
  name = _first(written, 'val')
  path.write_text(path.read_text(encoding='utf-8').replace(f"'{name}': [", f"'{name}': [], 'x': ["), encoding='utf-8')
  return (name,)


@case(errors.MalformedFileError, 'roberta_tvr_query_feat.hdf5', 'HDF5')
def token_file_cut_short(written):
  written.tokens.write_bytes(written.tokens.read_bytes()[:200])


@case(errors.MalformedFileError, 'tvr.moments.json')
def moments_not_three_numbers(written):
  (written.text / 'tvr.moments.json').write_text('{"a#0": [1, 2]}')


@case(errors.MalformedFileError, 'tvr.moments.json', "'a#0': 'start' is '1'", 'expected seconds')
def moments_of_text(written):
  (written.text / 'tvr.moments.json').write_text('{"a#0": ["1", 2, 3]}')


@case(errors.MalformedFileError, 'tvrval.caption.txt, line 2: byte', '0xe9', 'UTF-8')
def captions_in_latin_1(written):
  path = written.captions('val')
  first, *rest = path.read_bytes().split(b'\n')
  path.write_bytes(b'\n'.join([first, *(line + b' caf\xe9' for line in rest if line)]))


@case(errors.MalformedFileError, 'tvrval.caption.txt: is UTF-16')
def captions_in_utf_16(written):
  path = written.captions('val')
  path.write_text(path.read_text(encoding='utf-8'), encoding='utf-16')


_POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n'


@case(errors.MalformedFileError, 'roberta_tvr_query_feat.hdf5', 'git lfs pull')
def tokens_are_a_pointer(written):
  written.tokens.write_bytes(_POINTER)


@case(errors.MalformedFileError, 'roberta_tvr_query_feat.hdf5', 'HTML page')
def tokens_are_a_page(written):
  written.tokens.write_bytes(b'<!DOCTYPE html><html><body>Sign in')


@case(errors.MalformedFileError, 'roberta_tvr_query_feat.hdf5', 'empty file')
def tokens_are_empty(written):
  written.tokens.write_bytes(b'')


@case(errors.TruncatedFileError, 'feature.bin', 'git lfs pull')
def frames_are_a_pointer(written):
  (written.big / 'feature.bin').write_bytes(_POINTER)


@case(errors.MalformedFileError, 'id.txt', 'git lfs pull')
def ids_are_a_pointer(written):
  (written.big / 'id.txt').write_bytes(_POINTER)


@case(errors.MalformedFileError, 'clip_ViT_B_32_tvr_query_feat.hdf5', 'HDF5 filter 32099', 'pip install hdf5plugin')
def filter_that_is_missing(written):
  key = _teacher_key(written)
  with h5py.File(written.teacher_text, 'r+') as file:
    shape = file[key].shape
    del file[key]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    properties.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple(shape)
    data = h5py.h5d.create(file.id, key.encode(), h5py.h5t.IEEE_F32LE, space, properties)
    data.write_direct_chunk((0,) * len(shape), bytes(16), 0)
  return (key,)


@pytest.mark.parametrize('name', CASES)
def test_bad_pack(name, tmp_path, capsys):
  function, error, words, variant = CASES[name]
  written = pack_writer.write(tmp_path / 'pack', variant)
  words += function(written) or ()
  arguments = [variant.collection, f'--manual_dir={written.root}', f'--data_dir={tmp_path / "data"}']
  with pytest.raises(error) as caught:
    build.make_builder(build.make_parser().parse_args(arguments)).download_and_prepare(
      download_config=build.tfds.download.DownloadConfig(manual_dir=written.root)
    )
  assert type(caught.value) is error
  assert not [word for word in words if word not in str(caught.value)], str(caught.value)
  assert build.main(arguments) == 1
  output = capsys.readouterr()
  assert f'error: {caught.value}' in output.err
  assert 'Traceback' not in output.err
  left = {path.name for path in (tmp_path / 'data' / 'tvr_prvr').iterdir()}
  assert left <= {'.build.lock'}


def test_pool_teacher_text(tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  rows = np.arange(12, dtype=np.float32).reshape(3, 4)
  for video in written.videos.values():
    for caption_id in video.captions:
      _replace(written.teacher_text, _plain(caption_id), rows)
  for pooling, expected in (('last', rows[-1]), ('mean', rows.mean(axis=0))):
    data_dir = tmp_path / pooling
    flags = [f'--manual_dir={written.root}', f'--data_dir={data_dir}', f'--pool_teacher_text={pooling}']
    assert build.main(['tvr', *flags]) == 0
    builder = build.tfds.builder_from_directory(data_dir / 'tvr_prvr' / '1.0.0')
    for record in builder.as_data_source('train'):
      assert (record['teacher_text'] == expected).all()


MALICIOUS = (
  "__import__('pathlib').Path({target!r}).write_text('owned') or {{}}",
  "{{'a': [__import__('pathlib').Path({target!r}).write_text('owned')]}}",
  "{{'a': ['a_0'], **__import__('os').environ}}",
  "{{'a': ['a_0' for _ in range(10**9)]}}",
  "{{'a': [f'{{open({target!r}, chr(119))}}']}}",
  "{{'a': ['a_0']}}; open({target!r}, 'w')",
)


@pytest.mark.parametrize('text', MALICIOUS)
def test_malicious_video2frames_is_not_executed(text, tmp_path, capsys):
  written = pack_writer.write(tmp_path / 'pack')
  target = tmp_path / 'owned'
  (written.big / 'video2frames.txt').write_text(text.format(target=str(target)))
  # Row names that the harmless part of each text asks for exist, so that nothing else stops the reader.
  path = written.big / 'id.txt'
  names = path.read_text(encoding='utf-8').split()
  path.write_text(' '.join(['a_0', *names[1:]]), encoding='utf-8')
  assert build.main(['tvr', f'--manual_dir={written.root}', f'--data_dir={tmp_path / "data"}']) == 1
  assert 'video2frames.txt' in capsys.readouterr().err
  assert not target.exists()
