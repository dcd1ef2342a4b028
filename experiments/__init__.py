"""What the project measures and claims, beside the library: theory, benchmarks, scripts.  Not in the wheel."""
