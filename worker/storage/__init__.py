"""Inputs that do not travel in messages."""
