"""Models cut, grown and joined: each edit says whether it keeps the function, and by how much it does not."""
