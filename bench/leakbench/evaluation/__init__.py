"""One cell in, one record out: preparation, measuring and scoring."""
