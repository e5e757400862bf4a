"""Load adapters of every method, train on from them, and take them off again; probe and merge them."""

from pathlib import Path

import pytest
import torch

from adapter_folders import INPUTS, LABELS, fresh, logits, settings_of, trained
from vlm import adapters
from vlm.methods import METHODS, Method

LOADABLE = [method for method in METHODS if METHODS[method].keeps_base]


@pytest.mark.parametrize("method", LOADABLE)
def test_whatever_a_run_trains_can_be_loaded_trained_on_and_taken_off(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    """The same logits to the last bit, the same parameters to train, and the base as it was afterwards."""
    model = trained(fresh(tiny_base), settings_of(method, connector="full"))
    adapters.save(model, tmp_path)
    again = fresh(tiny_base)
    untouched, before = logits(again), {name: t.clone() for name, t in again.state_dict().items()}
    loaded = adapters.load(again, tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), untouched)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with adapters.base_alone(loaded) as alone:
        assert torch.equal(logits(alone), untouched)
    assert torch.equal(logits(loaded), logits(model)), "switched on again"
    assert adapters.take_off(loaded) is again
    assert torch.equal(logits(again), untouched)
    after = again.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("method", LOADABLE)
def test_training_can_go_on_from_an_adapter_and_the_base_stays_frozen(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings_of(method, connector="full"))
    adapters.save(model, tmp_path / "first")
    base = fresh(tiny_base)
    again = adapters.load(base, tmp_path / "first", trainable=True)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in again.named_parameters() if parameter.requires_grad} == names
    torch.testing.assert_close(logits(again.eval()), logits(model), rtol=0, atol=1e-5)
    before = {name: parameter.detach().clone() for name, parameter in again.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=1e-2)
    again(**INPUTS, labels=LABELS).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in again.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert moved <= names
    adapters.save(again, tmp_path / "second")
    assert adapters.inspect(tmp_path / "second").base_name == "tiny"
    assert torch.equal(logits(adapters.load(fresh(tiny_base), tmp_path / "second")), logits(again))
