"""Both streams of an adapted linear equal their definition in values and gradients. Adapters can be merged."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.config import LoRA
from easq_rec.model.initial import initialise
from easq_rec.model.lora import AdaptedLinear, Stream, StreamNorm, feed_forward, merged_once
from easq_rec.model.ranker import Ranker
from tests.builders import excite, random_batch, small_config

WIDTHS = st.integers(1, 6)


def linear(inside: int, outside: int, rank: int = 2, *, dtype: torch.dtype = torch.float64) -> AdaptedLinear:
    torch.manual_seed(inside * 100 + outside)
    module = AdaptedLinear(inside, outside, LoRA(rank=rank, alpha=3.0)).to(dtype)
    initialise(module, seed=inside * 100 + outside)
    excite(module)
    return module


def gradients(y: Tensor, x: Tensor, module: torch.nn.Module) -> dict[str, Tensor | None]:
    """Gradients of a fixed random projection of y with regard to x and all parameters; None where there is no path."""
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad((y * weight).sum(), (x, *parameters), allow_unused=True)
    return dict(zip(("x", *names), found, strict=True))


SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3)
TYPES = st.sampled_from([torch.float32, torch.float64])
"""Products of the two dtypes may use different kernels."""


def assert_gradients(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    """Checks that gradients are equal, and None where the expected gradient is None."""
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=partial("{}: {}".format, name))


@given(shape=SHAPES, inside=WIDTHS, outside=WIDTHS, rank=WIDTHS, dtype=TYPES)
@settings(max_examples=100, deadline=None)
def test_the_main_stream_is_the_sum_with_a_constant_adapter(
    shape: list[int], inside: int, outside: int, rank: int, dtype: torch.dtype
) -> None:
    """The main stream is h + sg(h_LoRA), for any leading shape, including one without rows.

    A and B get no gradient. W0, b and x get the gradients of h.
    """
    module = linear(inside, outside, rank, dtype=dtype)
    x = torch.randn(*shape, inside, dtype=dtype, requires_grad=True)
    assert module.lora_a is not None and module.lora_b is not None
    h_lora = 3.0 / rank * (x @ (module.lora_b @ module.lora_a).T)
    slow = x @ module.weight.T + module.bias + h_lora.detach()
    fast = module(x, Stream.MAIN)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    assert_gradients(gradients(fast, x, module), gradients(slow, x, module))


@given(shape=SHAPES, inside=WIDTHS, outside=WIDTHS, rank=WIDTHS, dtype=TYPES)
@settings(max_examples=100, deadline=None)
def test_the_satisfaction_stream_is_the_adapter_with_a_constant_sum(
    shape: list[int], inside: int, outside: int, rank: int, dtype: torch.dtype
) -> None:
    """The satisfaction stream is sg(h) + h_LoRA.

    W0 and b get no gradient. A, B and x get the gradients of h_LoRA.
    """
    module = linear(inside, outside, rank, dtype=dtype)
    x = torch.randn(*shape, inside, dtype=dtype, requires_grad=True)
    assert module.lora_a is not None and module.lora_b is not None
    h_lora = 3.0 / rank * (x @ (module.lora_b @ module.lora_a).T)
    slow = (x @ module.weight.T + module.bias).detach() + h_lora
    fast = module(x, Stream.SATISFACTION)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    assert_gradients(gradients(fast, x, module), gradients(slow, x, module))


@given(shape=SHAPES, inside=WIDTHS, outside=WIDTHS, dtype=TYPES)
@settings(max_examples=60, deadline=None)
def test_a_linear_without_an_adapter(shape: list[int], inside: int, outside: int, dtype: torch.dtype) -> None:
    """Without an adapter a linear is plain in the main stream, and a constant in the satisfaction stream."""
    torch.manual_seed(0)
    module = AdaptedLinear(inside, outside, None).to(dtype)
    initialise(module, seed=0)
    excite(module)
    x = torch.randn(*shape, inside, dtype=dtype, requires_grad=True)
    slow = x @ module.weight.T + module.bias
    fast, constant = module(x, Stream.MAIN), module(x, Stream.SATISFACTION)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(constant, slow, rtol=1e-5, atol=1e-5)
    assert_gradients(gradients(fast, x, module), gradients(slow, x, module))
    assert not constant.requires_grad


@given(shape=SHAPES, widths=st.tuples(WIDTHS, WIDTHS, WIDTHS), adapted=st.sampled_from(["both", "second", "none"]))
@settings(max_examples=100, deadline=None)
def test_the_feed_forward_net_has_a_relu_between_its_linears(
    shape: list[int], widths: tuple[int, int, int], adapted: str
) -> None:
    """The first linear applies the ReLU, and the second computes its gradient.

    Together they equal the ReLU of autograd in both streams.
    """
    inside, hidden, outside = widths
    torch.manual_seed(0)
    lora = LoRA(rank=2, alpha=3.0)
    first = AdaptedLinear(inside, hidden, lora if adapted == "both" else None).double()
    second = AdaptedLinear(hidden, outside, lora if adapted != "none" else None).double()
    net = torch.nn.ModuleList([first, second])
    initialise(net, seed=0)
    excite(net)
    x = torch.randn(*shape, inside, dtype=torch.float64, requires_grad=True)
    for stream in Stream:
        fast, slow = feed_forward(first, second, x, stream), second(first(x, stream).relu(), stream)
        torch.testing.assert_close(fast, slow)
        assert fast.requires_grad == slow.requires_grad
        if fast.requires_grad:
            assert_gradients(gradients(fast, x, net), gradients(slow, x, net))


def test_parameters_learn_if_the_input_has_no_gradient() -> None:
    """The inputs of the isolated pathway and of the first layer are constants, but the parameters still learn."""
    module = linear(4, 3)
    x = torch.randn(5, 4, dtype=torch.float64)
    for stream, learns in ((Stream.MAIN, {"weight", "bias"}), (Stream.SATISFACTION, {"lora_a", "lora_b"})):
        module.zero_grad()
        module(x, stream).sum().backward()
        assert {name for name, parameter in module.named_parameters() if parameter.grad is not None} == learns


def test_a_slice_of_a_larger_tensor() -> None:
    """The input is not contiguous, and the incoming gradient is expanded."""
    module = linear(4, 3, dtype=torch.float32)
    whole = torch.randn(2, 6, 8, requires_grad=True)
    x = whole[:, 2:, ::2]
    assert module.lora_a is not None and module.lora_b is not None
    slow = x @ (module.weight + module.scale * module.lora_b @ module.lora_a).T + module.bias
    torch.testing.assert_close(module(x, Stream.MAIN), slow, rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(module(x, Stream.MAIN).sum(), whole)
    (expected,) = torch.autograd.grad((x @ module.weight.T).sum(), whole)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [(5,), (2, 3), (0,), (2, 0)])
def test_streams_have_equal_values(rows: tuple[int, ...]) -> None:
    module = linear(4, 3)
    x = torch.randn(*rows, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x, Stream.MAIN), module(x, Stream.SATISFACTION))


@pytest.mark.parametrize("rows", [(64,), (4, 16), (0,)])
def test_under_bf16_autocast(rows: tuple[int, ...]) -> None:
    """Both streams compute in bf16. Gradients have the dtype of the parameters and are near those of fp32."""
    module = linear(8, 6, dtype=torch.float32)
    x = torch.randn(*rows, 8, requires_grad=True)
    for stream, names in ((Stream.MAIN, ("x", "weight", "bias")), (Stream.SATISFACTION, ("x", "lora_a", "lora_b"))):
        exact = module(x, stream)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = module(x, stream)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
        found, expected = gradients(y, x, module), gradients(exact, x, module)
        for name in names:
            assert found[name].dtype == torch.float32
            torch.testing.assert_close(found[name], expected[name], rtol=0.05, atol=0.3, msg=name)


def test_an_adapter_starts_at_zero_and_can_learn() -> None:
    """At the start both streams are W0 x + b, and the gradient of B is not zero."""
    module = AdaptedLinear(4, 3, LoRA(rank=2))
    initialise(module, seed=0)
    x = torch.randn(5, 4, requires_grad=True)
    for stream in Stream:
        torch.testing.assert_close(module(x, stream), F.linear(x, module.weight, module.bias))
    found = gradients(module(x, Stream.SATISFACTION), x, module)
    assert found["lora_b"].any()


def test_the_affine_parameters_of_the_norm_are_constants_of_the_satisfaction_stream() -> None:
    """The input of the norm still gets the gradient, which reaches the adapters below."""
    norm = StreamNorm(4).double()
    excite(norm)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    main, satisfaction = norm(x, Stream.MAIN), norm(x, Stream.SATISFACTION)
    torch.testing.assert_close(main, F.layer_norm(x, (4,), norm.weight, norm.bias, norm.eps))
    torch.testing.assert_close(main, satisfaction)
    in_main, in_satisfaction = gradients(main, x, norm), gradients(satisfaction, x, norm)
    torch.testing.assert_close(in_main["x"], in_satisfaction["x"])
    assert in_main["weight"].any() and in_main["bias"].any()
    assert in_satisfaction["weight"] is None and in_satisfaction["bias"] is None


def test_adapters_are_merged_once_per_step() -> None:
    """Both streams use the weights that were merged at the start of the step.

    After the step a change of an adapter has an effect again.
    """
    module = linear(5, 3)
    x = torch.randn(7, 5, dtype=torch.float64)
    before = module(x, Stream.MAIN)
    assert module.lora_b is not None
    with merged_once([module]):
        with torch.no_grad():
            module.lora_b.add_(1)
        torch.testing.assert_close(module(x, Stream.MAIN), before)
        torch.testing.assert_close(module(x, Stream.SATISFACTION), before)
    assert (module(x, Stream.MAIN) - before).abs().max() > 1e-3


def test_merging_keeps_the_value() -> None:
    module = linear(5, 3)
    merged = copy.deepcopy(module)
    merged.merge()
    x = torch.randn(7, 5, dtype=torch.float64)
    for stream in Stream:
        torch.testing.assert_close(merged(x, stream), module(x, stream))
    assert [name for name, _ in merged.named_parameters()] == ["weight", "bias"]
    merged.merge()  # there is no adapter left to merge
    torch.testing.assert_close(merged(x, Stream.MAIN), module(x, Stream.MAIN))


@pytest.mark.parametrize("targets", [None, ("query", "ffn_out")])
def test_a_merged_ranker_serves_the_same_scores(targets: tuple[str, ...] | None) -> None:
    """Both towers of the ranker give the same scores, and no adapter is left in it."""
    config = small_config()
    if targets:
        lora = dataclasses.replace(config.model.lora, targets=targets)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=lora))
    ranker = Ranker(config, torch.device("cpu")).eval()
    excite(ranker)
    batch = random_batch(config)
    before = ranker.score(batch)
    ranker.network.merge_adapters()
    after = ranker.score(batch)
    assert not [name for name in ranker.state_dict() if "lora" in name]
    for name in ("main_N", "satisfaction_N"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=1e-5, atol=1e-6)


def test_adapters_change_the_scores() -> None:
    """The tests above would not find an adapter that both streams omit."""
    config = small_config()
    ranker = Ranker(config, torch.device("cpu")).eval()
    excite(ranker)
    batch = random_batch(config)
    before = ranker.score(batch).main_N
    for module in ranker.modules():
        if isinstance(module, AdaptedLinear):
            assert module.lora_b is not None
            torch.nn.init.zeros_(module.lora_b)
    assert (ranker.score(batch).main_N - before).abs().max() > 1e-2
