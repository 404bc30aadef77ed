"""Offline converters and benchmarks; optional dependencies are imported only here."""
