"""How good the answers are: metrics, the blindfold and the forgetting test, comparisons."""
