"""From stored results to figures and tables."""
