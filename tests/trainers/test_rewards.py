"""Rewards: Python functions, sequence-classification models, and a judge behind an endpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from tokenizers.processors import TemplateProcessing
from transformers import LlamaForSequenceClassification

from rlalign.errors import ModelError
from rlalign.recipe.trainer_schema import Judge as JudgeSettings
from rlalign.textworld.pairs import preference_pairs
from rlalign.textworld.reward import reward as known_reward
from rlalign.trainers.judges import endpoint_judge
from rlalign.trainers.rewards import RewardError, load_reward
from tests.trainers import tiny


def test_text_worlds_reward_has_a_name() -> None:
    row = preference_pairs("validation")[0]
    found = load_reward("textworld")([row["prompt"]], [row["chosen"].strip()])
    assert found == [known_reward(row["prompt"], row["chosen"])]


def test_function_in_a_file_or_a_module_is_a_reward(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def length(prompt, answer):\n    return len(answer)\n")
    assert load_reward(f"{tmp_path}/mine.py:length")(["a", "b"], ["xx", ""]) == [2.0, 0.0]
    assert load_reward("operator:countOf")(["abca"], ["a"]) == [2.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere.py:f", "nowhere.py cannot be imported"),
        ("no.such.module:f", "cannot be imported"),
        ("operator:nothing", "has no function 'nothing'"),
    ],
)
def test_missing_functions_are_told(name: str, expected: str) -> None:
    with pytest.raises(RewardError, match=expected):
        load_reward(name)


def test_function_that_fails_is_told() -> None:
    with pytest.raises(RewardError, match="reward operator:truediv"):
        load_reward("operator:truediv")(["a"], ["b"])


def save_reward_model(folder: Path, labels: int = 1) -> Path:
    """A tiny random reward model."""
    torch.manual_seed(0)
    config = tiny.FAMILIES["llama"]()
    config.num_labels = labels
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_reward_model_scores_each_answer_alone(tmp_path: Path) -> None:
    reward = load_reward(str(save_reward_model(tmp_path / "rm")))
    prompts, answers = ["abc:", [{"role": "user", "content": "hello"}]], ["de", "fghi"]
    together = reward(prompts, answers)
    alone = [reward([p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[0] != together[1]


def test_reward_model_reads_each_special_token_once(tmp_path: Path) -> None:
    """The chat template writes the tokenizer's own beginning-of-sequence token."""
    folder = save_reward_model(tmp_path / "rm")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "<bos>" + tiny.TEMPLATE
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    text = "<bos><user>abc<end><assistant>de<end>"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(ids).logits.item()
    assert load_reward(str(folder))(["abc"], ["de"]) == pytest.approx([expected], abs=1e-5)


def test_reward_model_hears_the_answer_to_a_long_prompt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_reward_model(tmp_path / "rm")  # reads 128 tokens
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    reward = load_reward(str(folder), device="cpu")
    one, other, _ = reward(["a" * 300] * 2 + ["a"], ["bcd", "efg", "efg"])
    assert one != other
    assert reward(["b" * 9 + "a" * 300], ["bcd"]) == pytest.approx([one], abs=1e-5)
    assert "2 of 3 prompts were cut at their beginning" in caplog.text
    assert "128 tokens" in caplog.text


def test_model_that_is_no_reward_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected one output, its head has 3"):
        load_reward(str(save_reward_model(tmp_path / "rm", labels=3)))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_reward(str(tmp_path / "nowhere"))


Reply = Callable[[dict[str, Any]], str]


@contextmanager
def endpoint(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server on this machine that answers as OpenAI's chat endpoint does; its requests."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
            message = {"choices": [{"message": {"role": "assistant", "content": reply(body)}}]}
            data = json.dumps(message).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def prefers_good(body: dict[str, Any]) -> str:
    """Choose the answer that holds the word good, wherever it stands."""
    question = body["messages"][-1]["content"]
    first = question.split("Answer A:")[1].split("Answer B:")[0]
    return "A" if "good" in first else "B"


def test_judge_is_asked_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with endpoint(prefers_good) as (url, asked):
        judge = endpoint_judge(JudgeSettings(url=url, model="m", key_variable="MY_KEY"))
        assert judge(["p", "q"], ["good", "bad"], ["bad", "good"]) == [1.0, 0.0]
    assert len(asked) == 4
    assert {row["path"] for row in asked} == {"/v1/chat/completions"}
    assert {row["key"] for row in asked} == {"Bearer secret"}
    assert {row["model"] for row in asked} == {"m"}


@pytest.mark.parametrize("reply", ["A", "neither", "A or B, both are fine"])
def test_judge_without_an_opinion_is_a_tie(reply: str) -> None:
    with endpoint(lambda _: reply) as (url, _):
        assert endpoint_judge(JudgeSettings(url=url, model="m"))(["p"], ["x"], ["y"]) == [0.5]


def test_judge_that_cannot_be_reached_is_told() -> None:
    judge = endpoint_judge(JudgeSettings(url="http://127.0.0.1:9/v1", model="m", timeout=1))
    with pytest.raises(RewardError, match="gives no verdict after 3 attempts"):
        judge(["p"], ["x"], ["y"])


def test_missing_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(RewardError, match="MY_KEY, which is not set"):
        endpoint_judge(JudgeSettings(url="http://x/v1", model="m", key_variable="MY_KEY"))
