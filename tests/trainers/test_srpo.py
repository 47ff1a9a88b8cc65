"""SRPO: the closed form of its minimiser, and each conditioning in its place."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rlalign.data.preferences.tokens import encode_prompt
from rlalign.errors import DatasetError, SettingsError
from rlalign.trainers import RevisionTemplate, SRPOConfig, SRPOTrainer
from rlalign.trainers.losses import srpo_generative_loss, srpo_improvement_losses
from rlalign.trainers.revision import CHAT
from rlalign.trainers.srpo_data import SEQUENCES, EncodePair, longest
from tests.trainers import tiny


@pytest.fixture
def template(tmp_path: Path) -> str:
    tiny.SHORT.save(tmp_path)
    return str(tmp_path)


def make(
    folder: Path, template: str, model: Any = None, dataset: Any = None, **changes: Any
) -> SRPOTrainer:
    return SRPOTrainer(
        model=model or tiny.model(),
        args=SRPOConfig(**tiny.settings(folder / "out", template=template, **changes)),
        train_dataset=dataset or tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )


def batch_of(trainer: SRPOTrainer, rows: int = 4) -> dict[str, Tensor]:
    return trainer.data_collator([trainer.train_dataset[i] for i in range(rows)])


# The bandit: three answers, intransitive preferences, uniform references.

PREFERS = torch.tensor([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]], dtype=torch.float64)


def closed_form(
    beta: float, prefers: Tensor = PREFERS, keeps: float = 0.0
) -> tuple[Tensor, Tensor]:
    """pi* and pi_dag* (rows are drafts).

    The reference writes uniformly; shown a draft, it repeats it with probability `keeps`.
    """
    number = len(prefers)
    reference = (1 - keeps) / number + keeps * torch.eye(number, dtype=torch.float64)
    tilted = reference * (prefers.T / beta).exp()  # [draft, answer]: answer preferred to draft
    inverse = 1 / tilted.sum(1)
    return inverse / inverse.sum(), tilted / tilted.sum(1, keepdim=True)


def bandit_losses(
    writer: Tensor, reviser: Tensor, behaviour: tuple[float, ...], beta: float
) -> tuple[Tensor, Tensor]:
    """Expected generative and improvement loss over pairs that `behaviour` wrote.

    Args:
        writer: logits [3].
        reviser: logits [3, 3], by draft.
    """
    w, l = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T  # noqa: E741
    chance = torch.tensor(behaviour, dtype=torch.float64)
    # A pair drawn as (i, j) or as (j, i) may be labelled either way, so "i over j" comes twice.
    weight = 2 * chance[w] * chance[l] * PREFERS[w, l]
    r = writer.log_softmax(0) + torch.tensor(3.0, dtype=torch.float64).log()
    s = reviser.log_softmax(1) + torch.tensor(3.0, dtype=torch.float64).log()
    generative = srpo_generative_loss(
        chosen=r[w],
        rejected=r[l],
        chosen_from_rejected=s[l, w],
        rejected_from_chosen=s[w, l],
        beta=beta,
    )
    move, stay = srpo_improvement_losses(
        chosen_from_rejected=s[l, w],
        rejected_from_rejected=s[l, l],
        chosen_from_chosen=s[w, w],
        rejected_from_chosen=s[w, l],
        beta=beta,
    )
    return (weight * generative).sum(), (weight * (move + stay)).sum()


@pytest.mark.parametrize("beta", [1.0, 0.1])
@pytest.mark.parametrize("behaviour", [(1 / 3, 1 / 3, 1 / 3), (0.1, 0.1, 0.8), (0.8, 0.1, 0.1)])
@pytest.mark.parametrize("alpha", [0.2, 0.9])
def test_minimiser_is_the_closed_form_whoever_wrote_the_pairs(
    beta: float, behaviour: tuple[float, ...], alpha: float
) -> None:
    writer = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reviser = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        generative, improvement = bandit_losses(writer, reviser, behaviour, beta)
        return (1 - alpha) * generative + alpha * improvement

    tiny.minimise(loss, [writer, reviser])
    best, revised = closed_form(beta)
    assert (writer.softmax(0) - best).abs().max() < 1e-5
    assert (reviser.softmax(1) - revised).abs().max() < 1e-5
    # What the writer favours is what the reviser would leave alone.
    kept = (writer.softmax(0) / reviser.softmax(1).diagonal()).detach()
    assert (kept / kept[0] - 1).abs().max() < 1e-3


def test_at_the_optimum_the_losses_are_what_uncertain_preferences_leave() -> None:
    writer, reviser = (policy.log() for policy in closed_form(1.0))
    losses = bandit_losses(writer, reviser, (1 / 3, 1 / 3, 1 / 3), 1.0)
    uncertainty = (PREFERS * (1 - PREFERS)).mean().item()
    assert [loss.item() for loss in losses] == pytest.approx([4 * uncertainty, 2 * uncertainty])
    assert [loss.item() for loss in losses] == pytest.approx([0.742222, 0.371111], abs=1e-6)


def test_closed_form_has_the_published_numbers_of_the_specification() -> None:
    best, revised = closed_form(0.1)
    assert best.tolist() == pytest.approx([0.646301, 0.097644, 0.256054], abs=1e-6)
    assert revised[0].tolist() == pytest.approx([0.118943, 0.002179, 0.878878], abs=1e-6)
    assert closed_form(1.0)[0].tolist() == pytest.approx([0.356232, 0.318663, 0.325105], abs=1e-6)


@pytest.mark.parametrize("keeps", [0.0, 0.3])
def test_at_the_optimum_revising_helps_only_where_the_reference_looks_at_the_draft(
    keeps: float,
) -> None:
    """With transitive preferences (Bradley and Terry) and a reference that ignores the draft, the
    best reviser is but another writer. A reference that may keep it lets it keep the good ones.
    """
    rewards = torch.linspace(-3, 3, 60, dtype=torch.float64)
    prefers = (rewards[:, None] - rewards).sigmoid()
    answers, reviser = closed_form(0.1, prefers, keeps)
    reward = [float(answers @ rewards)]
    for _ in range(3):
        answers = answers @ reviser
        reward.append(float(answers @ rewards))
    assert reward[0] > 1  # the reference's is 0
    if keeps:
        assert all(later > before + 0.03 for before, later in itertools.pairwise(reward))
    else:
        assert max(reward[1:]) <= reward[0]


# The trainer.


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_first_loss_is_known_for_any_model_and_data(
    tmp_path: Path, template: str, family: str
) -> None:
    """Only where the reference sees the same views as the policy: (1 - alpha) + alpha / 2."""
    trainer = make(tmp_path, template, tiny.model(family), alpha=0.8, beta=0.3, max_steps=1)
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["loss"] == pytest.approx(0.6, abs=1e-5)
    assert (row["loss/generative"], row["loss/move"], row["loss/stay"]) == pytest.approx(
        (1.0, 0.25, 0.25), abs=1e-5
    )


def by_hand(trainer: SRPOTrainer, model: Any, row: dict[str, Any]) -> dict[str, float]:
    """Score the six sequences of a row of text one by one, without padding or trainer."""
    tokenizer = trainer.processing_class
    views = {
        "chosen": row["prompt"],
        "rejected": row["prompt"],
        "chosen_from_rejected": f"{row['prompt']}({row['rejected']})",
        "rejected_from_rejected": f"{row['prompt']}({row['rejected']})",
        "chosen_from_chosen": f"{row['prompt']}({row['chosen']})",
        "rejected_from_chosen": f"{row['prompt']}({row['chosen']})",
    }
    found = {}
    for name, view in views.items():
        answer = row["chosen"] if name.startswith("chosen") else row["rejected"]
        found[name] = float(tiny.token_logps(model, tokenizer, view, answer).sum())
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_padded_forward_scores_all_six_under_their_own_views(
    tmp_path: Path, template: str, family: str
) -> None:
    """A swap of drafts, completions or blocks would show: all numbers differ by hand."""
    trainer = make(tmp_path, template, tiny.model(family), beta=0.3)
    trainer.train()
    batch = batch_of(trainer)
    with torch.no_grad():
        policy = trainer.policy_scores(trainer.model, batch)
        reference = trainer.reference_scores(batch)
        ratios = trainer._ratios(policy, batch)
    for i, row in enumerate(tiny.pairs().to_list()[:4]):
        ours = dict(zip(SEQUENCES, policy.sums.view(6, -1)[:, i].tolist(), strict=True))
        theirs = dict(zip(SEQUENCES, reference.sums.view(6, -1)[:, i].tolist(), strict=True))
        expected = by_hand(trainer, trainer.model, row)
        assert ours == pytest.approx(expected, abs=1e-3)
        assert theirs == pytest.approx(by_hand(trainer, trainer.ref_model, row), abs=1e-3)
        values = sorted(expected.values())
        assert min(b - a for a, b in itertools.pairwise(values)) > 1e-2
        for name, ratio in ratios.items():
            assert ratio[i].item() == pytest.approx(ours[name] - theirs[name], abs=1e-4)


def test_trainer_loss_is_the_functions_of_the_named_ratios(tmp_path: Path, template: str) -> None:
    trainer = make(tmp_path, template, alpha=0.3, beta=0.2, improvement_reduction="mean")
    trainer.train()
    batch = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    with torch.no_grad():
        r = trainer._ratios(trainer.policy_scores(trainer.model, batch), batch)
    w, l, wl, ll, ww, lw = (  # noqa: E741
        r[name]
        for name in (
            "chosen",
            "rejected",
            "chosen_from_rejected",
            "rejected_from_rejected",
            "chosen_from_chosen",
            "rejected_from_chosen",
        )
    )
    generative = (1 - 0.2 * (wl + w - lw - l)).square()
    improvement = (0.5 - 0.2 * (wl - ll)).square() + (0.5 - 0.2 * (ww - lw)).square()
    expected = (0.7 * generative + 0.3 * 0.5 * improvement).mean()
    torch.testing.assert_close(loss.detach(), expected)
    swapped = (0.7 * (1 - 0.2 * (lw + w - wl - l)).square() + 0.15 * improvement).mean()
    assert (expected - swapped).abs() > 1e-3


def test_both_roles_are_learned(tmp_path: Path, template: str) -> None:
    trainer = make(tmp_path, template, max_steps=40, learning_rate=3e-3)
    trainer.train()
    row = [row for row in trainer.state.log_history if "loss" in row][-1]
    for name in ("rewards/accuracies", "revision/moves", "revision/stays"):
        assert row[name] == 1.0
    assert row["loss"] < 0.2


def test_detaching_the_improver_leaves_the_plain_view_its_gradient(
    tmp_path: Path, template: str
) -> None:
    """The generative loss with both revisions' ratios as constants, the other one as ever."""
    trainer = make(tmp_path, template, detach_improver=True, alpha=0.5, beta=0.3)
    trainer.train()
    batch = batch_of(trainer)

    def gradient(*, detached: bool) -> Tensor:
        r = trainer._ratios(trainer.policy_scores(trainer.model, batch), batch)
        wl, lw = r["chosen_from_rejected"], r["rejected_from_chosen"]
        across = (wl - lw).detach() if detached else wl - lw
        generative = (1 - 0.3 * (across + r["chosen"] - r["rejected"])).square()
        move = (0.5 - 0.3 * (wl - r["rejected_from_rejected"])).square()
        stay = (0.5 - 0.3 * (r["chosen_from_chosen"] - lw)).square()
        return flat_gradient(trainer, (0.5 * generative + 0.5 * (move + stay)).mean())

    found = flat_gradient(trainer, trainer.compute_loss(trainer.model, batch))
    torch.testing.assert_close(found, gradient(detached=True), rtol=1e-3, atol=1e-4)
    assert (found - gradient(detached=False)).abs().max() > 1e-2


