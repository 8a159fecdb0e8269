"""One step each: `upgrade` does it, `downgrade` undoes it."""
