"""Processes as hypothesis draws them: labels that every format has reasons to trip over."""

from hypothesis import strategies as st

from worker.diagrams.process import KINDS, Arrow, Process, Step

NASTY = [
    "end", "start", "subgraph", "graph TD", "a --> b", "-->", "|yes|", '"quoted"', "'single'", "`code`", "[box]", "{brace}",
    "(round)", "a;b", "%% comment", "%%{init}%%", "#35;", "#quot;", "&amp;", "&lt;b&gt;", "<b>bold</b>", "<br>", "line\nbreak",
    "two\n\nlines", "\\n", "back\\slash", "zażółć gęślą jaźń", "日本語", "🚀", "1. first", "- item", "# head", "* star *",
    "_under_", "state", "@startuml", "@enduml", "endif", "stop", "if (x) then (y)", ": colon", "a : b", "|lane|", "|",
    "<U+0041>", "<<start>>", "::: ends", "]]>", "<!-- -->", "\t tab ", "fa:fa-user", "s1", "r1", "http://x.example/?a=b&c=d", "'",
    "/' x '/", "\\", "$x$", "~~~", "..", "--", "==", "!include x", "}", "{", "50%", "end note", "x@{ shape: diam }",
]  # fmt: skip
text = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=30),
    st.lists(st.sampled_from(NASTY), min_size=1, max_size=4).map(" ".join),
)


@st.composite
def processes(draw: st.DrawFn) -> Process:
    count = draw(st.integers(min_value=1, max_value=8))
    roles = [*draw(st.lists(text, max_size=3)), ""]
    arrows = st.lists(st.builds(Arrow, st.integers(1, count), st.one_of(st.just(""), text)), max_size=3)
    steps = [
        Step(draw(text), draw(st.sampled_from(roles)), draw(st.sampled_from(KINDS)), tuple(draw(arrows)))
        for _ in range(count)
    ]
    return Process.of(steps)
