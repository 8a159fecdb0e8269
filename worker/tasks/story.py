"""`story.continue`: one more turn of a conversation that is remembered."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

from worker.backends.base import Capabilities, Json, Reply
from worker.contracts.story import StoryArguments
from worker.database.line import Key
from worker.database.stories import Ending, Said, Turn
from worker.errors import BackendRejected, ContextLengthExceeded, DeadlineExceeded
from worker.tasks.base import Work, task
from worker.tasks.budget import ASSUMED_CONTEXT, TEMPLATE_TOKENS
from worker.tasks.telling import as_chat, as_text
from worker.tasks.whole import ran_away, runaway
from worker.tasks.window import first_shown

#: Tokens a template puts around a message, at most.
_MARKER_TOKENS = 8
_SMALLEST_ANSWER = 16
#: Messages whose tokens are counted together, the newest first.
_COUNTED_AT_ONCE = 64


@task("story.continue", StoryArguments)
async def continue_story(work: Work, arguments: StoryArguments) -> Json:
    """What the model says to the prompt after all that was said before; both are remembered.

    A turn that fails, is cancelled or runs away leaves nothing. A task delivered again tells the turn that
    it took already.
    """
    key = Key(arguments.options.tenant or "", arguments.session_id)
    # Soft: a server that has read the story reads only what is new.
    work.call = replace(work.call, affinity="\0".join(key))
    async with _turn(work, key) as turn:
        if turn.told is not None:
            work.recall(turn.told.meta)
            text = turn.told.text
        else:
            text = await _take(work, turn, arguments)
    return {"text": text, "session_id": arguments.session_id, "turn": turn.number}


@asynccontextmanager
async def _turn(work: Work, key: Key) -> AsyncIterator[Turn]:
    """The story, once it is this task's turn."""
    deadline = work.call.deadline
    async with AsyncExitStack() as entered:
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                turn = await entered.enter_async_context(
                    work.tools.stories.turn(key, work.call.task_id or str(uuid4()))
                )
        except TimeoutError:
            raise DeadlineExceeded(
                f"Other turns of story {key.session!r} came first, and options.deadline_s passed meanwhile."
            ) from None
        yield turn


async def _take(work: Work, turn: Turn, arguments: StoryArguments) -> str:
    """Ask the model, write the turn, and return the answer.

    Raises:
        ContextLengthExceeded: the prompt and the instructions alone leave no room for an answer.
        OutputRunaway: the answer repeats itself without end.
    """
    capabilities = await work.capabilities()
    counted = await _count(work, turn, arguments, capabilities.context_length or ASSUMED_CONTEXT)
    layout = arguments.template if arguments.template != "auto" else turn.story.layout
    layout = layout or ("plain" if capabilities.chat_template is False else "chat")
    try:
        first, reply = await _ask(work, counted, arguments, capabilities, layout)
    except BackendRejected as error:
        if layout == "plain" or arguments.template == "chat" or "chat template" not in str(error).lower():
            raise
        layout = "plain"  # it is a base model, and only now says so
        first, reply = await _ask(work, counted, arguments, capabilities, layout)
    if ran_away(reply):
        raise runaway(reply)
    # A model may be cut off in the middle of a character, and no database takes half of one.
    text = reply.text.encode("utf-8", "replace").decode().replace("\0", "")
    answer = Said("assistant", text, await _length(work, reply))
    meta = work.meta()
    ending = Ending(
        said=(counted.prompt, answer),
        meta={name: meta[name] for name in ("model", "usage", "finish_reason")},
        story={
            "system": counted.system.content,
            "system_tokens": counted.system.tokens,
            "layout": layout,
            "kept_from": first,
        },
        counted=counted.found,
    )
    await work.tools.stories.finish(turn, ending)
    return answer.content


