"""What wraps users' estimators: what they must be, how weights and seeds get into them, how they are counted."""
