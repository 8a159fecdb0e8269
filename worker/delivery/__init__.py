"""Why nothing is lost or done twice: reserve, lease, claim, dead letters. See docs/guarantees.md."""
