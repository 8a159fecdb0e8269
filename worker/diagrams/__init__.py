"""Diagrams of processes as text: into steps, and out of them again; knows no model."""
