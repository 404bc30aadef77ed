"""From records to batches: reading, resampling, packing and masking features.

`sources` reads records and their lengths; `train_pipeline` makes a shuffled, resumable stream of training batches,
`evaluation_blocks` walks a whole split in order. A batch (`batch`) comes about like this: `packing` shares its videos
among devices, places them in rows, from their lengths alone, and knows the two shapes that batches take; and
`train_pipeline` copies the records into place (`transforms` averages those that are too long).
"""
