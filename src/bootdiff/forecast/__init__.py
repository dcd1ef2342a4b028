"""What each view is worth, before anything is trained: linear denoisers of Gaussian laws (`bootdiff plan`)."""
