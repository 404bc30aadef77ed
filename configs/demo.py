"""The students of the rendered demonstration, small enough for two CPU cores. `dlkd demo` uses it.

    dlkd demo --workdir=runs/demo --until=features
    dlkd train --config=configs/demo.py --config.data.data_dir=runs/demo/data --workdir=runs/student

No published result belongs to it.
"""

from dlkd_jax import config_defaults


def get_config(arg=None):
  """Returns the recipe; `config_defaults` lists the arguments."""
  config = config_defaults.base('custom_prvr')
  config.data.batch_videos = 32  # videos a batch, with all their captions
  config.data.max_frames = 96  # longer videos are resampled to this many frames
  config.data.frame_sizes = (64, 96)  # lengths that the frames of a block of evaluation are padded to
  config.data.max_words = 16  # longer captions are cut to this many tokens
  config.data.word_sizes = (16,)  # lengths that the tokens of a block of evaluation are padded to
  config.model.hidden = 128  # size of the space in which queries and frames meet
  config.model.input_dropout = 0.1  # share of input features dropped
  config.loss.hard_negative_start_epoch = 16  # negatives are drawn among all wrong ones
  config.optimizer.learning_rate = 1e-3  # highest rate
  config.training.epochs = 16  # at most
  config.training.patience = 16  # epochs without a new best SumR on validation before the training stops
  return config_defaults.finish(config, arg)
