"""The model-construction lock: one thread at a time builds modules. No torch.

While they construct, transformers and PEFT patch torch.nn.Module for all threads: transformers ties no
weights while it loads some (`no_tie_weights`), and with `low_cpu_mem_usage` PEFT moves every new parameter to
the meta device (`init_empty_weights`). What another thread builds meanwhile has its weights untied, or none:
the page counts, checks and answers at once.
"""

import threading

# Held around `from_config`, `from_pretrained` and PEFT's constructors alone: a download under it would keep
# every other answer of the page waiting for minutes.
CONSTRUCTION_LOCK = threading.RLock()
