"""What is remembered in SQL: SQLite by default, PostgreSQL by DATABASE_URL."""
