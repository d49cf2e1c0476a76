"""Gradient matching on deep features: dummies are features, and g_c is what is matched."""
