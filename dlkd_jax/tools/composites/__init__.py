"""What `dlkd_jax.tools.composites_table` consists of: clips joined to untrimmed videos, and a ridge regression."""
