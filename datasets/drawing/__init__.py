"""How individuals of `synthetic` are drawn."""
