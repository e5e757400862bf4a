"""ComposedProcessor: the vision tower's image processor and the text model's tokenizer, together."""

from transformers import BatchFeature, ProcessorMixin


class ComposedProcessor(ProcessorMixin):
    """Images to `pixel_values`, questions to `input_ids` and `attention_mask`."""

    def __init__(self, image_processor=None, tokenizer=None, **kwargs) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """`pixel_values` [B, 3, H, W] for `images`, `input_ids` and `attention_mask` [B, L] for `text`.

        Keywords go to the tokenizer (`padding`, `return_tensors`, …). Raises ValueError with neither.
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
        return ["pixel_values", "input_ids", "attention_mask"]
