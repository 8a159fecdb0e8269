"""Pictures and documents as bytes, within limits; knows no model."""
