"""One model: what it is, how it is loaded, adapted and asked. Importing this imports nothing heavy."""
