"""A data set of one's own, as a user adds it: one row, and the command that builds it.

python crafts.py crafts --manual_dir=packs --data_dir=data
"""

import sys

from tfds_builders import build, packs

packs.add(packs.Collection('crafts', 'clips', 'Things that are made by hand.', cited=('xu2016msrvtt',)))

if __name__ == '__main__':
  sys.exit(build.main())
