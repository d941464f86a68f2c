"""Stage 5's figures, against plain numpy on checkpoints small enough to hold whole."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from langadapt.errors import UserError
from langadapt.weights.checkpoints import open_checkpoints
from langadapt.weights.comparison import compare, rank_correlation
from langadapt.weights.rounding import unchanged_by_rounding
from langadapt.weights.tensor_types import layer_of, model_order, tensor_type

Weights = dict[str, torch.Tensor]
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def write(folder: Path, weights: Weights, config: Mapping[str, object] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    save_file(weights, folder / "model.safetensors")
    return folder


def random_weights(seed: int, dtype: torch.dtype = torch.float32) -> Weights:
    """A one-layer model: matrices, a vector, a scalar and a tensor of three dimensions."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        EMBEDDING: (50, 8),
        QUERY: (8, 8),
        "model.layers.0.self_attn.q_proj.bias": (8,),
        "model.layers.0.mlp.gate_proj.weight": (32, 8),
        NORM: (8,),
        "model.layers.0.conv.weight": (3, 5, 7),
        "model.scale": (),
    }
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def drift(weights: Weights, seed: int, size: float = 1e-2) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {n: w + (size * torch.randn(w.shape, generator=generator)).to(w.dtype) for n, w in weights.items()}


def brute_force(base: Weights, cpt: Weights, sft: Weights, name: str) -> dict[str, object]:
    a, b, c = (weights[name].double().numpy().ravel() for weights in (base, cpt, sft))

    def cosine(x: numpy.ndarray, y: numpy.ndarray) -> float:
        return float(x @ y / (numpy.linalg.norm(x) * numpy.linalg.norm(y)))

    def change(x: numpy.ndarray, y: numpy.ndarray) -> dict[str, float]:
        l2 = float(numpy.linalg.norm(y - x))
        rms = float(numpy.sqrt(numpy.mean((y - x) ** 2)))
        return {"l2": l2, "relative": l2 / float(numpy.linalg.norm(x)), "rms": rms, "cosine": cosine(x, y)}

    def stage(x: numpy.ndarray, y: numpy.ndarray) -> dict[str, float]:
        return {**change(x, y), "largest": float(abs(y - x).max()), "identical": float((x == y).mean())}

    return {
        "base_norm": float(numpy.linalg.norm(a)),
        "base_cpt": stage(a, b),
        "cpt_sft": stage(b, c),
        "base_sft": change(a, c),
        "delta_cosine": cosine(b - a, c - b),
    }


def assert_figures(found: Mapping[str, object], expected: Mapping[str, object], rel: float = 1e-9) -> None:
    for key, value in expected.items():
        if isinstance(value, Mapping):
            assert_figures(found[key], value, rel)
        elif value is not None:
            assert found[key] == pytest.approx(value, rel=rel, abs=1e-12), key


def folders(tmp_path: Path, *checkpoints: Weights) -> list[str]:
    return [str(write(tmp_path / name, w)) for name, w in zip(("base", "cpt", "sft"), checkpoints, strict=True)]


def results_of(original: str | Path, cpt: str | Path, sft: str | Path, **options: int) -> dict:
    return compare(*open_checkpoints(str(original), str(cpt), str(sft)), **options)


def by_name(results: dict) -> dict[str, dict]:
    return {tensor["name"]: tensor for tensor in results["tensors"]}


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.float16),
    ],
)
def test_every_figure_equals_numpy(tmp_path: Path, dtypes: tuple[torch.dtype, ...]) -> None:
    base = random_weights(0)
    cpt = drift(base, 1)
    sft = drift(cpt, 2, size=2e-2)
    base, cpt, sft = ({n: w.to(d) for n, w in ws.items()} for ws, d in zip((base, cpt, sft), dtypes, strict=True))
    results = results_of(*folders(tmp_path, base, cpt, sft))
    tensors = by_name(results)
    assert set(tensors) == set(base)
    for name, tensor in tensors.items():
        assert_figures(tensor, brute_force(base, cpt, sft, name))
        assert tensor["shape"] == list(base[name].shape)
        for pair in ("base_cpt", "cpt_sft"):
            share = (tensor[pair]["l2"] / results["total"][pair]["l2"]) ** 2
            assert tensor[pair]["share"] == pytest.approx(share)
    whole = [{"all": torch.cat([w.double().flatten() for w in ws.values()])} for ws in (base, cpt, sft)]
    assert_figures(results["total"], brute_force(*whole, "all"))
    assert [results["checkpoints"][role]["dtype"] for role in ("original", "cpt", "sft")] == [
        str(dtype).removeprefix("torch.") for dtype in dtypes
    ]


