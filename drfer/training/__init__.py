"""Losses, augmentation, stages and the trainer."""
