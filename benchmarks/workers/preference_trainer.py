"""A trainer of language models that trains a set number of steps whenever it is told to.

The trainer's own loop runs; a callback holds it between turns. Models have random weights and
datasets random words: neither speed nor memory depends on what is learned.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workers.protocol import Job, versions

ROWS = 512


@dataclass(frozen=True)
class PreferenceJob(Job):
    """What one trainer has to do; `algorithm` is such as ``"simpo"``, `transitions` the rows.

    Args:
        library: ``"rlalign"`` or ``"trl"``.
        size: a name in `SIZES`.
        batch: pairs of a step.
        length: tokens at most of prompt and completion together.
        new_tokens: of a completion that HyPO draws.
        checkpointing: recompute activations in the backward pass.
    """

    library: str = "rlalign"
    size: str = "small"
    batch: int = 4
    length: int = 128
    new_tokens: int = 16
    checkpointing: bool = False


# Shapes of Llama models; the two large ones are those of Qwen2.5-0.5B and 1.5B.
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "vocab_size": 16_000,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "0.5b": {
        "vocab_size": 128_000,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5b": {
        "vocab_size": 128_000,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}


def tokenizer(words: int) -> Any:
    """One token a word: w3, w4, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, words)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def dataset(job: PreferenceJob, words: int) -> Any:
    """Pairs whose longer half is between half of `length` and all of it; prompts are a quarter."""
    from datasets import Dataset

    rng = random.Random(job.seed)

    def text(count: int) -> str:
        return " ".join(f"w{rng.randrange(3, words)}" for _ in range(count))

    prompt = job.length // 4
    low, high = job.length // 2 - prompt, job.length - prompt - 1
    return Dataset.from_list(
        [
            {
                "prompt": text(prompt),
                "chosen": " " + text(rng.randint(low, high)) + " <eos>",
                "rejected": " " + text(rng.randint(low, high)) + " <eos>",
            }
            for _ in range(job.transitions)
        ]
    )


def model(job: PreferenceJob) -> Any:
    """A Llama of the job's size with random weights, in bfloat16 on a GPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(job.seed)
    room = max(2048, 2 * job.length)
    config = LlamaConfig(
        **SIZES[job.size],
        max_position_embeddings=room,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    made = LlamaForCausalLM(config)
    return made.to("cuda", torch.bfloat16) if job.device == "cuda" else made


def trainer(job: PreferenceJob, folder: str) -> Any:
    """Set up the job's trainer; all have the same model, data, order and optimiser."""
    settings: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": 1_000_000,
        "per_device_train_batch_size": job.batch,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "max_length": job.length,
        "gradient_checkpointing": job.checkpointing,
        "bf16": job.device == "cuda",
        "use_cpu": job.device == "cpu",
        "seed": job.seed,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    policy = model(job)
    words = SIZES[job.size]["vocab_size"]
    shared = {
        "model": policy,
        "train_dataset": dataset(job, words),
        "processing_class": tokenizer(words),
    }
    if job.library == "trl":
        return _of_trl(job, settings, shared)
    from rlalign.trainers import TRAINERS

    config_class, trainer_class = TRAINERS[job.algorithm]
    if job.algorithm == "hypo":
        settings |= {"max_new_tokens": job.new_tokens, "num_samples": 2}
    if job.algorithm == "srpo":
        settings["max_length"] = None  # with a draft in the prompt rows are longer; all are kept
    if job.algorithm == "simpo":
        settings |= {"beta": 2.0, "gamma_beta_ratio": 0.5}
    return trainer_class(args=config_class(**settings), **shared)


def _of_trl(job: PreferenceJob, settings: dict[str, Any], shared: dict[str, Any]) -> Any:
    if job.algorithm == "dpo":
        import trl

        reference = copy.deepcopy(shared["model"])
        return trl.DPOTrainer(ref_model=reference, args=trl.DPOConfig(**settings), **shared)
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    loss = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}
    return CPOTrainer(args=CPOConfig(**settings, **loss), **shared)


def resident() -> int:
    """Bytes of this process in memory now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


def peak(device: str, before: int) -> int:
    """Most bytes ever: on the GPU those of tensors, on the CPU the process's growth."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def serve() -> None:
    """Set up the job named on the command line, then train as many steps as each line says."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    parser = argparse.ArgumentParser()
    parser.add_argument("job", help="a PreferenceJob as JSON")
    job = PreferenceJob(**json.loads(parser.parse_args().job))
    import torch
    from transformers import TrainerCallback

    import rlalign.trainers.base  # noqa: F401 - so that all have imported the same

    before = resident()

    class Turns(TrainerCallback):  # type: ignore[misc, unused-ignore]
        left = 0
        started: tuple[float, float] | None = None
        steps = 0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.left == 0:
                self.finish()
                line = sys.stdin.readline()
                if not line:
                    control.should_training_stop = True
                    os._exit(0)  # nothing is worth saving
                self.left = self.steps = int(json.loads(line)["updates"])
                self.started = (time.perf_counter(), time.process_time())
            self.left -= 1

        def finish(self) -> None:
            if self.started is None:
                packages = ("torch", "transformers", "trl", "rlalign")
                print(json.dumps({"chunk": 1, "versions": versions(packages)}), file=answers)
                return
            if job.device == "cuda":
                torch.cuda.synchronize()
            wall, cpu = self.started
            answer = {
                "updates": self.steps,
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "parts": {"peak_bytes": peak(job.device, before)},
            }
            print(json.dumps(answer), file=answers)

    with tempfile.TemporaryDirectory() as folder:
        made = trainer(job, folder)
        made.add_callback(Turns())
        made.train()


if __name__ == "__main__":
    serve()
