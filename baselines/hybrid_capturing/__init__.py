"""Networks of HCN and how they are trained."""
