"""Sentences are encoded with the data set's own backbones, or refused with what to do."""

import shutil

import numpy as np
import pytest

from dlkd_jax.gallery import building, result_text, sentences
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.segments import IndexFolderError
from tests.gallery import worlds


def test_what_is_noted():
  options = {'tokens': 'words:8', 'teacher': 'clip:c49bb70a1b2192cc', 'student': 'statistics:2'}
  teacher = {'fingerprint': 'clip:c49bb70a1b2192cc', 'where': '/clip'}
  assert sentences.describe(options, {}, '/clip') == {
    'text': {'tokens': {'fingerprint': 'words:8', 'where': None}, 'teacher': teacher},
    'pictures': {'student': {'fingerprint': 'statistics:2', 'where': None}, 'teacher': teacher},
  }
  # What the data set noted is taken, but for a model of pictures and sentences that is elsewhere now.
  options = {'tokens': 'bert@layer=1:cd', 'teacher': 'clip:c49b', 'student': 'efficientnet_lite0:ab'}
  where = {'tokens': 'hf:roberta-large@abc', 'teacher': '/then', 'student': '/net'}
  places = [
    {n: about['where'] for n, about in each.items()} for each in sentences.describe(options, where, '/now').values()
  ]
  assert places == [{'tokens': where['tokens'], 'teacher': '/now'}, {'student': '/net', 'teacher': '/now'}]
  assert sentences.describe(options, where, None)['text']['teacher']['where'] == '/then'
  # A feature pack's option of this name is a file.
  pack = sentences.describe({'tokens': 'roberta.hdf5', 'teacher': True}, {}, None)
  assert pack == {'text': {'tokens': None, 'teacher': None}, 'pictures': {'student': None, 'teacher': None}}


def test_a_layer_of_a_clip(world):
  from dlkd_jax.video import backbones

  wanted = backbones.open_text_backbone(f'clip:{world.clip}@layer=-2')
  about = {'fingerprint': wanted.fingerprint, 'clip': str(world.clip)}
  found = sentences.open_backbone(about, None, 'tokens')
  assert found.fingerprint == wanted.fingerprint
  np.testing.assert_array_equal(found.tokens(['a red square'])[0], wanted.tokens(['a red square'])[0])


def test_a_clip_that_moved_or_changed(world, tmp_path):
  clip = shutil.copytree(world.clip, tmp_path / 'clip')
  index = tmp_path / 'index'
  building.build(index, world.collection, None, building.IndexSettings(clip=str(clip)))
  (before,) = Gallery.open(index).search(['a red square'])
  clip.rename(tmp_path / 'moved')
  sentences._opened.cache_clear()
  with pytest.raises(IndexFolderError, match=r'clip does not exist; say where it is with --clip=DIR'):
    Gallery.open(index).search(['a red square'])
  (after,) = Gallery.open(index, clip=str(tmp_path / 'moved')).search(['a red square'])
  assert [h.score for h in after.hits] == [h.score for h in before.hits]
  other = worlds.clip(tmp_path / 'other', seed=3)
  with pytest.raises(IndexFolderError, match=r'other holds .*Say with --clip=DIR where the right one is'):
    Gallery.open(index, clip=str(other)).search(['a red square'])


def test_an_index_of_features_alone(world, tmp_path):
  index = shutil.copytree(world.index, tmp_path / 'index')
  folder = building.IndexFolder.open(index)
  folder.manifest['text'] = {'tokens': None, 'teacher': None}
  folder.write_manifest()
  gallery = Gallery.open(index)
  with pytest.raises(IndexFolderError, match=r'a typed sentence cannot be searched here.*--caption=ID'):
    gallery.search(['a red square'])
  assert len(gallery.search_captions(['v001.mp4#0'])[0].hits) == 10


def test_sentences_that_are_cut_are_said_so(world):
  gallery = Gallery.open(world.index)
  weights = {'inheritance': 1.0, 'teacher': 1.0}
  short, long = gallery.search(['a red square', 'a red square moves left right and down'], weights=weights)
  assert short.notes == () and short.to_json()['notes'] == []
  assert [note.split(';')[0] for note in long.notes] == [
    'the student reads 5 of the 8 tokens of this sentence',
    'the teacher reads 4 of the 8 tokens of this sentence',
  ]
  (zero_shot,) = gallery.search([long.query], weights={'teacher': 1.0})
  assert zero_shot.notes == long.notes[1:] and zero_shot.to_json()['notes'] == list(zero_shot.notes)
  options = {'offset': 0, 'threshold': None, 'where': None}
  described = result_text.describe(gallery, long, long.asked, options)
  assert [line for line in described.splitlines() if line.startswith('note: ')] == [f'note: {x}' for x in long.notes]


def test_sentences_without_a_known_word_are_said_so(world):
  (found,) = Gallery.open(world.index).search(['…'], weights={'inheritance': 1.0, 'teacher': 1.0})
  assert len(found.notes) == 2 and all('knows no word of this sentence' in note for note in found.notes)
