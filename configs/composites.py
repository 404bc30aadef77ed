"""A student on composites of real clips, without a teacher: there is none that knows both pictures and sentences.

    python -m dlkd_jax.tools.composites_table --pack=packs/msrvtt_efficientnet --workdir=runs/composites

(`--data_dir=data` in place of the pack for films that `dlkd extract` read) makes the data sets, trains with this
recipe and prints the table. The student is the anchored one; `:anchored=false` is the paper's. No published result
belongs to it.
"""

from dlkd_jax import config_defaults


def get_config(arg=None):
  """Returns the recipe; `config_defaults` lists the arguments, of which `no_teacher` is on already."""
  config = config_defaults.base('composites_prvr')
  config.model.hidden = 128  # size of the space in which queries and frames meet; there are few sentences to learn from
  config.data.batch_videos = 32  # videos a batch, with all their captions
  config.data.max_frames = 42  # longer videos are resampled to this many frames
  config.data.packing = False  # so few videos of nearly one length need one program, not one for each packing
  config.data.frame_sizes = (42,)  # lengths that the frames of a block of evaluation are padded to
  config.data.max_words = 20  # longer captions are cut to this many tokens
  config.data.word_sizes = (20,)  # lengths that the tokens of a block of evaluation are padded to
  config.training.epochs = 20  # at most
  config.logging.every_steps = 5  # steps between two progress lines and log records
  config.loss.teacher = False  # distil from the teacher
  return config_defaults.finish(config, arg, anchored=True)
