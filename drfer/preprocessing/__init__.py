"""From a scan to what the network sees: registration, resampling, farthest-point order."""
