"""From the matrix to the network: prediction, pruning, the width law, compaction, a bound."""
