"""The zoo's workshop, run from a checkout as `python -m conversion`; it imports i2p_zoo and is not shipped."""
