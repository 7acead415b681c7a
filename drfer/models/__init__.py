"""The network, to be read from its definition: encoder, branches, fusion module, and DrFER whole."""
