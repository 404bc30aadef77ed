"""What a paper prints of a run, and of several: intervals, slices, moments, fusion, significance, figures, documents.

`bootstrap`, `significance`, `slices`, `relevance`, `moment_accuracy` and `fusion` are numpy alone; `collection` and
`frame_curves` read a run and its data set; `analysis` puts the findings together; `plots` draws them; `sections` says
them; `document` writes HTML and Markdown. `variants`, `sweeping` and `sweep_table` are the ablations.
"""
