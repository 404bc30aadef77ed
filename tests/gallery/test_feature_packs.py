"""An index of a data set that came as features: searched with its captions, and a typed sentence is refused."""

import jax
import numpy as np
import pytest

from configs import charades
from dlkd_jax.gallery import building, index_text, result_text
from dlkd_jax.gallery.collection import Collection
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.models.students import init_parameters
from dlkd_jax.training import recipe
from dlkd_jax.training.checkpoints import Checkpoints, Progress
from tests.tfds_builders import pack_writer
from tfds_builders import CharadesPrvr


@pytest.fixture(scope='module')
def index(tmp_path_factory):
  folder = tmp_path_factory.mktemp('pack')
  pack_writer.write(folder / 'packs', pack_writer.Variant('charades', 'i3d_rgb_lgi', videos=(4, 3, 6)))
  builder = CharadesPrvr(data_dir=str(folder / 'data'))
  import tensorflow_datasets as tfds

  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder / 'packs'))
  collection = Collection.open(str(folder / 'data'), 'charades_prvr', ['test'])
  config = charades.get_config('debug')
  sizes = collection.sizes
  shapes = jax.eval_shape(
    lambda: init_parameters(recipe.make_student(config), jax.random.key(0), sizes['Dv'], sizes['Dq'])
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0.0, 0.3, x.shape).astype(np.float32), shapes)
  checkpoints = Checkpoints(folder / 'run')
  checkpoints.save(1, {'params': params}, Progress({}, 1, 1.0, 1, 1))
  checkpoints.wait()
  (folder / 'run' / 'config.json').write_text(config.to_json_best_effort())
  assert building.build(folder / 'index', collection, folder / 'run').added == 6
  return folder / 'index'


def test_search(index):
  gallery = Gallery.open(index)
  assert gallery.scorers == ('inheritance', 'exploration', 'teacher') and len(gallery.captions) > 6
  name = next(iter(gallery.captions))
  (result,) = gallery.search_captions([name], top=6, moments=2)
  assert len(result.hits) == 6 and set(result.hits[0].scores) == set(gallery.scorers)
  for hit in result.hits:
    if hit.duration is None:  # Moments are told by the numbers of frames.
      assert hit.moments[0].peak == int(hit.moments[0].peak) and 'frame ' in result_text.describe_result(result)
  with pytest.raises(ValueError, match='a typed sentence cannot be searched here'):
    gallery.search(['a person opens a door'])
  assert 'cannot be typed' in index_text.describe_index(index_text.summarize(gallery._folder), 'index')
