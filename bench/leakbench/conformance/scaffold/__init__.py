"""Writing a plugin to begin with."""
