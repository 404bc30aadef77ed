"""A local web page to search a gallery on: the server's parts; the page itself is in `static/`."""