@dataclass(frozen=True, slots=True)
class _Counted:
    """What there is to be shown, and its tokens.

    Attributes:
        system: the instructions; "" for none.
        earlier: what was said, from the first turn that may be shown.
        prompt: what is said now.
        kept_from: the first turn shown last time.
        found: tokens of earlier messages that were not known, by their ids.
    """

    system: Said
    earlier: Sequence[Said]
    prompt: Said
    kept_from: int
    found: dict[int, int]


async def _count(work: Work, turn: Turn, arguments: StoryArguments, context: int) -> _Counted:
    """Count what is new, and of what was imported only as much as can be shown."""
    story = turn.story
    system = Said("system", story.system, story.system_tokens)
    if arguments.system is not None and arguments.system != story.system:
        system = Said("system", arguments.system)
    unknown = [system] if system.content and not system.tokens else []
    *of_system, of_prompt = await work.count_tokens([*(one.content for one in unknown), arguments.prompt])
    if of_system:
        system = system._replace(tokens=of_system[0])
    earlier, found = list(turn.messages), dict[int, int]()
    total, end = 0, len(earlier)
    while end and total <= context:
        begin = max(0, end - _COUNTED_AT_ONCE)
        missing = [
            index for index in range(begin, end) if earlier[index].content and not earlier[index].tokens
        ]
        for index, tokens in zip(
            missing, await work.count_tokens([earlier[index].content for index in missing]), strict=True
        ):
            earlier[index] = earlier[index]._replace(tokens=tokens)
            found[earlier[index].id] = tokens
        total += sum(one.tokens for one in earlier[begin:end])
        end = begin
    # What lies before cannot be shown: beyond it the context is full.
    beyond = earlier[end - 1].turn + 1 if end else 0
    return _Counted(
        system,
        [one for one in earlier if one.turn >= beyond],
        Said("user", arguments.prompt, of_prompt),
        max(story.kept_from, beyond),
        found,
    )


async def _ask(
    work: Work, counted: _Counted, arguments: StoryArguments, capabilities: Capabilities, layout: str
) -> tuple[int, Reply]:
    """Ask with as much of the story as fits; returns the first turn that was shown, and the answer.

    A server that finds it longer than we counted is shown less, as long as there is less to show.
    """
    context = capabilities.context_length or ASSUMED_CONTEXT
    turns: Counter[int] = Counter()
    for one in counted.earlier:
        turns[one.turn] += one.tokens + _MARKER_TOKENS
    fixed = TEMPLATE_TOKENS + counted.system.tokens + counted.prompt.tokens + 2 * _MARKER_TOKENS
    # A quarter of the context is enough to go on with: the last turn stays, however long answers may be.
    room = max(0, context - fixed - min(arguments.max_tokens, context // 4))
    while True:
        first = first_shown(turns, counted.kept_from, room)
        shown = sum(tokens for number, tokens in turns.items() if number >= first)
        left = min(context - fixed - shown, context // 2)
        if left < _SMALLEST_ANSWER and capabilities.context_length is not None:
            raise ContextLengthExceeded(
                f"The prompt has {counted.prompt.tokens:,} tokens, the story's instructions "
                f"{counted.system.tokens:,}, the model's context {context:,}."
            )
        said = [*(one for one in counted.earlier if one.turn >= first), counted.prompt]
        most = min(arguments.max_tokens, max(left, _SMALLEST_ANSWER))
        request = {**arguments.sampling(), "max_tokens": most}
        try:
            if layout == "plain":
                request["prompt"] = as_text(counted.system.content, said)
                return first, await work.complete(request, work.on_chunk)
            request["messages"] = as_chat(counted.system.content, said)
            return first, await work.chat(request, work.on_chunk)
        except ContextLengthExceeded:
            if len(said) == 1:
                raise
            room = shown // 2


async def _length(work: Work, reply: Reply) -> int:
    """Tokens of an answer; without those of its reasoning, which is not shown again."""
    thought = reply.body["choices"][0]["message"].get("reasoning_content")
    if (tokens := reply.usage.get("completion_tokens")) and not thought:
        return tokens
    return (await work.count_tokens([reply.text]))[0]
