"""The chunked cross-entropy against torch's and transformers' own, in value, in gradient, and in what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from langadapt.models import IGNORE
from langadapt.training.loss import LIGER_IS_INSTALLED, ChunkedLoss, chunked_cross_entropy, loss_obstacle

TOKENS, WIDTH, WORDS = 37, 16, 53


def layer(dtype: torch.dtype, *, bias: bool = True, device: str = "cpu") -> list[torch.Tensor]:
    """Hidden states, weight, bias and labels of which every fourth is not learned."""
    random = torch.Generator().manual_seed(0)
    shapes = [(TOKENS, WIDTH), (WORDS, WIDTH), (WORDS,)][: 3 if bias else 2]
    tensors = [torch.randn(*shape, generator=random).to(device, dtype).requires_grad_() for shape in shapes]
    labels = torch.randint(WORDS, (TOKENS,), generator=random)
    labels[::4] = IGNORE
    return [*tensors, labels.to(device)]


def plain(tensors: list[torch.Tensor], dtype: torch.dtype, label_smoothing: float = 0.0) -> torch.Tensor:
    hidden, weight, *bias, labels = (tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)
    logits = functional.linear(hidden, weight, *bias)
    logits = logits.double() if dtype == torch.float64 else logits.float()
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def chunked(tensors: list[torch.Tensor], **options: Any) -> torch.Tensor:
    hidden, weight, *bias, labels = tensors
    return chunked_cross_entropy(hidden, weight, labels, *bias, **options)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_value_and_gradients_are_those_of_the_plain_loss(chunk: int, bias: bool, label_smoothing: float) -> None:
    tensors = layer(torch.float64, bias=bias)
    expected = plain(tensors, torch.float64, label_smoothing)
    loss = chunked(tensors, chunk=chunk, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    ours = torch.autograd.grad(3 * loss, tensors[:-1])
    torch.testing.assert_close(ours, torch.autograd.grad(3 * expected, tensors[:-1]), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_that_of_the_plain_loss(dtype: torch.dtype, autocast: bool) -> None:
    tensors = layer(dtype)
    truth = plain(tensors, torch.float64)
    true_gradients = torch.autograd.grad(truth, tensors[:-1])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        theirs, ours = plain(tensors, dtype), chunked(tensors, chunk=8)
    assert theirs.dtype == ours.dtype == torch.float32
    spacing = 1e-6 if dtype == torch.float32 and not autocast else 1e-2
    assert abs(ours - truth) <= abs(theirs - truth) + spacing * 1e-2 * truth
    for true, their, our in zip(
        true_gradients, torch.autograd.grad(theirs, tensors[:-1]), torch.autograd.grad(ours, tensors[:-1]), strict=True
    ):
        assert our.dtype == their.dtype == dtype
        assert torch.dist(our.double(), true) <= torch.dist(their.double(), true) + spacing * 0.1 * true.norm()


def test_logits_too_high_for_an_exponential_give_a_finite_loss() -> None:
    hidden, weight, labels = layer(torch.float32, bias=False)
    tensors = [hidden.detach().mul(1000).requires_grad_(), weight, labels]
    loss, expected = chunked(tensors), plain(tensors, torch.float32)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, tensors[:2]), torch.autograd.grad(expected, tensors[:2]))


def test_the_sum_is_divided_by_the_tokens_of_the_whole_batch() -> None:
    tensors = layer(torch.float64)
    learned = int((tensors[-1] != IGNORE).sum())
    for num_items in (40, torch.tensor(40)):
        torch.testing.assert_close(chunked(tensors, num_items=num_items) * 40, chunked(tensors) * learned)


def test_without_a_learned_token_the_loss_is_that_of_torch() -> None:
    hidden, weight, bias, labels = layer(torch.float32)
    labels[:] = IGNORE
    assert chunked_cross_entropy(hidden, weight, labels, bias).isnan()
    loss = chunked_cross_entropy(hidden, weight, labels, bias, num_items=5)
    assert loss == 0
    loss.backward()
    assert not hidden.grad.any()


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_tensor_gets_no_gradient_and_changes_no_other(frozen: int) -> None:
    tensors = layer(torch.float64)
    expected = torch.autograd.grad(plain(tensors, torch.float64), tensors[:-1])
    tensors[frozen].requires_grad_(False)
    chunked(tensors).backward()
    for index, tensor in enumerate(tensors[:-1]):
        if index == frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, expected[index])


def test_a_second_backward_is_an_error_and_never_a_wrong_gradient() -> None:
    tensors = layer(torch.float32)
    loss = chunked(tensors)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Watch(TorchDispatchMode):
    """Notes the most elements that any result of an operation has, and counts the matrix products."""

    elements = products = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.products += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_more_logits_are_held_than_those_of_a_chunk() -> None:
    tensors = layer(torch.float32)
    with Watch() as watch:
        chunked(tensors, chunk=4).backward()
    assert watch.elements == WORDS * WIDTH
    with Watch() as watch:
        plain(tensors, torch.float32).backward()
    assert watch.elements == WORDS * TOKENS


def test_only_what_is_asked_for_is_computed() -> None:
    """Of seven chunks: the logits, and the gradients of hidden states and weight."""
    tensors = layer(torch.float32)
    with Watch() as watch:
        expected = chunked(tensors, chunk=4)
    assert watch.products == 3 * 7
    with Watch() as watch, torch.no_grad():
        loss = chunked(tensors, chunk=4)
    assert watch.products == 7
    assert loss == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "chunk", [8, pytest.param(None, marks=pytest.mark.skipif(not LIGER_IS_INSTALLED, reason="needs liger-kernel"))]
)
def test_a_gpu_gives_the_same_loss_and_gradients(chunk: int | None) -> None:
    tensors = layer(torch.float32, device="cuda")
    expected, loss = plain(tensors, torch.float32, 0.1), chunked(tensors, chunk=chunk, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, tensors[:-1])
    torch.testing.assert_close(ours, torch.autograd.grad(expected, tensors[:-1]), rtol=1e-3, atol=1e-5)


SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def small(kind: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **changes))


def batch() -> dict[str, Any]:
    """Two sequences: one of two packed documents, one whose end is padding; the first words of each not learned."""
    ids = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :3] = labels[0, 7] = labels[1, :2] = labels[1, 9:] = IGNORE
    positions = torch.stack([torch.tensor([*range(7), *range(5)]), torch.arange(12)])
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "use_cache": False}


def loss_and_gradients(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch(), **inputs).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 8}),
        ("llama", {}),
        ("phi", {}),  # its output layer has a bias
        ("mixtral", {"num_local_experts": 2, "output_router_logits": True}),  # its loss has a second part
    ],
)
@pytest.mark.parametrize("num_items", [None, 30])
def test_a_model_gives_its_own_loss_and_gradients(kind: str, changes: dict[str, Any], num_items: int | None) -> None:
    model = small(kind, **changes)
    expected = loss_and_gradients(model, num_items_in_batch=num_items)
    assert loss_obstacle(model) is None
    with ChunkedLoss(model):
        ours = loss_and_gradients(model, num_items_in_batch=num_items)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(loss_and_gradients(model, num_items_in_batch=num_items)[0], expected[0])
    assert model(**batch()).logits.shape == (2, 12, 61)


def test_activation_checkpointing_and_autocast_change_nothing() -> None:
    model = small("qwen2", tie_word_embeddings=True).train()
    model.activation_checkpointing_enable()
    with torch.autocast("cpu", torch.bfloat16):
        expected = loss_and_gradients(model)
        with ChunkedLoss(model):
            ours = loss_and_gradients(model)
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=1e-3)


def test_compiled_once_for_all_steps() -> None:
    model = small("qwen2")
    expected = loss_and_gradients(model)
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    chunked_loss = ChunkedLoss(model)
    frames = []
    for _ in range(3):
        with chunked_loss:
            loss, gradients = loss_and_gradients(compiled)
        frames.append(counter.frame_count)
        torch.testing.assert_close((loss, list(gradients.values())), (expected[0], list(expected[1].values())))
    torch.compiler.reset()
    assert frames[0] > 0
    assert frames[2] == frames[1]


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("gemma2", {"head_dim": 8}, "soft-caps"),
        ("cohere", {}, "scales"),
        ("granite", {"logits_scaling": 4.0}, "scales"),
    ],
)
def test_a_model_that_changes_its_logits_keeps_the_plain_loss(kind: str, changes: dict[str, Any], reason: str) -> None:
    model = small(kind, **changes)
    expected = loss_and_gradients(model)
    assert reason in str(loss_obstacle(model))
    torch.testing.assert_close(loss_and_gradients(model), expected, rtol=0, atol=0)


def test_adapters_anywhere_but_on_the_output_layer() -> None:
    peft = pytest.importorskip("peft")
    inner = peft.get_peft_model(
        small("qwen2"), peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    assert loss_obstacle(inner) is None
    expected = loss_and_gradients(inner)
    with ChunkedLoss(inner):
        ours = loss_and_gradients(inner)
    assert all("lora" in name for name in ours[1])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)
    for options in ({"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}):
        model = peft.get_peft_model(small("qwen2"), peft.LoraConfig(**options))
        assert "not a plain linear layer" in str(loss_obstacle(model))


def test_a_model_with_another_loss_keeps_it() -> None:
    model = small("qwen2")
    model.loss_function = lambda logits, **_: logits.sum()
    assert "not the plain cross-entropy" in str(loss_obstacle(model))


def test_an_output_layer_that_another_library_runs_is_left_to_it() -> None:
    model = small("qwen2")
    model.lm_head.forward = model.lm_head.forward
    assert "another library" in str(loss_obstacle(model))


class ChunkedTrainer(Trainer):
    """Trainer as a caller would have it: the smoothing goes with the loss."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.chunked_loss = ChunkedLoss(self.model, self.args.label_smoothing_factor)
        self.label_smoother = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        with self.chunked_loss:
            return super().compute_loss(*args, **kwargs)


@pytest.fixture(scope="module")
def sequences() -> list[dict[str, Any]]:
    """Eight sequences that learn from one to eight tokens: a mean of means would differ."""
    ids = torch.randint(61, (8, 9), generator=torch.Generator().manual_seed(2))
    return [
        {"input_ids": row, "labels": torch.where(torch.arange(9) > 7 - n, row, IGNORE)} for n, row in enumerate(ids)
    ]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_trainer_takes_the_same_steps(sequences: list[dict[str, Any]], tmp_path: Path, label_smoothing: float) -> None:
    def trained(kind: type[Trainer]) -> tuple[list[float], dict[str, torch.Tensor]]:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=4,
            learning_rate=0.5,
            optim="sgd",
            logging_steps=1,
            label_smoothing_factor=label_smoothing,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = kind(model=small("qwen2", tie_word_embeddings=True), args=arguments, train_dataset=sequences)
        trainer.train()
        return [record["loss"] for record in trainer.state.log_history if "loss" in record], trainer.model.state_dict()

    torch.testing.assert_close(trained(ChunkedTrainer), trained(Trainer), rtol=1e-4, atol=1e-6)
