"""The command line; the commands are grouped by purpose."""
