"""Inflation of a whole network: its settings, structure, state and the report of every tensor."""
