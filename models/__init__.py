"""What learns: River estimators over the arrays of `core`."""
