"""Recipes: whole experiments as functions; what they cite, and where they differ, stands at their head."""
