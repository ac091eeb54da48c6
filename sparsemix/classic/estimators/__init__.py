"""The four estimators: their input checked, their fit planned, the fitted mixture asked."""
