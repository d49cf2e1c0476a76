"""Foundations of all packages: errors, files, seeds, registry, plugins, cache, devices."""
