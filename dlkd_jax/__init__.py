"""DL-DKD++ in JAX: partially relevant video retrieval."""

__version__ = '0.2.0'
