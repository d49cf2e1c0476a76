"""The engine of gradient matching, and what its attacks share."""
