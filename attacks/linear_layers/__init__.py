"""What attacks share that read features off gradients of fully connected layers."""
