"""leakbench: what a federated-learning server learns about each individual, measured."""
