"""The student in plain float64 numpy loops, on parameters under the release's names and in torch's layout.

Written from the description of the method alone; it knows nothing of the package.
"""

import math

import numpy as np

EPSILON = 1e-5


def random_release(rng, hidden, frame_features, token_features, max_frames, max_words, dual=True):
  """Random parameters under the release's names: `weight` of a linear layer is `[out, in]`."""
  arrays = {}

  def put(name, *shape, around=0.0):
    arrays[name] = (around + 0.3 * rng.standard_normal(shape)).astype(np.float32)

  for prefix in ('', 'exp_') if dual else ('',):
    sides = (('visual_', frame_features, max_frames), ('query_', token_features, max_words))
    for side, features, positions in sides:
      name = prefix + side
      put(f'{name}pos_embed.position_embeddings.weight', positions, hidden)
      for norm, size in (('input_proj', features), ('pos_embed', hidden), ('encoder.output', hidden)):
        put(f'{name}{norm}.LayerNorm.weight', size, around=1.0)
        put(f'{name}{norm}.LayerNorm.bias', size)
      put(f'{name}input_proj.net.1.weight', hidden, features)
      put(f'{name}input_proj.net.1.bias', hidden)
      for layer in ('self.query', 'self.key', 'self.value', 'output.dense'):
        put(f'{name}encoder.{layer}.weight', hidden, hidden)
        put(f'{name}encoder.{layer}.bias', hidden)
    put(f'{prefix}out_mapping_linear.weight', hidden, hidden)
    put(f'{prefix}out_mapping_linear.bias', hidden)
    put(f'{prefix}modular_vector_mapping.weight', 1, hidden)
  return arrays


def linear(arrays, name, x):
  weight = arrays[f'{name}.weight'].astype(np.float64)
  bias = arrays.get(f'{name}.bias', np.zeros(len(weight)))
  return np.array([sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)])


def layer_norm(arrays, name, x):
  mean = sum(x) / len(x)
  variance = sum((v - mean) ** 2 for v in x) / len(x)
  return (x - mean) / math.sqrt(variance + EPSILON) * arrays[f'{name}.weight'] + arrays[f'{name}.bias']


def softmax(values):
  top = max(values)
  powers = [math.exp(v - top) for v in values]
  return [p / sum(powers) for p in powers]


def encode(arrays, name, rows, heads):
  """One sequence of real rows `[T, D]` through one encoder, `[T, H]`."""
  states = []
  for t, row in enumerate(np.asarray(rows, np.float64)):
    x = np.maximum(linear(arrays, f'{name}input_proj.net.1', layer_norm(arrays, f'{name}input_proj.LayerNorm', row)), 0)
    x = x + arrays[f'{name}pos_embed.position_embeddings.weight'][t]
    states.append(layer_norm(arrays, f'{name}pos_embed.LayerNorm', x))
  query, key, value = (
    [linear(arrays, f'{name}encoder.self.{n}', x) for x in states] for n in ('query', 'key', 'value')
  )
  size = len(states[0]) // heads
  outputs = []
  for t, state in enumerate(states):
    context = np.zeros_like(state)
    for head in range(heads):
      part = slice(head * size, (head + 1) * size)
      weights = softmax([float(query[t][part] @ k[part]) / math.sqrt(size) for k in key])
      for weight, v in zip(weights, value, strict=True):
        context[part] += weight * v[part]
    mixed = state + linear(arrays, f'{name}encoder.output.dense', context)
    outputs.append(layer_norm(arrays, f'{name}encoder.output.LayerNorm', mixed))
  return outputs


def encode_frames(arrays, prefix, rows, heads):
  return np.array(
    [linear(arrays, f'{prefix}out_mapping_linear', x) for x in encode(arrays, f'{prefix}visual_', rows, heads)]
  )


def encode_tokens(arrays, prefix, rows, heads):
  states = encode(arrays, f'{prefix}query_', rows, heads)
  weights = softmax([float(linear(arrays, f'{prefix}modular_vector_mapping', x)[0]) for x in states])
  return sum(w * x for w, x in zip(weights, states, strict=True))
