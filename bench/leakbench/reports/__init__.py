"""Tables, figures, leaderboard and site, from records alone."""
