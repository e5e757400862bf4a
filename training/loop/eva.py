"""EVA's look at the training examples before step 1; what it does with them is vlm.adapters.eva."""

import random
from collections.abc import Iterator, Sequence

from transformers import BatchFeature

from training.batching.collator import Collator
from training.loop.context import RunContext
from vlm import adapters
from vlm.example import Example

# The directions of more examples hardly differ.
EXAMPLES = 128


def start_eva(
    context: RunContext, model: adapters.PeftModel, collator: Collator, examples: Sequence[Example]
) -> None:
    """Turns the adapter of a run of EVA along its own examples, drawn by the run's seed.

    Of several processes each looks at the same examples, and comes to the same adapter.
    """
    config = context.config
    if config.method != "eva" or config.from_adapter is not None:
        return
    drawn = random.Random(config.seed).sample(examples, min(EXAMPLES, len(examples)))

    def batches() -> Iterator[BatchFeature]:
        for first in range(0, len(drawn), config.batch_size):
            context.phase("measuring inputs", first, len(drawn))
            yield collator(drawn[first : first + config.batch_size])

    adapters.start_along_inputs(model, batches())
