"""What a fitted mixture says of new rows: pooled experts, the mixture density and its quantiles."""
