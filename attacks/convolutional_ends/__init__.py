"""Networks that end in a convolution, an average over positions and one linear layer."""