def test_real_models_saved_by_transformers(tiny_model: Path, tmp_path: Path) -> None:
    """Shards as `save_pretrained` cuts them, in one checkpoint and not in the others; tied embeddings stored once."""
    for position, (name, limit) in enumerate((("cpt", "60KB"), ("sft", "5GB"))):
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        torch.manual_seed(position)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * (position + 1) * torch.randn_like(parameter)
        model.to(torch.bfloat16).save_pretrained(tmp_path / name, max_shard_size=limit)
    assert len(list((tmp_path / "cpt").glob("*.safetensors"))) > 1
    results = results_of(tiny_model, tmp_path / "cpt", tmp_path / "sft")
    weights = [
        {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
        for folder in (tiny_model, tmp_path / "cpt", tmp_path / "sft")
    ]
    tensors = by_name(results)
    assert set(tensors) == set(weights[0])
    # A new model's biases are zero: a norm to divide by is missing.
    for name in tensors.keys() - {name for name in tensors if name.endswith("bias")}:
        assert_figures(tensors[name], brute_force(*weights, name))
    bias = tensors["model.layers.0.self_attn.q_proj.bias"]
    assert bias["base_norm"] == 0
    assert bias["base_cpt"]["relative"] is None
    assert bias["base_cpt"]["cosine"] is None
    assert bias["base_cpt"]["l2"] > 0
    assert results["total"]["parameters"] == model.num_parameters()


def test_large_tensors_of_16_bits_equal_numpy(tmp_path: Path) -> None:
    """From 2**20 values on, products are float32 within blocks; the last block is cut off here."""
    weights = {QUERY: torch.randn(1031, 1033).bfloat16(), EMBEDDING: torch.randn(2051, 520).bfloat16()}
    base = {**weights, "model.layers.0.mlp.up_proj.weight": 1e25 * torch.randn(1024, 1025).bfloat16()}
    cpt = drift(base, 1, size=2e-3)
    cpt["model.layers.0.mlp.up_proj.weight"] *= 1.5
    sft = drift(cpt, 2, size=1e-3)
    results = results_of(*folders(tmp_path, base, cpt, sft), slice_size=2**18)
    for name, tensor in by_name(results).items():
        assert_figures(tensor, brute_force(base, cpt, sft, name), rel=2e-8)


def test_workers_and_devices_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = random_weights(0, torch.bfloat16)
    cpt = drift(base, 1)
    sft = {name: weight.half() for name, weight in drift(cpt, 2).items()}
    paths = folders(tmp_path, base, cpt, sft)
    alone = results_of(*paths, slice_size=64)
    monkeypatch.setattr("langadapt.weights.one_pass._WORTH_A_WORKER", 100)
    assert results_of(*paths, slice_size=64, workers=2) == alone
    # The code that a GPU runs, on the device that every machine has.
    results = results_of(*paths, slice_size=64, device="cpu:0")
    for name, tensor in by_name(results).items():
        assert_figures(tensor, brute_force(base, cpt, sft, name))


def test_rounding_explains_what_it_should() -> None:
    """Normal updates of one size, written back as bfloat16: the share that is lost follows from the rest."""
    chance = numpy.random.default_rng(0)
    weights = torch.from_numpy(chance.normal(0, 0.02, 200_000)).bfloat16().double()
    for size in (1e-5, 5e-5, 1e-3):
        after = (weights + torch.from_numpy(chance.normal(0, size, len(weights)))).bfloat16().double()
        mean_square = float(((after - weights) ** 2).mean())
        found = unchanged_by_rounding(weights.numpy(), "bfloat16", "bfloat16", mean_square)
        assert found == pytest.approx(float((after == weights).double().mean()), abs=0.005)
    after[: len(after) // 2] = weights[: len(after) // 2]
    found = unchanged_by_rounding(weights.numpy(), "bfloat16", "bfloat16", float(((after - weights) ** 2).mean()))
    assert found < float((after == weights).double().mean()) - 0.4
    assert unchanged_by_rounding(weights.numpy(), "float32", "bfloat16", 1e-6) is None
    assert unchanged_by_rounding(weights.numpy(), "bfloat16", "float32", 1e-6) is None


@pytest.mark.parametrize("slice_size", [1, 7, 64, 10_000])
def test_the_slice_size_changes_nothing(tmp_path: Path, slice_size: int) -> None:
    base = random_weights(0)
    cpt = drift(base, 1)
    sft = drift(cpt, 2)
    paths = folders(tmp_path, base, cpt, sft)
    expected = by_name(results_of(*paths))
    for name, tensor in by_name(results_of(*paths, slice_size=slice_size)).items():
        assert_figures(
            tensor, {key: expected[name][key] for key in ("base_cpt", "cpt_sft", "base_sft", "delta_cosine")}
        )


def test_types_and_layers_pool_their_tensors(tmp_path: Path) -> None:
    base = random_weights(0)
    cpt = drift(base, 1)
    sft = drift(cpt, 2)
    results = results_of(*folders(tmp_path, base, cpt, sft))
    types = {kind["type"]: kind for kind in results["types"]}
    assert set(types) == {"embedding", "attention", "mlp", "norm", "bias", "other"}
    assert_figures(types["mlp"], brute_force(base, cpt, sft, "model.layers.0.mlp.gate_proj.weight"))
    matrices = [QUERY, "model.layers.0.mlp.gate_proj.weight", "model.layers.0.conv.weight"]
    layer = [{"all": torch.cat([ws[name].flatten() for name in matrices])} for ws in (base, cpt, sft)]
    assert [layer["layer"] for layer in results["layers"]] == [0]
    assert_figures(results["layers"][0], brute_force(*layer, "all"))
    assert sum(kind["parameters"] for kind in types.values()) == sum(w.numel() for w in base.values())


def test_the_change_of_sft_is_from_cpt_and_not_from_base(tmp_path: Path) -> None:
    base = random_weights(0)
    cpt = drift(base, 1)
    tensors = by_name(results_of(*folders(tmp_path, base, cpt, cpt)))
    assert all(tensor["cpt_sft"]["l2"] == 0 for tensor in tensors.values())
    assert all(tensor["delta_cosine"] is None for tensor in tensors.values())
    assert all(tensor["base_sft"]["l2"] == tensor["base_cpt"]["l2"] > 0 for tensor in tensors.values())


def test_sft_that_undoes_cpt(tmp_path: Path) -> None:
    base = random_weights(0)
    cpt = drift(base, 1)
    results = results_of(*folders(tmp_path, base, cpt, base))
    assert results["total"]["base_sft"]["l2"] == 0
    assert results["total"]["delta_cosine"] == pytest.approx(-1)


def test_one_folder_three_times(tmp_path: Path) -> None:
    base = folders(tmp_path, *[random_weights(0)] * 3)[0]
    results = results_of(base, base, base)
    for tensor in results["tensors"]:
        assert tensor["base_cpt"]["l2"] == tensor["cpt_sft"]["l2"] == 0
        assert tensor["base_cpt"]["cosine"] == pytest.approx(1)
    assert results["rank_correlation"] == {"l2": None, "relative": None}


def test_a_tied_output_matrix_is_counted_once_however_it_is_stored(tmp_path: Path) -> None:
    base = random_weights(0)
    cpt = drift(base, 1)
    sft = drift(cpt, 2)
    plain = results_of(*folders(tmp_path / "plain", base, cpt, sft))
    stored = [{**weights, HEAD: weights[EMBEDDING].clone()} for weights in (base, cpt, sft)]
    for folder, checkpoints in {"all": stored, "one": [base, stored[1], sft]}.items():
        results = results_of(*folders(tmp_path / folder, *checkpoints))
        assert by_name(results).keys() == base.keys()
        assert results["tensors"] == plain["tensors"]
        assert "left out" in results["output_matrix"]
        assert HEAD in results["output_matrix"]


def test_an_output_matrix_of_its_own_is_compared(tmp_path: Path) -> None:
    base, cpt, sft = (random_weights(seed) for seed in (0, 1, 2))
    heads = [torch.randn(50, 8) for _ in range(3)]
    untied = [{**weights, HEAD: head} for weights, head in zip((base, cpt, sft), heads, strict=True)]
    tensors = by_name(results_of(*folders(tmp_path / "untied", *untied)))
    assert_figures(tensors[HEAD], brute_force(*untied, HEAD))
    assert tensors[HEAD]["type"] == "output"
    # Tied in the base, trained apart from it afterwards: the base's output matrix is its embedding.
    results = results_of(*folders(tmp_path / "from_tied", base, untied[1], untied[2]))
    assert_figures(by_name(results)[HEAD], brute_force({HEAD: base[EMBEDDING]}, untied[1], untied[2], HEAD))
    assert "original" in results["output_matrix"]


def test_a_missing_output_matrix_of_an_untied_model_is_an_error(tmp_path: Path) -> None:
    base = random_weights(0)
    whole = {**base, HEAD: torch.randn(50, 8)}
    complete = write(tmp_path / "complete", whole, {"tie_word_embeddings": False})
    lacking = write(tmp_path / "lacking", base, {"tie_word_embeddings": False})
    with pytest.raises(UserError, match=r"lacking.*it lacks lm_head\.weight"):
        open_checkpoints(str(complete), str(complete), str(lacking))


def test_other_tensors_are_named(tmp_path: Path) -> None:
    base = random_weights(0)
    deeper = {**base, "model.layers.1.mlp.gate_proj.weight": torch.ones(2)}
    del deeper[QUERY]
    paths = folders(tmp_path, base, deeper, base)
    with pytest.raises(UserError) as error:
        open_checkpoints(*paths)
    assert f"{tmp_path / 'cpt'}: not the same tensors as {tmp_path / 'base'}" in str(error.value)
    assert f"it lacks {QUERY}" in str(error.value)
    assert "it has besides model.layers.1.mlp.gate_proj.weight" in str(error.value)


def test_another_size_is_named(tmp_path: Path) -> None:
    base = random_weights(0)
    paths = folders(tmp_path, base, base, {**base, QUERY: torch.ones(16, 16)})
    with pytest.raises(
        UserError, match=r"sft: a checkpoint of another size: .*q_proj.* \[16, 16\] here and \[8, 8\] in"
    ):
        open_checkpoints(*paths)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, bad: float) -> None:
    base = random_weights(0, torch.bfloat16)
    broken = {name: weight.clone() for name, weight in base.items()}
    broken[QUERY][3, 4] = bad
    paths = folders(tmp_path, base, broken, base)
    with pytest.raises(UserError, match=rf"cpt: the tensor {QUERY} holds NaN or infinite"):
        results_of(*paths)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    base = random_weights(0)
    paths = folders(tmp_path, base, base, {**base, QUERY: torch.ones(8, 8, dtype=torch.uint8)})
    with pytest.raises(UserError, match=r"q_proj\.weight is stored as U8"):
        open_checkpoints(*paths)


def test_what_is_no_model_says_how_to_make_it(tmp_path: Path) -> None:
    base = str(write(tmp_path / "base", random_weights(0)))
    with pytest.raises(UserError, match=r"cpt=saves/nowhere: no such folder.*bash 2_train_cpt\.sh"):
        open_checkpoints(base, "saves/nowhere", base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: not a model folder, config\.json is missing"):
        open_checkpoints(base, base, str(tmp_path / "empty"))
    (tmp_path / "base" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json: expected a JSON object"):
        open_checkpoints(base, base, base)


def test_a_hub_name_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--some--model"
    base = write(repository / "snapshots" / ("0" * 40), random_weights(0))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    checkpoints, *_ = open_checkpoints("some/model", str(base), str(base))
    assert checkpoints[0].path.samefile(base)


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("model.embed_tokens.weight", "embedding", None),
        ("transformer.wpe.weight", "position", None),
        ("model.layers.17.post_attention_layernorm.weight", "norm", 17),
        ("model.layers.3.self_attn.q_norm.weight", "norm", 3),
        ("transformer.h.5.ln_1.weight", "norm", 5),
        ("model.norm.weight", "norm", None),
        ("model.layers.0.self_attn.o_proj.weight", "attention", 0),
        ("model.layers.0.self_attn.q_proj.bias", "bias", 0),
        ("transformer.h.11.ln_2.bias", "bias", 11),
        ("model.layers.2.mlp.experts.7.down_proj.weight", "mlp", 2),
        ("model.encoder.layers.2.fc1.weight", "mlp", "encoder 2"),
        ("model.decoder.layers.2.encoder_attn.q_proj.weight", "cross-attention", "decoder 2"),
        ("model.decoder.layers.2.encoder_attn_layer_norm.weight", "norm", "decoder 2"),
        ("model.decoder.layers.2.self_attn.q_proj.weight", "attention", "decoder 2"),
        ("model.shared.weight", "embedding", None),
        ("model.encoder.embed_positions.weight", "position", None),
        ("final_logits_bias", "bias", None),
        ("lm_head.weight", "output", None),
        ("backbone.layers.4.mixer.A_log", "other", 4),
        ("model.layers.0.mlp.shared_expert.gate_proj.weight", "mlp", 0),
    ],
)
def test_types_and_layers_from_names(name: str, kind: str, layer: int | str | None) -> None:
    assert (tensor_type(name), layer_of(name)) == (kind, layer)


def test_text_passes_the_encoder_before_the_decoder() -> None:
    names = [
        "model.shared.weight",
        "model.encoder.layers.2.fc1.weight",
        "model.encoder.layers.10.fc1.weight",
        "model.encoder.layer_norm.weight",
        "model.decoder.layers.0.fc1.weight",
        "model.decoder.layers.3.fc1.weight",
        "lm_head.weight",
    ]
    assert sorted(names, key=model_order) == names


def test_rank_correlation_is_spearmans() -> None:
    """With n distinct values, Spearman's rho is 1 - 6 sum(d^2) / (n (n^2 - 1)); here d = 1, 1, 0, 0, so 0.8."""

    def tensor(cpt: float | None, sft: float) -> dict:
        return {"base_cpt": {"l2": 10.0, "relative": cpt}, "cpt_sft": {"l2": 1.0, "relative": sft}}

    tensors = [tensor(0.1, 2.0), tensor(0.2, 1.0), tensor(0.3, 30.0), tensor(4.0, 31.0), tensor(None, 0.0)]
    found = rank_correlation(tensors)
    assert found["relative"] == pytest.approx(0.8)
    assert found["l2"] is None


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """A tensor of 2**25 values in three checkpoints: 805 MB as six float64 rows, and 200 MB as it is stored."""
    base = write(tmp_path / "base", {EMBEDDING: torch.full((2**15, 2**10), 0.5, dtype=torch.bfloat16)})
    for name in ("cpt", "sft"):
        shutil.copytree(base, tmp_path / name)
    program = (
        "import resource, sys\n"
        "from langadapt.weights.checkpoints import open_checkpoints\n"
        "from langadapt.weights.comparison import compare\n"
        "checkpoints = open_checkpoints(*sys.argv[1:])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "compare(*checkpoints, slice_size=2**20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in ("base", "cpt", "sft"))]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout
    assert int(grown) < 64 * 1024
