"""Facts of a campaign as tables of text."""
