"""Set before JAX is first imported: eight CPU devices, and no silent rank promotion."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
flags = os.environ.get('XLA_FLAGS', '')
if 'host_platform_device_count' not in flags:
  os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count=8'.strip()
os.environ.setdefault('JAX_NUMPY_RANK_PROMOTION', 'raise')
