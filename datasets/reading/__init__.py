"""What data sets of files share."""
