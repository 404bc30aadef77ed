"""A recipe for it: two steps an epoch."""

from dlkd_jax import config_defaults


def get_config(arg=None):
  """Returns the recipe; `config_defaults` lists the arguments."""
  config = config_defaults.base('crafts_prvr')
  config.data.batch_videos = 4
  config.model.hidden = 8
  config.training.epochs = 1
  return config_defaults.finish(config, arg)