def flat_gradient(trainer: SRPOTrainer, loss: Tensor) -> Tensor:
    gradients = torch.autograd.grad(loss, list(trainer.model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_length_normalised_ratios_are_per_token(tmp_path: Path, template: str) -> None:
    trainer = make(tmp_path, template, length_normalize=True)
    trainer.train()
    batch = batch_of(trainer)
    with torch.no_grad():
        policy = trainer.policy_scores(trainer.model, batch)
        reference = trainer.reference_scores(batch)
        ratios = trainer._ratios(policy, batch)
    lengths = torch.tensor([len(trainer.train_dataset[i]["chosen_ids"]) for i in range(4)])
    expected = (policy.sums - reference.sums).view(6, -1)[0] / lengths
    torch.testing.assert_close(ratios["chosen"], expected)


def test_reference_computed_beforehand_gives_the_same_losses(tmp_path: Path, template: str) -> None:
    plain = make(tmp_path / "a", template)
    beforehand = make(tmp_path / "b", template, precompute_ref_log_probs=True)
    assert beforehand.ref_model is None
    assert len(beforehand.train_dataset[0]["ref_logps"]) == 6
    plain.train()
    beforehand.train()
    assert tiny.losses(plain) == pytest.approx(tiny.losses(beforehand), abs=1e-5)
    assert tiny.losses(plain)[-1] < 0.58


def test_completions_have_the_same_ids_under_every_view(tmp_path: Path) -> None:
    trainer = make(tmp_path, "chat", dataset=tiny.chats(), max_length=None)
    tokenizer = trainer.processing_class
    row, source = trainer.train_dataset[0], tiny.chats()[0]
    assert tokenizer.decode(row["chosen_ids"]) == source["chosen"][0]["content"] + "<end>"
    assert row["prompt_ids"] == encode_prompt(tokenizer, source["prompt"])
    draft = source["rejected"][0]["content"]
    shown = CHAT.revise(source["prompt"], draft)
    assert row["draft_rejected_ids"] == encode_prompt(tokenizer, shown)
    assert draft in tokenizer.decode(row["draft_rejected_ids"])
    assert draft not in tokenizer.decode(row["draft_chosen_ids"])
    batch = trainer.data_collator([row])
    for i, (prompt, answer) in enumerate(SEQUENCES.values()):
        end = int(batch["attention_mask"][i].sum())
        assert batch["input_ids"][i, :end].tolist() == row[prompt] + row[answer]
        assert int(batch["completion_mask"][i].sum()) == len(row[answer])


def sentencepiece() -> PreTrainedTokenizerFast:
    """In the manner of Llama 2: a mark for spaces, one put before every text; "bc" is one token."""
    characters = [*tiny.LETTERS, "\u2581", ":", "(", ")", "bc"]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *characters])}
    inner = Tokenizer(BPE(vocabulary, [("b", "c")], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.mark.parametrize(
    ("prompt", "completion", "tokens"),
    [
        ("ab:", "de", ["d", "e", "<eos>"]),  # no space before it, though alone it would have one
        ("ab:", " de", ["\u2581", "d", "e", "<eos>"]),
        ("ab", "cd", ["\u2581", "c", "d", "<eos>"]),  # "bc" would be one token: taken alone
    ],
)
def test_completions_of_texts_are_tokenised_behind_their_prompt(
    prompt: str, completion: str, tokens: list[str]
) -> None:
    tokenizer = sentencepiece()
    row = {"prompt": prompt, "chosen": completion, "rejected": "e"}
    encoded = EncodePair(tokenizer, tiny.SHORT)(row)
    assert tokenizer.convert_ids_to_tokens(encoded["chosen_ids"]) == tokens


def test_drafts_of_texts_are_shown_without_the_end_token(tmp_path: Path, template: str) -> None:
    data = Dataset.from_list([{"prompt": "ab:", "chosen": "aa<eos>", "rejected": "bb"}] * 4)
    trainer = make(tmp_path, template, dataset=data)
    row = trainer.train_dataset[0]
    decode = trainer.processing_class.decode
    assert decode(row["draft_chosen_ids"]) == "ab:(aa)"
    assert (decode(row["chosen_ids"]), decode(row["rejected_ids"])) == ("aa<eos>", "bb<eos>")


def test_long_rows_are_left_out_and_none_is_cut(
    tmp_path: Path, template: str, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 24
    trainer = make(tmp_path, template, max_length=limit)
    assert 0 < len(trainer.train_dataset) < 16
    assert all(longest(row) <= limit for row in trainer.train_dataset)
    assert f"of 16 rows of the train dataset exceed max_length {limit}" in caplog.text
    with pytest.raises(DatasetError, match="every row"):
        make(tmp_path, template, max_length=3)


def test_implicit_prompts_are_found(tmp_path: Path, template: str) -> None:
    rows = [
        {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}
        for row in tiny.pairs().to_list()
    ]
    trainer = make(tmp_path, template, dataset=Dataset.from_list(rows))
    assert (
        trainer.train_dataset[0]["prompt_ids"]
        == make(tmp_path, template).train_dataset[0]["prompt_ids"]
    )


def test_template_is_saved_with_model_and_checkpoints(tmp_path: Path, template: str) -> None:
    trainer = make(tmp_path, template, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    for folder in (tmp_path / "model", tmp_path / "out" / "checkpoint-2"):
        assert RevisionTemplate.load(folder) == tiny.SHORT


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"improvement_reduction": "max"}, "improvement_reduction"),
        ({"loss_type": ["ipo"]}, "loss_type"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"f_divergence_type": "forward_kl"}, "f_divergence_type"),
        ({"sync_ref_model": True}, "sync_ref_model"),
        ({"truncation_mode": "keep_end"}, "truncation_mode"),
        ({"pad_token": "<unk>"}, "pad_token"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingsError, match=f"setting {named} must be"):
        SRPOConfig(**tiny.settings(tmp_path, **changes))
