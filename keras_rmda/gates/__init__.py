"""Stochastic gates that close channels."""
