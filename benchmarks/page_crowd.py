"""Many viewers of one run: what their pages ask, as often as they are told to, and a server to compare."""

import asyncio
import time

import httpx

STAND_IN = """
import sys
import gradio as gr

def look(asked):
    seen = asked.get("seen") or {}
    part = {"mark": "1", "html": "x" * 2000}
    return {"run": "x", "live": "x", "title": "1 %", "again_s": 8.0,
            "parts": {} if "head" in seen and len(seen) > 1 else {"head": part, "log": part}}

with gr.Blocks() as demo:
    gr.HTML("", server_functions=[look], elem_id="strip", js_on_load="")
demo.launch(server_port=int(sys.argv[1]), quiet=True)
"""


async def crowd(url: str, count: int, seconds: float) -> list[tuple[float, float]]:
    """Pages that ask for `seconds`: for each answer the time it took, and the time since the page's last."""
    component, function = strip_of(url)
    ends, answers = time.monotonic() + seconds, []

    async def page(number: int, client: httpx.AsyncClient) -> None:
        seen: dict[str, str] = {}
        last = None
        await asyncio.sleep(8 * number / count)
        while (asked := time.monotonic()) < ends:
            data = {"viewer": str(number), "opened": None, "seen": seen}
            body = {
                "data": data,
                "component_id": component,
                "fn_name": function,
                "session_hash": str(number),
            }
            answer = (await client.post(f"{url}/gradio_api/component_server", json=body)).json()
            now = time.monotonic()
            answers.append((now - asked, now - (last or asked)))
            last = now
            seen |= {name: part["mark"] for name, part in answer["parts"].items()}
            await asyncio.sleep(answer["again_s"])

    limits = httpx.Limits(max_connections=count, keepalive_expiry=2.0)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(page(number, client) for number in range(count)))
    return answers


def strip_of(url: str) -> tuple[int, str]:
    """The component whose function the page's script asks, and that function's name."""
    config = httpx.get(f"{url}/config", timeout=60, trust_env=False).json()
    bar = next(each for each in config["components"] if each["props"].get("elem_id") == "strip")
    return bar["id"], "look"
