"""Linear and kernel denoisers, bounds, information; `claims` are the claims of the paper as tests."""
