"""DL-DKD++ on Charades-STA, the paper's recipe (I3D frames, RoBERTa tokens, CLIP ViT-B/32 as the teacher).

    dlkd build charades --manual_dir=<features> --data_dir=data
    dlkd train --config=configs/charades.py --workdir=runs/charades

Published on its test split: R@1 1.9, R@5 7.1, R@10 12.3, R@100 49.8, SumR 71.1. About 5,400 videos to train on,
1,334 to search.

Negatives are hard from the first epoch on, as in the authors' program; dlkd_jax/reporting/README.md says what the
argument `uniform_negatives` gives instead.
"""

from dlkd_jax import config_defaults


def get_config(arg=None):
  """Returns the recipe; `config_defaults` lists the arguments."""
  config = config_defaults.base('charades_prvr')
  config.data.frame_sizes = (48, 64, 128)  # lengths that the frames of a block of evaluation are padded to
  config.optimizer.learning_rate = 2.4e-4  # highest rate
  config.model.input_dropout = 0.15  # share of input features dropped
  config.model.dropout = 0.15  # share of inner features dropped
  config.loss.margin = 0.2  # of the triplet loss, in cosine
  return config_defaults.finish(config, arg)
