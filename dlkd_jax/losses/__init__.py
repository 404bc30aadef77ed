"""The losses of DL-DKD++: pure functions of arrays."""
