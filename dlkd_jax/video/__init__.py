"""From video files to pictures with times, and from pictures to sheets that a person can look at.

`files` finds videos and opens them, saying by name and reason what cannot be opened; `frames` reads frames with the
times of the stream and `damage` knows which of them can be trusted; `pictures` turns a frame into an upright RGB array;
`decoding` is what to call: it samples a video at a rate, and gives a picture or, as `spans` says, several around each
time. `contact_sheet` draws rows of labelled pictures; `composites` writes videos, such as several joined end to end.
"""
