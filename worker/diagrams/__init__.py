"""Diagrams of processes: read from Mermaid, PlantUML, BPMN, drawio and JSON, and written again; knows no model."""
