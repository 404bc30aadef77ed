"""Errors that were written for the person at the command line."""


class UserError(ValueError):
  """What was given cannot be used: the message says what was found, what was expected and what to do.

  Commands print it as one line and exit with 1. Any other exception is a bug, and keeps its traceback.
  """
