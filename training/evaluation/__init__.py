"""How good the answers are: metrics, the blindfold test, comparisons."""
