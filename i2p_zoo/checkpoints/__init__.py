"""Checkpoints: a network's config, weights and card on disk and on the Hub; no class of networks is known here."""
