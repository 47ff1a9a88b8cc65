"""The evaluation of a run: prompts too long, precision, splits, sampling, a cut run's patience."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM, GPTBigCodeConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlalign import cli
from rlalign.errors import ModelError
from rlalign.rundir import RunDirectory
from rlalign.trainers.drawing import Voice, draw
from rlalign.trainers.preparation import check_length
from tests.trainers import tiny
from tests.trainers.runs import save_model, save_pairs, write_recipe
from tests.trainers.test_recipe_runs import cut_at, losses, prepare


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLALIGN_CACHE", str(tmp_path / "cache"))


def with_prompts(lengths: list[int]) -> list[dict[str, str]]:
    """Pairs with prompts of so many tokens."""
    return [
        {"prompt": "x" * (n - 1) + chr(97 + i), "chosen": "aei", "rejected": "bcd"}
        for i, n in enumerate(lengths)
    ]


def final(run: str = "run") -> dict[str, Any]:
    """The figures found at a run's end."""
    (row,) = (r for r in RunDirectory.open(run).evaluations() if r["phase"] == "final")
    return row


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_held_out_prompts_without_room_for_an_answer_are_counted(
    tmp_path: Path, family: str
) -> None:
    save_model(tmp_path / "model", family)  # reads 128 tokens
    save_pairs(tmp_path / "pairs.jsonl", tiny.pairs())
    # Behind 124 tokens four still fit, behind 125 not; at 128 no pair can be trained on.
    save_pairs(tmp_path / "test.jsonl", with_prompts([125, 9, 124, 140, 5]))
    write_recipe(
        tmp_path / "mine.yaml",
        "model",
        "pairs.jsonl",
        evaluation_dataset="test.jsonl",
        training={"max_length": 128},
    )
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    found = final()
    assert (found["pairs"], found["pairs_left_out"]) == (4, 1)
    assert (found["prompts"], found["prompts_left_out"]) == (3, 2)
    samples = [json.loads(line) for line in Path("run/samples.jsonl").read_text().splitlines()]
    assert [len(sample["prompt"]) for sample in samples] == [9, 124, 5]


def test_held_out_prompt_that_fills_max_length_is_not_sampled_for(tmp_path: Path) -> None:
    save_pairs(tmp_path / "test.jsonl", with_prompts([64, 63]))
    prepare(tmp_path, evaluation_dataset="test.jsonl")
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    assert (final()["prompts"], final()["prompts_left_out"]) == (1, 1)


def test_evaluation_without_a_prompt_that_fits_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, data={"evaluation_share": 0.25}, evaluation={"max_new_tokens": 128})
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert "no held-out prompt leaves room for evaluation.max_new_tokens=128" in told
    assert not Path("run").exists()
    assert cli.run(["train", "mine.yaml", "evaluation.prompts=0", "--out", "run"]) == 0


def test_revisions_need_room_for_the_draft_too(tmp_path: Path) -> None:
    save_pairs(tmp_path / "test.jsonl", with_prompts([100, 116, 120]))
    prepare(
        tmp_path,
        evaluation_dataset="test.jsonl",
        evaluation={"revisions": 1},
        training={"max_length": 128},
    )
    tiny.SHORT.save(tmp_path / "model")
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    # 120 tokens, the two delimiters, a draft and its revision of 4 each: 130.
    assert (final()["prompts"], final()["prompts_left_out"]) == (2, 1)


def test_positions_that_end_are_found_whatever_the_family() -> None:
    config = GPTBigCodeConfig(**tiny.SIZES, n_embd=32, n_layer=1, n_head=4, n_positions=128)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match="positions for 128 tokens only"):
        check_length(model, 129)
    check_length(model, 128)
    check_length(tiny.model("llama"), 129)  # rotary


