"""From records to batches: reading, resampling, normalising, padding and masking features.

`batch` holds the typed batch that training takes, `input_pipeline` makes a shuffled, resumable stream of them,
`evaluation_blocks` walks a whole split in order, and `transforms` holds the arithmetic, in numpy alone.
"""
