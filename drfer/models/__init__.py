"""The network: encoder, branches, fusion, and DrFER as a whole."""
