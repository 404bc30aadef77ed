"""What a recipe is made of; it stands in `dlkd_jax.config_defaults`."""

from dlkd_jax.config_defaults import ARGUMENTS, base, finish

__all__ = ['ARGUMENTS', 'base', 'finish']
