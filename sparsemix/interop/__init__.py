"""In and out of the ecosystem: models of other libraries here, and ours there."""
