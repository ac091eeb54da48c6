"""Columns of tables in blocks, and Newton steps on them."""
