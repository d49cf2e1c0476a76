"""Whether a folder of records, somebody else's say, holds what a measurement can have given."""
