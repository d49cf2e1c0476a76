"""What everything else stands on: errors, files, seeds, registries, plugins, devices."""
