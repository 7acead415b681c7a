"""From a trained model to numbers: what the features hold."""
