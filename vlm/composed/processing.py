"""ComposedProcessor: the vision tower's image processor and the text model's tokenizer, together."""

from pathlib import Path

from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin


class ComposedProcessor(ProcessorMixin):
    """Images to `pixel_values`, questions to `input_ids` and `attention_mask`."""

    def __init__(self, image_processor=None, tokenizer=None, **kwargs) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_towers(cls, vision: str | Path, text: str | Path, **kwargs: object) -> "ComposedProcessor":
        """The image processor of one model and the tokenizer of another, from folders or Hub ids.

        `kwargs` (`local_files_only`, `revision`, …) go to both `from_pretrained`. Raises what transformers
        raises where there is none: OSError, ValueError, or ImportError for a package that is missing.
        """
        kwargs |= {"trust_remote_code": False}
        return cls(
            image_processor=AutoImageProcessor.from_pretrained(vision, **kwargs),
            tokenizer=AutoTokenizer.from_pretrained(text, **kwargs),
        )

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """`pixel_values` [B, 3, H, W] for `images`, `input_ids` and `attention_mask` [B, L] for `text`.

        SigLIP 2 of flexible resolution has `pixel_values` [B, patches, 3 * patch size^2], and with them
        `pixel_attention_mask` and `spatial_shapes`. Keywords go to the tokenizer (`padding`,
        `return_tensors`, …). Raises ValueError with neither.
        """
        if images is None and text is None:
            raise ValueError("Give images, text or both.")
        features: dict = {}
        if images is not None:
            image_arguments = {key: kwargs[key] for key in ("return_tensors",) if key in kwargs}
            features |= self.image_processor(images, **image_arguments)
        if text is not None:
            features |= self.tokenizer(text, return_token_type_ids=False, **kwargs)
        return BatchFeature(features, tensor_type=kwargs.get("return_tensors"))

    @property
    def model_input_names(self) -> list[str]:
        return [*self.image_processor.model_input_names, "input_ids", "attention_mask"]
