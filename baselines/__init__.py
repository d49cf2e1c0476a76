"""Controls, and attacks of another kind to compare with."""
