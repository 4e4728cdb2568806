"""Training data of the bundled pair: documents in four domains, one tokenizer, and streams of tokens. See `train_pair.py`."""

from __future__ import annotations

import ast
import json
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

EOS = "<|endoftext|>"
VOCAB = 1024
CONTEXT = 1024
SHARES = {"gsm8k": 0.36, "mbpp": 0.14, "stdlib": 0.31, "shakespeare": 0.19}  # of the training sequences
SKIPPED_MODULES = re.compile(
    r"/(test|tests|idlelib|site-packages|lib2to3|tkinter|turtledemo|ensurepip|encodings|pydoc_data|"
    r"distutils|msilib|config-[^/]*|__phello__)/|/(turtle|_sysconfigdata[^/]*|_pydecimal)\.py$"
)


def mbpp_documents(task: dict[str, object]) -> Iterator[str]:
    """The task as a function whose docstring holds the text and the examples, and as text + code."""
    text, code = str(task["text"]).strip(), str(task["code"]).replace("\r", "").expandtabs(4)
    tests = [str(test).replace("\r", "") for test in task["test_list"]]  # type: ignore[attr-defined]
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    yield f"# {text}\n{ast.unparse(tree)}\n\n" + "\n".join(tests) + "\n"
    examples = [test.removeprefix("assert ").split(" == ", 1) for test in tests if test.count(" == ") == 1]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    used = [node for node in functions if any(call.startswith(f"{node.name}(") for call, *_ in examples)]
    if not used or ast.get_docstring(used[-1]) is not None:
        return
    doc = "".join(f">>> {call.strip()}\n    {result.strip()}\n    " for call, result in examples)
    used[-1].body.insert(0, ast.Expr(ast.Constant(f" {text}\n    {doc}")))
    source = ast.unparse(tree).replace("\ndef ", "\n\ndef ")
    yield ("from typing import List\n\n\n" if len(text) % 3 == 0 else "") + source + "\n"


def stdlib_documents() -> Iterator[str]:
    """Functions and methods of the standard library, in one normal form (no comments)."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if SKIPPED_MODULES.search(path.as_posix()):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                source = ast.unparse(node)
                if 150 <= len(source) <= 1500 and source.isascii():
                    yield source + "\n"


def shakespeare_documents(text: str) -> Iterator[str]:
    """Runs of whole speeches of at least 1,200 characters."""
    document = ""
    for speech in text.split("\n\n"):
        document += speech.strip("\n") + "\n\n"
        if len(document) >= 1200:
            yield document
            document = ""


def load_documents(data: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Training and validation documents of each domain."""

    def lines(name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines() if line]

    gsm8k = [f"Question: {x['question']}\nAnswer: {x['answer']}\n" for x in lines("gsm8k_train.jsonl")]
    shakespeare = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    documents = {
        "gsm8k": [re.sub(r"<<[^>]*>>", "", text) for text in gsm8k],
        "mbpp": [document for task in lines("mbpp.jsonl") for document in mbpp_documents(task)],
        "stdlib": sorted(set(stdlib_documents())),
        "shakespeare": list(shakespeare_documents(shakespeare[: int(len(shakespeare) * 0.95)])),
    }
    train, held = {}, {}
    for name, texts in documents.items():
        random.Random(0).shuffle(texts)
        cut = max(8, len(texts) // 50)
        held[name], train[name] = texts[:cut], texts[cut:]
    return train, held


def train_tokenizer(documents: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [  # digits and line ends stand alone: a prompt that ends with a line end meets no new token
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    size = 1_000_000  # characters of each domain, so that all shape the vocabulary alike
    tokenizer.train_from_iterator(("".join(texts)[:size] for texts in documents.values()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS, model_max_length=CONTEXT)


class Stream:
    """A domain's documents as one token stream; sequences mostly begin where a document begins."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
        encoded = tokenizer(texts)["input_ids"]
        self.tokens = torch.tensor([token for ids in encoded for token in (0, *ids)])
        self.starts = (self.tokens == 0).nonzero()[:, 0].tolist()

    def sequence(self, rng: random.Random, length: int) -> torch.Tensor:
        start = rng.choice(self.starts) if rng.random() < 0.7 else rng.randrange(len(self.tokens))
        sequence = self.tokens[start : start + length]
        return sequence if len(sequence) == length else self.sequence(rng, length)


def corpus_sequences(streams: dict[str, Stream], rng: random.Random, count: int, length: int) -> torch.Tensor:
    names = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    return torch.stack([streams[name].sequence(rng, length) for name in names])
