"""One model: what a vision-language model is, how it is loaded, adapted and asked. Importing this imports nothing heavy."""
