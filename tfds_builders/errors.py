"""Every way in which a feature pack can be wrong, one class a kind.

All of them are a `PackError`, which is a `ValueError`: catch that one to report a bad pack without a traceback.
"""

from dlkd_jax.errors import UserError


class PackError(UserError):
  """A feature pack, or a request made of it, cannot be used."""


class MissingFileError(PackError):
  """A file or folder of the pack is absent."""


class AmbiguousFileError(PackError):
  """Several files could be meant and none has the default name."""


class MalformedFileError(PackError):
  """A file is not in the format that its name promises."""


class TruncatedFileError(PackError):
  """feature.bin holds more or fewer bytes than shape.txt says."""


class ShapeFileError(PackError):
  """shape.txt and id.txt disagree on the number of rows."""


class MissingRowError(PackError):
  """video2frames.txt names a row that id.txt does not hold."""


class MissingFeaturesError(PackError):
  """A caption has no token features, or its video no student features."""


class MissingTeacherError(PackError):
  """A video or caption that needs teacher features has none."""


class WrongSizeError(PackError):
  """An array has another number of axes or of features than the others of its file."""


class EmptyError(PackError):
  """A caption without text, a split without captions, or features without rows."""


class NotFiniteError(PackError):
  """Features hold NaN or an infinity."""


class RangeError(PackError):
  """A finite value is too large for the type it is to be stored in."""


class DuplicateIdError(PackError):
  """An id that must be unique occurs twice."""


class BuiltDifferentlyError(PackError):
  """The folder already holds this data set, made from other options or other files."""


class BusyError(PackError):
  """Another process is building into the same folder."""
