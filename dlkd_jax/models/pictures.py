"""What every preprocessing of pictures asks of them."""

import numpy as np


def check_picture(image: np.ndarray) -> None:
  """Checks that an array is one RGB picture `[H, W, 3]` of uint8 with pixels.

  Raises:
    ValueError: it has another shape or type, or no pixels.
  """
  if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
    raise ValueError(f'expected a picture [H, W, 3] of uint8, found {list(image.shape)} of {image.dtype}.')
