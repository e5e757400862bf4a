"""How others write turns: keys, roles, pairs and blocks of other names -> role and content. No torch.

What is no turn stays as it is, and is found by `formats`.
"""

from collections.abc import Mapping

from vlm.errors import UserError

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}
IMAGE_KEYS = ("image", "path", "url", "image_url")


def tagged(turns: object, tags: Mapping[str, str]) -> object:
    """Turns whose keys and roles have other names; one with question and answer at once is two."""
    if not isinstance(turns, list) or not tags:
        return turns
    role_key, content_key = tags.get("role_tag", "role"), tags.get("content_tag", "content")
    named = {tags[f"{role}_tag"]: role for role in ("user", "assistant", "system") if f"{role}_tag" in tags}
    read: list[object] = []
    for turn in turns:
        if isinstance(turn, dict) and role_key in turn:
            spoken = turn[role_key]
            role = ROLES.get(spoken, spoken) if isinstance(spoken, str) else spoken
            role = named.get(spoken, role) if isinstance(spoken, str) else role
            read.append({"role": role, "content": turn.get(content_key)})
        elif pair := _pair(turn):
            read += pair
        else:
            read.append(turn)
    return read


def _pair(turn: object) -> list[object]:
    """A question and its answer in one object, as the Cauldron and ms-swift have them; else nothing."""
    if not isinstance(turn, dict):
        return []
    asked, answered = (
        [key for key in keys if key in turn] for keys in (("user", "human"), ("assistant", "gpt"))
    )
    if len(asked) != 1 or len(answered) != 1:
        return []
    return [{"role": "user", "content": turn[asked[0]]}, {"role": "assistant", "content": turn[answered[0]]}]


def said(value: object, role: str) -> list[object]:
    """TRL's prompt or completion: turns, or a text."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def history_turns(pairs: object) -> list[object]:
    """Earlier questions and answers, a pair each, as LLaMA-Factory and ms-swift have them."""
    turns: list[object] = []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(
                f"pair {number} of history is not a question and an answer", 'Write ["question", "answer"]'
            )
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def with_system(system: object, turns: object) -> object:
    if not isinstance(system, str) or not system.strip() or not isinstance(turns, list):
        return turns
    return [{"role": "system", "content": system}, *turns]


def lifted(turns: object) -> tuple[object, list[object]]:
    """The turns with plain image blocks, and the images that stood in the blocks; all of them, or none."""
    images: list[object] = []
    if not isinstance(turns, list):
        return turns, images
    read = [_without_images(turn, images) for turn in turns]
    whole = bool(images) and all(image is not None for image in images)
    return (read, images) if whole else (turns, [])


def _without_images(turn: object, images: list[object]) -> object:
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), list):
        return turn
    content = []
    for block in turn["content"]:
        if isinstance(block, dict) and block.get("type") in ("image", "image_url"):
            own = next((block[key] for key in IMAGE_KEYS if block.get(key) is not None), None)
            images.append(own.get("url") if isinstance(own, dict) and "url" in own else own)
            block = {"type": "image"}
        content.append(block)
    return {**turn, "content": content}
