"""How what ships with the project was made; no room imports this."""
