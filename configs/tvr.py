"""DL-DKD++ on TVR, the paper's recipe (I3D + ResNet frames, RoBERTa tokens, CLIP ViT-B/32 as the teacher).

    dlkd build tvr --manual_dir=<features> --data_dir=data
    dlkd train --config=configs/tvr.py --workdir=runs/tvr

Published on its test split: R@1 15.3, R@5 36.0, R@10 47.5, R@100 86.0, SumR 184.8; with hard labels
(`configs/tvr.py:hard`, DL-DKD) 14.4, 34.9, 45.8, 84.9, 179.9. 17,435 videos to train on, 2,179 to search.

Negatives are hard from the first epoch on, as in the authors' program; dlkd_jax/reporting/README.md says what the
argument `uniform_negatives` gives instead.
"""

from dlkd_jax import config_defaults


def get_config(arg=None):
  """Returns the recipe, whose values are those of `config_defaults`, which lists the arguments, too."""
  config = config_defaults.base('tvr_prvr')
  return config_defaults.finish(config, arg)
