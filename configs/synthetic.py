"""The one-minute run: a student on the synthetic set, small enough for two CPU cores.

    dlkd build synthetic --config=demo --data_dir=data
    dlkd train --config=configs/synthetic.py --workdir=runs/synthetic

No published result belongs to it; the README shows what it gives.
"""

from dlkd_jax import config_defaults


def get_config(arg=None):
  """Returns the recipe; `config_defaults` lists the arguments."""
  config = config_defaults.base('synthetic_prvr/demo')
  config.data.max_frames = 40  # longer videos are resampled to this many frames
  config.data.frame_sizes = (40,)  # lengths that the frames of a block of evaluation are padded to
  config.data.max_words = 16  # longer captions are cut to this many tokens
  config.data.word_sizes = (10, 16)  # lengths that the tokens of a block of evaluation are padded to
  config.training.epochs = 30  # at most
  config.logging.every_steps = 2  # steps between two progress lines and log records
  return config_defaults.finish(config, arg)
