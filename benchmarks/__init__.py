"""Timings beside the peers: python -m benchmarks.NAME [--record FILE] [--rounds N]."""
