"""bootdiff against everything a practitioner would pick instead, at equal training FLOPs."""
