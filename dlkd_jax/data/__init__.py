"""From records to batches: reading, resampling, normalising, packing and masking features.

`batch` holds the typed batch that training takes, `input_pipeline` makes a shuffled, resumable stream of them,
`evaluation_blocks` walks a whole split in order, and `transforms` holds the arithmetic, in numpy alone.

Where a batch's videos lie follows from `lengths`, without reading records: `arrangement` orders them, shares them
among devices (`sharing`) and packs them into rows (`packing`); `plan` chooses the few shapes (`ladder`) that batches
take; and `collation` reads the records and writes them into place.
"""
