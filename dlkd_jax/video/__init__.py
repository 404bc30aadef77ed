"""From video files to pictures with times, and from pictures to sheets that a person can look at.

`files` finds videos and opens them, saying by name and reason what cannot be opened; `decoding` reads frames and
samples them at a rate, with the times of the stream; `pictures` turns a decoded frame into an upright RGB array;
`contact_sheet` draws rows of labelled pictures; `composites` writes videos, such as several joined end to end.
"""
