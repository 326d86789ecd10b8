"""Timings beside the peers; each script records its figures for the book."""
