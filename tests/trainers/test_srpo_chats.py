"""SRPO on conversations with tools, contents in parts, and contents that are None."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from rlalign.data.preferences.tokens import encode_prompt
from rlalign.errors import DatasetError, SettingsError
from rlalign.trainers import SRPOConfig, SRPOTrainer, self_revise
from rlalign.trainers.drawing import Voice
from rlalign.trainers.evaluation import Plan, evaluate
from rlalign.trainers.head import add_head
from rlalign.trainers.revision import CHAT
from rlalign.trainers.srpo_data import EncodePair
from tests.trainers import tiny

TOOLS = [{"type": "function", "function": {"name": "search"}}]
# Says what it is given; content has to be text or None, as in many models' templates.
TEMPLATE = (
    "{% if tools %}[{{ tools[0]['function']['name'] }}]{% endif %}{% if loud %}LOUD{% endif %}"
    + tiny.TEMPLATE.replace("message['content']", "(message['content'] or '')")
)
Messages = list[dict[str, Any]]


def tokenizer() -> Any:
    """The tiny tokenizer with a template that shows tools."""
    made = tiny.tokenizer()
    made.chat_template = TEMPLATE
    return made


def said(role: str, content: Any, **more: Any) -> Messages:
    """One message."""
    return [{"role": role, "content": content, **more}]


def pair(**changes: Any) -> dict[str, Any]:
    """A pair of conversations."""
    return {
        "prompt": said("user", "ask"),
        "chosen": said("assistant", "good"),
        "rejected": said("assistant", "bad"),
        **changes,
    }


def parts(*texts: str) -> list[dict[str, str]]:
    """Content as parts."""
    return [{"type": "text", "text": text} for text in texts]


def decoded(row: dict[str, Any], template: Any = CHAT) -> dict[str, str]:
    """What the five columns of a row say."""
    made = tokenizer()
    return {name: made.decode(ids) for name, ids in EncodePair(made, template)(row).items()}


def test_a_template_that_moves_text_behind_an_answer_is_refused() -> None:
    """Some write the system message into the last turn, whoever's it is."""
    made = tiny.tokenizer()
    made.chat_template = (
        "{% for message in messages %}<user>"
        "{% if loop.last %}be kind {% endif %}{{ message['content'] }}<end>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(DatasetError, match=r"otherwise than the prompt alone.*'?ask"):
        EncodePair(made, CHAT)(pair())


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_are_shown_in_every_view(tools: Any) -> None:
    found = decoded(pair(tools=tools, chat_template_kwargs={"loud": True}))
    assert found["prompt_ids"] == "[search]LOUD<user>ask<end><assistant>"
    for name in ("draft_chosen_ids", "draft_rejected_ids"):
        assert found[name].startswith("[search]LOUD<user>ask")
    assert (found["chosen_ids"], found["rejected_ids"]) == ("good<end>", "bad<end>")


def test_columns_that_a_row_lacks_are_not_shown() -> None:
    assert decoded(pair(tools=None, chat_template_kwargs=None)) == decoded(pair())


def test_contents_in_parts_are_the_text_they_hold() -> None:
    found = pair(
        prompt=[*said("system", parts("be", " kind")), *said("user", parts("a", "sk"))],
        chosen=said("assistant", parts("go", "od")),
        rejected=said("assistant", parts("bad")),
    )
    assert decoded(found) == decoded(
        pair(prompt=[*said("system", "be kind"), *said("user", "ask")])
    )


def test_calls_before_the_last_answer_have_no_content() -> None:
    calls = said("assistant", None, tool_calls=[{"function": TOOLS[0]["function"]}])
    found = decoded(pair(prompt=[*said("user", "ask"), *calls, *said("user", "more")]))
    assert found["prompt_ids"] == "<user>ask<end><assistant><end><user>more<end><assistant>"
    assert "bad" in found["draft_rejected_ids"]


def test_contents_that_are_none_say_nothing() -> None:
    thought = said("assistant", None, thinking="hm")
    found = decoded(pair(chosen=[*thought, *said("assistant", "good")]))
    assert found["draft_chosen_ids"] == decoded(pair())["draft_chosen_ids"]
    assert decoded(pair(prompt=said("user", None))) == decoded(pair(prompt=said("user", "")))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"chosen": said("assistant", "", tool_calls=[{"name": "f"}])},
            "a draft calls tools ([{'name': 'f'}]), and only text can be shown",
        ),
        (
            {"prompt": said("user", [{"type": "image"}])},
            "a prompt: content holds the part {'type': 'image'}",
        ),
        ({"tools": "{"}, "tools is text, but not valid JSON"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        SRPOTrainer(
            model=tiny.model(),
            args=SRPOConfig(**tiny.settings(tmp_path / "out")),
            train_dataset=Dataset.from_list([pair(**changes)] * 2),
            processing_class=tokenizer(),
        )
    assert expected in str(caught.value)
    assert "in the pair of the prompt [{" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_on_tools_as_text_runs(tmp_path: Path) -> None:
    rows = [pair(tools=json.dumps(TOOLS)), pair(tools=None)] * 4
    model = tiny.model()
    model.config.max_position_embeddings = 512
    trainer = SRPOTrainer(
        model=model,
        args=SRPOConfig(**tiny.settings(tmp_path / "out", max_steps=1, max_length=None)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    trainer.train()
    assert len(tiny.losses(trainer)) == 1


class Listener(torch.nn.Module):
    """Answers "a" and keeps the prompts it was given."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        model = tiny.model()
        self.generation_config, self.config = model.generation_config, model.config
        self.seen: list[str] = []

    def generate(self, input_ids: Any, attention_mask: Any, generation_config: Any) -> Any:
        made = tokenizer()
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            self.seen.append(made.decode(ids[mask.bool()]))
        answer = torch.tensor(made("a<eos>")["input_ids"])
        return torch.cat([input_ids, answer.expand(len(input_ids), -1)], 1)


def test_drafts_and_revisions_see_what_training_showed() -> None:
    rows = [pair(tools=TOOLS), pair(prompt=said("user", "other"))]
    prompts = [row["prompt"] for row in rows]
    model, made = Listener(), tokenizer()
    options: list[dict[str, Any]] = [{"tools": TOOLS, "loud": True}, {}]
    found = self_revise(model, made, prompts, template=CHAT, chat=options)
    assert found == [["a", "a"]] * 2
    views = [CHAT.generate(prompt) for prompt in prompts]
    views += [CHAT.revise(prompt, "a") for prompt in prompts]
    expected = [
        made.decode(encode_prompt(made, view, **chat))
        for view, chat in zip(views, options * 2, strict=True)
    ]
    assert model.seen == expected
    assert model.seen[0].startswith("[search]LOUD")
    assert model.seen[2].startswith("[search]LOUD")


def test_evaluation_shows_revisions_the_tools_of_each_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.model()
    add_head(model, single_process=True)
    voice, asked = Voice(model, tokenizer()), []

    def revised(*arguments: Any, chat: Any, **options: Any) -> list[list[str]]:
        asked.extend(chat)
        return self_revise(*arguments, chat=chat, **options)

    monkeypatch.setattr("rlalign.trainers.self_revision.self_revise", revised)
    rows = [pair(tools=TOOLS), pair(prompt=said("user", "other"))]
    plan = Plan(revisions=1, template=CHAT, templated=True, max_new_tokens=3, reward=lengths)
    figures = evaluate(voice, voice, rows, plan).figures
    assert asked == [{"tools": TOOLS}, {}]
    assert {"revision_0_reward", "revision_1_reward"} <= set(figures)


def lengths(prompts: Any, completions: Any) -> list[float]:
    """A reward."""
    return [float(len(text)) for text in completions]


def test_template_arguments_are_one_for_each_prompt() -> None:
    with pytest.raises(SettingsError, match="chat must be one for each of 2"):
        self_revise(Listener(), tokenizer(), ["a", "b"], template=CHAT, chat=[{}])
