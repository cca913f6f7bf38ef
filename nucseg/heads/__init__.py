"""Heads: everything about one output of the network, one file each."""
