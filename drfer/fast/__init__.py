"""The same operators as in `models`, faster on a CPU."""
