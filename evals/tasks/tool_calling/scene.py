"""Draws tool-calling scenes.

The context names five tools and the arguments each takes here, in this order; a verb asks for one of them.
The call repeats the tool's arguments in the order of its signature, with the values of the request.
"""

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, distinct
from evals.tasks.words import ARGUMENTS, TOOLS

_TOOLS_AT_HAND = 4
_OPENINGS = ("please", "now", "i want", "can you")
_WRONG = 3


def draw_tool_calling(draw: Draw) -> Scene:
    """Draw some tools; each question is one request of a user."""
    tools = draw.sample(tuple(TOOLS), count=_TOOLS_AT_HAND)
    signatures = {tool: draw.sample(tuple(ARGUMENTS), count=2 + draw.below(2)) for tool in tools}
    listed = " ; ".join(f"{tool} ( {' '.join(arguments)} )" for tool, arguments in signatures.items())

    def ask(draw: Draw, form: Form) -> Question:
        tool = draw.pick(tools)
        signature = signatures[tool]
        values = {argument: draw.pick(ARGUMENTS[argument]) for argument in signature}
        said = list(values.items())
        if draw.chance(0.5):
            extra = draw.other(tuple(ARGUMENTS), than=signature)
            said.append((extra, draw.pick(ARGUMENTS[extra])))
        wish = " ".join(f"{argument} {value}" for argument, value in draw.shuffle(said))
        text = f"user : {wish} {draw.pick(_OPENINGS)} {draw.pick(TOOLS[tool])}"
        answer = _call(tool, signature, values)
        if form == "generate":
            return Question(text, answer)
        return Question(
            text, answer, _spoil(draw, tool=tool, tools=tools, signature=signature, values=values)
        )

    return Scene(f"tools {listed} .", ask)


def _call(tool: str, signature: list[str], values: dict[str, str]) -> str:
    return " ".join([tool, *(f"{argument} {values[argument]}" for argument in signature)])


def _spoil(
    draw: Draw, *, tool: str, tools: list[str], signature: list[str], values: dict[str, str]
) -> tuple[str, ...]:
    """Calls of the same length that are wrong in the tool, in the order, or in a value."""
    changed = draw.pick(signature)
    other_value = draw.other(ARGUMENTS[changed], than=[values[changed]])
    candidates = [
        _call(draw.other(tools, than=[tool]), signature, values),
        _call(tool, [signature[1], signature[0], *signature[2:]], values),
        _call(tool, signature, values | {changed: other_value}),
    ]
    return distinct(_call(tool, signature, values), candidates, count=_WRONG)
