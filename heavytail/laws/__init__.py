"""The stable laws: draws, densities, and the tail index from data."""
