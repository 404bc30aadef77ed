"""What `dlkd_jax.tools.plan` consists of: devices that are not here, compiled programs, and what they cost."""
