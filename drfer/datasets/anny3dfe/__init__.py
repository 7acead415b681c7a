"""Anny-3DFE: an open, synthetic face database with the structure of BU-3DFE."""
