"""DL-DKD++ in JAX: partially relevant video retrieval."""
