"""Tokens: the tensor, its layout, its rows and groups, and how it meets dense tensors."""
