"""Recipes: each module has `get_config(arg)`, see `dlkd_jax.config_defaults`."""
