"""What the samples of a Probabilistic U-Net say together, and whether raters say the same."""
