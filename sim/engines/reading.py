"""Reads files and folders of engines and benchmark tools as runs, each by the reader of what it holds.

What a file is, is told from its content; the summaries of a sweep alone are known by their names. Unknown content is refused
with a list of what is read. A folder is read with all folders in it, in the order of names; by-products of a sweep (summaries,
warm-ups, notes of failed runs) and files of other kinds (pictures, scripts) are passed over there, and refused where they are
named themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.engines.files import Found, documents, text_of
from sim.engines.guidellm import is_guidellm, read_guidellm
from sim.engines.logs import is_sglang_log, is_vllm_log, read_sglang_log, read_vllm_log
from sim.engines.prometheus import prefix_of, read_scrapes
from sim.engines.run import EngineRun, EngineRuns
from sim.engines.scrapes import Scrape, in_pairs, parsed
from sim.engines.sglang import (
    is_sglang_bench,
    is_sglang_response,
    read_sglang_bench,
    read_sglang_responses,
)
from sim.engines.stated import Stated
from sim.engines.table import is_table, read_table
from sim.engines.vllm_bench import is_sweep_failure, is_vllm_bench, is_warm_up, read_vllm_bench
from sim.engines.vllm_requests import is_vllm_response, read_vllm_responses
from specdec.errors import InputError

READ = (
    "JSON of vllm bench serve or vllm bench sweep, GuideLLM or SGLang's bench_serving; two scrapes of /metrics; responses with "
    "acceptance metrics; logs of vLLM or SGLang; a CSV table of runs; what specdec import wrote"
)
JSON = re.compile(r"\s*(\{|\[\s*[\[{\]])")
"""How JSON begins that holds objects; a line of a log may begin with `[`, too."""
SUFFIXES = (".json", ".jsonl", ".csv", ".prom", ".txt", ".metrics", ".log", ".out", ".gz")
"""Files of a folder that are looked at."""
SUMMARIES = ("summary.json", "summary.csv")
"""Names of what a sweep writes over all its runs."""


def read_runs(paths: Sequence[Path | str], **known: Any) -> tuple[EngineRun, ...]:
    """The runs in these files and folders, in their order; `known` are the fields of `Stated`, what the files do not say.

    Scrapes of metrics are taken in pairs, the earlier first. Raises `InputError` for what cannot be read, by its name.
    """
    stated = Stated(**known)
    reader = _Reader(stated)
    for path in map(Path, paths):
        if path.is_dir():
            reader.folder(path)
        else:
            reader.file(path)
    runs = (*reader.runs, *(read_scrapes(pair, stated) for pair in in_pairs(reader.scrapes, prefix_of)))
    if not runs:
        raise InputError(f"no path is given: give files or folders with {READ}")
    stated.check_used(runs)
    return tuple(runs)


@dataclass
class _Reader:
    """What was read so far."""

    stated: Stated
    runs: list[EngineRun] = field(default_factory=list[EngineRun])
    scrapes: list[Scrape] = field(default_factory=list[Scrape])

    def folder(self, path: Path) -> None:
        files = [one for one in sorted(path.rglob("*")) if one.is_file() and one.suffix.lower() in SUFFIXES]
        before = len(self.runs) + len(self.scrapes)
        for one in files:
            text = text_of(one)
            if not _by_product(one, text):
                self.text(text, one)
        if len(self.runs) + len(self.scrapes) == before:
            raise InputError(f"{path} holds no run: give a folder with {READ}")

    def file(self, path: Path) -> None:
        if path.name in SUMMARIES:
            raise InputError(
                f"{path} is the summary of a sweep, which repeats its runs: give the folder, or the files of the runs"
            )
        self.text(text_of(path), path)

    def text(self, text: str, path: Path) -> None:
        """Read a text by the reader of what it holds."""
        source = str(path)
        if JSON.match(text):
            self.runs += self._json(documents(text, source), source)
        elif is_table(text):
            self.runs += read_table(text, source, self.stated)
        elif is_vllm_log(text):
            self.runs.append(read_vllm_log(text, source, self.stated))
        elif is_sglang_log(text):
            self.runs += read_sglang_log(text, source, self.stated)
        elif _is_scrape(text):
            self.scrapes.append(parsed(text, source))
        else:
            raise InputError(f"{source} is of no known kind: give {READ}")

    def _json(self, found: list[tuple[str, Any]], source: str) -> Iterator[EngineRun]:
        """The runs of the JSON objects of a file; responses become one run."""
        if not found:
            raise InputError(f"{source} is an empty list: the run that should have written it failed")
        responses = [Found(where, one) for where, one in found if isinstance(one, dict)]
        if len(responses) == len(found) and all(is_vllm_response(one.values) for one in responses):
            yield read_vllm_responses(responses, self.stated)
        elif len(responses) == len(found) and all(is_sglang_response(one.values) for one in responses):
            yield read_sglang_responses(responses, self.stated)
        else:
            for where, one in found:
                yield from self._object(one, where)

    def _object(self, one: Any, where: str) -> Iterator[EngineRun]:
        values = one if isinstance(one, dict) else {}
        found = Found(where, values)
        if values.get("format") == EngineRuns.format:
            runs = EngineRuns.from_dict(values, where).runs
            if not runs:
                raise InputError(f"{where} holds no run: give a file with {READ}")
            yield from map(self.stated.again, runs)
        elif is_guidellm(values):
            yield from read_guidellm(found, self.stated)
        elif is_sglang_bench(values):
            yield read_sglang_bench(found, self.stated)
        elif is_sweep_failure(values):
            raise InputError(f"{where} is the note of a run that failed ({values['error_type']}): repeat the run")
        elif is_warm_up(values):
            raise InputError(f"{where} is the warm-up of a sweep, and no measurement: give the runs that follow it")
        elif is_vllm_bench(values):
            yield read_vllm_bench(found, self.stated)
        else:
            raise InputError(f"{where} is JSON of no known kind: give {READ}")


def _is_scrape(text: str) -> bool:
    """Whether the first line that is no remark is a sample of a Prometheus scrape."""
    line = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    name, _, rest = line.strip().partition("{")
    return bool(rest) or (len(name.split()) in (2, 3) and name.split()[0].replace(":", "_").isidentifier())


def _by_product(path: Path, text: str) -> bool:
    """Whether a sweep wrote this beside its runs: a summary that repeats them, a warm-up, or the note of a failed run."""
    if path.name in SUMMARIES:
        return True
    if not JSON.match(text):
        return False
    found = next((one for _, one in documents(text, str(path))), None)
    return isinstance(found, dict) and (is_sweep_failure(found) or is_warm_up(found))
