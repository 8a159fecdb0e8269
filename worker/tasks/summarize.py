"""`text.summarize`: a text of any length in few words."""

import math
from dataclasses import dataclass
from functools import partial

from worker.backends.base import Json, OnChunk
from worker.contracts.text import SummarizeArguments
from worker.errors import InvalidTask, OutputInvalid
from worker.tasks.base import Work, task
from worker.tasks.budget import ASSUMED_CONTEXT, text_budget
from worker.tasks.language import language_of
from worker.tasks.longtext import Steps, at_once, map_calls, split
from worker.tasks.prompts import ask, prompt
from worker.tasks.whole import ask_whole
from worker.tasks.words import count_words, cut_words, drop_cut_end

#: Room for a word in any of the languages, tokens; English needs 1.3, Polish with an English tokenizer 3.
_TOKENS_PER_WORD = 3

_FEWEST_WORDS = 10


@task("text.summarize", SummarizeArguments)
async def summarize(work: Work, arguments: SummarizeArguments) -> Json:
    """The summary and the lengths; see `Summary`."""
    text = await work.read(arguments.text)
    original_length = count_words(text)
    if original_length == 0:
        raise InvalidTask("`text` is empty.", "Send the text to summarise.")
    capabilities = await work.capabilities()
    summarizer = _Summarizer(
        work=work,
        sampling={"temperature": 0.2, **arguments.sampling()},
        language=await language_of(arguments.language, text),
        context=capabilities.context_length or ASSUMED_CONTEXT,
        at_once=at_once(capabilities),
        most_words=min(arguments.max_length, max(_FEWEST_WORDS, original_length // 2)),
    )
    summary = await summarizer.summarize(text)
    summary_length = count_words(summary)
    return {
        "summary": summary,
        "original_length": original_length,
        "summary_length": summary_length,
        "compression_ratio": round(summary_length / original_length, 4),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summarizer:
    """Summarises pieces, joins the summaries and summarises those, until one piece is left.

    Attributes:
        work: the run.
        sampling: sampling fields for the model server.
        language: ISO 639 code of the summary.
        context: tokens of prompt and answer.
        at_once: calls in flight.
        most_words: words of the final summary.
    """

    work: Work
    sampling: Json
    language: str
    context: int
    at_once: int
    most_words: int

    async def summarize(self, text: str) -> str:
        """The summary of a text of any length.

        Raises:
            OutputInvalid: the model says nothing, or does not shorten.
            OutputRunaway: it repeats itself without end.
        """
        steps = Steps(self.work)
        prompt_name = "summarize"
        while True:
            pieces, calls_to_come = await self._cut(text, prompt_name)
            if len(pieces) == 1:
                summary = await self._ask(prompt_name, self.most_words, text, self.work.on_chunk)
                await steps.step()
                return summary
            await steps.expect(len(pieces) + calls_to_come)
            ask_part = partial(self._ask, prompt_name, self._part_words)
            joined = "\n\n".join(await map_calls(pieces, ask_part, self.at_once, steps))
            if len(joined) >= len(text):
                raise OutputInvalid("The model does not shorten the text.", "Use a larger model.")
            text, prompt_name = joined, "combine"

    async def _cut(self, text: str, prompt_name: str) -> tuple[list[str], int]:
        """Pieces that fit one call each, and how many calls there may be after theirs."""
        instructions = prompt(prompt_name, self.language).fill(max_words=self.most_words)
        answer_tokens = max(self._answer_tokens(self.most_words), self._answer_tokens(self._part_words))
        budget = await text_budget(self.work, instructions, answer_tokens, self.context)
        pieces = await split(text, budget, self.work.count_tokens)
        parts_a_call = max(2, budget // self._answer_tokens(self._part_words))
        calls, left = 0, len(pieces)
        while left > 1:
            left = math.ceil(left / parts_a_call)
            calls += left
        return pieces, calls

    async def _ask(self, prompt_name: str, words: int, text: str, on_chunk: OnChunk | None = None) -> str:
        self.work.check_deadline()
        most_tokens = self._answer_tokens(words)
        request = {
            **self.sampling,
            "max_tokens": min(most_tokens, self.sampling.get("max_tokens", most_tokens)),
            "messages": ask(prompt(prompt_name, self.language).fill(max_words=words), text),
        }
        reply = await ask_whole(self.work, request, on_chunk)
        summary = reply.text.strip()
        if not summary:
            raise OutputInvalid("The model answered with nothing.", "Raise max_tokens, or use another model.")
        if reply.finish_reason == "length":
            summary = drop_cut_end(summary)
        return cut_words(summary, words)

    @property
    def _part_words(self) -> int:
        """Words of one piece's summary: few beside the context, so that every round leaves a fraction."""
        return max(30, min(self.most_words, self.context // 20))

    def _answer_tokens(self, words: int) -> int:
        return min(words * _TOKENS_PER_WORD + 32, self.context // 3)
