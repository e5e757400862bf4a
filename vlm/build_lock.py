"""One model is built at a time: meanwhile transformers and PEFT patch torch.nn.Module, for all threads.

transformers ties no weights while it loads some (`no_tie_weights`), and with `low_cpu_mem_usage` PEFT takes
every new parameter to the meta device (`init_empty_weights`). What another thread builds meanwhile comes out
with its weights untied, or with none: the page counts, checks and answers at once. No torch.
"""

import threading

BUILDING = threading.RLock()
"""Held while modules are made: by `from_config`, `from_pretrained` and PEFT. Nothing is fetched meanwhile."""
