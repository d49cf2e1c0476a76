"""Property models f_p, from deep features or images to probabilities of properties."""
