"""How the tables came to be, a step a file in `versions/`; run by `worker.database.migrating`."""
