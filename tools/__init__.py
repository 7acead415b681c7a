"""What only the kit's authors run."""
