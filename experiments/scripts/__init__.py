"""What made the numbers and pictures of docs/, one module each.

In the checkout: `python -m experiments.scripts.NAME --help`.
"""