def half_only(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
    """Attention that refuses float32 as FlashAttention does."""
    if query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
        raise RuntimeError("FlashAttention only supports fp16 and bf16 data type")
    return sdpa_attention_forward(module, query, *args, **kwargs)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_run_is_evaluated_at_the_precision_it_was_trained_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter: bool
) -> None:
    AttentionInterface.register("half_only", half_only)
    changes: dict[str, Any] = {"peft": {"r": 2, "alpha": 4}} if adapter else {}
    prepare(
        tmp_path,
        device="cpu",
        training={"bf16": True},
        data={"evaluation_share": 0.25},
        **changes,
    )
    assert cli.run(["train", "mine.yaml", "model.attention=half_only", "--out", "run"]) == 0
    capsys.readouterr()
    assert cli.run(["evaluate", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["validation"]["figures"]
    at_the_end = {key: value for key, value in final().items() if key in found}
    assert found == pytest.approx(at_the_end, abs=1e-4)


def test_other_datasets_are_read_at_the_held_out_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, seed in (("data", 0), ("others", 5)):
        (tmp_path / folder).mkdir()
        for split, count in (("train", 8), ("test", 5), ("rest", 3)):
            save_pairs(tmp_path / folder / f"{split}.jsonl", tiny.pairs(count, seed=seed))
    save_pairs(tmp_path / "file.jsonl", tiny.pairs(4, seed=6))
    save_model(tmp_path / "model")
    write_recipe(
        tmp_path / "mine.yaml",
        "model",
        "data",
        data={"evaluation_split": "test"},
        evaluation={"prompts": 0, "more": {"others": "others", "file": "file.jsonl"}},
    )
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    rows = RunDirectory.open("run").evaluations()
    pairs = {row["dataset"]: row["pairs"] for row in rows if row["phase"] == "final"}
    assert pairs == {"validation": 5, "others": 5, "file": 4}

    def evaluated(*options: str) -> dict[str, float]:
        capsys.readouterr()
        assert cli.run(["evaluate", "run", "--json", *options]) == 0
        document = json.loads(capsys.readouterr().out)
        return {name: one["figures"]["pairs"] for name, one in document.items()}

    assert evaluated("--dataset", "others") == {"others/test.jsonl": 5}
    assert evaluated("--dataset", "others", "--split", "rest") == {"others/rest.jsonl": 3}
    assert evaluated("--dataset", "file.jsonl") == {"file.jsonl": 4}
    assert cli.run(["evaluate", "run", "--split", "rest"]) == 2
    assert "--split rest: of which dataset?" in capsys.readouterr().err


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_samples_do_not_depend_on_the_models_own_generation_settings(adapter: bool) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny.model()
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    voice = Voice(model, tiny.tokenizer())
    prompts = [[8, 9, 10], [11, 12], [13]] * 4

    def drawn() -> list[list[int]]:
        return draw(voice, prompts, max_new_tokens=8, temperature=1.0, batch_size=4, seed=0)

    plain = drawn()
    own = (model.get_base_model() if adapter else model).generation_config
    own.update(top_k=2, repetition_penalty=3.0, min_p=0.9, min_new_tokens=8)
    assert drawn() == plain
    assert own.repetition_penalty == 3.0
    assert (model.get_base_model() if adapter else model).generation_config is own


def test_resumed_run_keeps_the_patience_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(
        tmp_path,
        # Without a step to take nothing can improve.
        training={"max_steps": 40, "learning_rate": 0.0},
        data={"evaluation_share": 0.25},
        evaluation={"early_stopping": 2, "prompts": 0},
    )
    assert cli.run(["train", "mine.yaml", "--out", "whole"]) == 0
    assert cut_at(monkeypatch, 4) == 143
    assert cli.run(["resume", "cut"]) == 0
    steps = [row["step"] for row in RunDirectory.open("cut").metrics()]
    assert steps == [row["step"] for row in RunDirectory.open("whole").metrics()]
    assert steps == [1, 2, 3, 4, 5, 6]  # each callback once
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_model_card_and_repository_are_named_after_the_run(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert cli.run(["train", "mine.yaml", "--out", "my-run"]) == 0
    card = (tmp_path / "my-run" / "checkpoints" / "README.md").read_text()
    assert "# Model Card for my-run" in card


@pytest.mark.parametrize("stops_early", [False, True])
def test_run_cut_while_it_is_evaluated_takes_no_further_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_early: bool
) -> None:
    changes: dict[str, Any] = {"training": {"max_steps": 7}}
    if stops_early:
        changes["training"] = {"max_steps": 40, "learning_rate": 0.0}
        changes["evaluation"] = {"early_stopping": 2}
    prepare(tmp_path, data={"evaluation_share": 0.25}, **changes)
    assert cli.run(["train", "mine.yaml", "--out", "whole"]) == 0

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rlalign.trainers.final_evaluation.evaluate_at_end", cut)
        assert cli.run(["train", "mine.yaml", "--out", "cut"]) != 0
    assert cli.run(["resume", "cut"]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    found, whole = ({**final(name), "time": 0.0} for name in ("cut", "whole"))
    assert found == pytest.approx(whole, abs=1e-4)
    assert RunDirectory.open("cut").status == "finished"
    scores = json.loads(Path("cut/scores.json").read_text())
    assert set(scores) == {"train", "final"}


def test_figures_of_a_checkpoint_are_not_kept_as_the_trained_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, data={"evaluation_share": 0.25})
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    before = Path("run/evaluations.jsonl").read_bytes()
    evaluate = ["evaluate", "run", "--checkpoint", "checkpoint-2"]
    assert cli.run([*evaluate, "--record"]) == 2
    assert "leave --record out" in capsys.readouterr().err
    assert cli.run(evaluate) == 0
    assert Path("run/evaluations.jsonl").read_bytes() == before


def test_other_datasets_are_read_as_the_recipe_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"evaluation_share": 0.25, "invalid": "drop", "max_prompt_length": 20}
    prepare(tmp_path, data={**data, "evaluation_limit": 2})
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    damaged = {"prompt": "a", "chosen": "b", "rejected": None}
    save_pairs(tmp_path / "other.jsonl", [damaged, *with_prompts([9, 30, 5, 7])])
    capsys.readouterr()
    assert cli.run(["evaluate", "run", "--dataset", "other.jsonl", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    # The limit of 2 comes before the prompt that is too long.
    assert found["figures"]["pairs"] == 1
    assert [len(sample["prompt"]) for sample in found["samples"]] == [9]
