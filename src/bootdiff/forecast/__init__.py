"""What each view is worth, before anything is trained: linear denoisers of Gaussian distributions (`bootdiff plan`)."""
