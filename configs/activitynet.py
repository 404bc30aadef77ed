"""DL-DKD++ on ActivityNet Captions, the paper's recipe (I3D frames, RoBERTa tokens, CLIP ViT-B/32 as the teacher).

    dlkd build activitynet --manual_dir=<features> --data_dir=data
    dlkd train --config=configs/activitynet.py --workdir=runs/activitynet

Published on its evaluation split: R@1 8.3, R@5 25.5, R@10 38.3, R@100 77.8, SumR 149.9; with hard labels
(`configs/activitynet.py:hard`, DL-DKD) 8.0, 25.0, 37.5, 77.1, 147.6. 9,043 videos to train on, 4,430 to search.

Negatives are hard from the first epoch on, as in the authors' program; dlkd_jax/reporting/README.md says what the
argument `uniform_negatives` gives instead.
"""

from dlkd_jax import config_defaults


def get_config(arg=None):
  """Returns the recipe; `config_defaults` lists the arguments."""
  config = config_defaults.base('activitynet_prvr')
  config.optimizer.learning_rate = 2.5e-4  # highest rate
  config.model.input_dropout = 0.25  # share of input features dropped
  config.model.dropout = 0.25  # share of inner features dropped
  config.loss.margin = 0.2  # of the triplet loss, in cosine
  return config_defaults.finish(config, arg)
