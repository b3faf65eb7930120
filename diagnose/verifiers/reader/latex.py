"""Write a mathematical expression in the LaTeX that math-verify parses: signs, fonts, numbers in groups, mixed numbers, digits that repeat."""

from __future__ import annotations

import re
import unicodedata

from posttrain.diagnose.verifiers.reader.characters import REPEATING, repeating_fraction

_SIGNS = {
    ord("π"): "\\pi ", ord("∞"): "\\infty ", ord("≤"): "\\le ", ord("≥"): "\\ge ", ord("≠"): "\\ne ", ord("±"): "\\pm ", ord("×"): "\\times ",
    ord("·"): "\\cdot ", ord("÷"): "\\div ", ord("∪"): "\\cup ", ord("∩"): "\\cap ", ord("∈"): "\\in ", ord("°"): "^\\circ ", ord("θ"): "\\theta ",
    ord("\N{MINUS SIGN}"): "-", ord("\N{EN DASH}"): "-", ord("\N{FRACTION SLASH}"): "/", ord("~"): " ", ord("\N{CUBE ROOT}"): "\\sqrt[3]",
    **{0x2080 + digit: f"_{{{digit}}}" for digit in range(10)},
}  # fmt: skip
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\))")
_ROOT_OF = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|exp|log|ln)(?=\s*[\d({]|\s+[A-Za-z]\b)"
)
_RAISED = re.compile("[²³¹⁰⁴-⁻ⁿ]+")
_PERCENT = re.compile(r"(?<=[\d}])\s*(?:percent(?:age)?|pct)\b", re.IGNORECASE)
_CUBE_ROOT = re.compile(r"\\sqrt\[3\]\s*(\d+|[A-Za-z])")
_FONT = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit)\s*\{(?=\s*[\\\d-])")
_UPRIGHT = re.compile(r"\\(?:mathrm|operatorname|text)\s*\{\s*([eid])\s*\}")
_TIMES_I = re.compile(r"(?<=[\d})])\s*(?:\*|\\cdot|\\[,; ])\s*i(?![A-Za-z])")
_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_NATURAL = re.compile(r"\\log_\s?\{?e\}?(?![A-Za-z])")
_MIXED = re.compile(r"(?<![\d./^_{,])(\d+)\s+(\d+)\s?/\s?(\d+)(?![\d./])")
_GROUPS = re.compile(
    r"(?<![\d.,^_])(\d{1,3})((?:(?:\\[,;:! ]|[ \N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}])\d{3})+)(?![\d])"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
_ROW_GAP = re.compile(r"\\\\\s*\[-?[\d.]+\s*(?:pt|em|ex|mm|cm)\]")
_DEGREES = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc)\s*(?:\\left)?\(?\s*(-?\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\right)?\)?"
)
_ABOUT = re.compile(r"(?:≈|~|\\approx(?![A-Za-z])|\\sim(?![A-Za-z]))\s*")
_POWER_OF_TEN = re.compile(r"(?<![\w\\.])(\d+\.\d+|\d+(?=[eE][-+]?\d\d))[eE]([-+]?\d+)(?![\w.])")
"""3.1e-5 and 1e-05; 2e-3 may as well be a difference."""
_ONE_TEXT = re.compile(r"\\(?:text|textbf|textnormal|mathrm|mbox)\s*\{([^{}]*\d[^{}]*)\}\.?")
_AND_IN_TEXT = re.compile(r"(?:\s|\\q?quad)*,?\s*\\text\s*\{\s*(?:,\s*(?:and|or)?|and|or)\s*,?\s*\}(?:\s|\\q?quad)*")
_AND = re.compile(r"\s*,?\s+(?:and|or)\s+(?!\})")
_LOGICAL_OR = re.compile(r"(?<=\w)\s*\\(?:lor|vee)(?![A-Za-z])\s*(?=[A-Za-z]\s*=)")
"""Between equations: x = 3 \\lor x = 4."""
_RELATION = re.compile(r"[<>\u2264\u2265]|\\(?:leq?|geq?|lt|gt)(?![A-Za-z])")
_OR = re.compile(r"(?:\s|\\q?quad)*(?:,\s*)?(?:\\text\s*\{\s*or\s*\}|\bor\b|\\lor(?![A-Za-z])|\\vee(?![A-Za-z]))(?:\s|\\q?quad)*")
_LESS = r"(?:<|\u2264|\\leq?(?:slant)?(?![A-Za-z])|\\lt(?![A-Za-z]))"
_PIECE = re.compile(
    rf"(?:(?P<low>[^<>\u2264\u2265,]{{1,60}}?)\s*(?P<left>{_LESS})\s*)?[A-Za-z]\s*(?P<sign>{_LESS}|>|\u2265|\\geq?(?:slant)?(?![A-Za-z])|\\gt(?![A-Za-z]))"
    r"\s*(?P<bound>[^<>\u2264\u2265,]{1,60})"
)
_ROWS = re.compile(r"\\begin\s*\{(aligned|align\*?|gathered|gather\*?|split|equation\*?)\}(.*)\\end\s*\{\1\}", re.DOTALL)


def as_expression(span: str) -> str:
    """Return a part of an answer as one expression: what a text command encloses, the last row of an aligned derivation, a list with commas."""
    span = _PERCENT.sub(r"\\%", span.strip())
    if (enclosed := _ONE_TEXT.fullmatch(span)) is not None:
        span = enclosed[1].strip()
    if (rows := _ROWS.search(span)) is not None:
        span = [row for row in rows[2].split("\\\\") if row.strip()][-1].replace("&", "").strip(" =\n")
    if not _RELATION.search(span):
        span = _LOGICAL_OR.sub(", ", _AND.sub(", ", _AND_IN_TEXT.sub(", ", span)))
    if (about := _ABOUT.match(span)) is not None:
        span = span[about.end() :]
    return span.removesuffix(".") if not span.endswith("..") else span


def as_latex(span: str) -> str:
    """Write signs and numbers that are no LaTeX as commands: 3√13, 2π, x², 4*x**3, 3 1/2, 1 234 567, 3.1e-5."""
    if not span.isascii():
        span = "".join(_fraction_command(character) for character in span)
    span = REPEATING.sub(_repeating, _GROUPS.sub(lambda match: match[1] + re.sub(r"\D", "", match[2]), span))
    span = _CUBE_ROOT.sub(r"\\sqrt[3]{\g<1>}", _ROOT.sub(r"\\sqrt{\g<1>\g<2>}", span.translate(_SIGNS)))
    span = _RAISED.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match[0]).translate(_SIGNS)}}}", span)
    span = _DEGREES.sub(r"\\\1(\\frac{\2\\pi}{180})", _ROW_GAP.sub(r"\\\\", _TIMES_TEN.sub(r" \\times ", span)))
    span = _TIMES_I.sub("i", _UPRIGHT.sub(r"\1", _FONT.sub("{", span)))
    span = (
        _MIXED.sub(_mixed, _POWER_OF_TEN.sub(r"\1 \\times 10^{\2}", span)).replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
    )
    span = _NATURAL.sub(r"\\ln ", _PI.sub(r"\\pi ", span))
    return _FUNCTION.sub(r"\\\g<0>", _ROOT_OF.sub(r"\\sqrt{\g<1>}", span)).replace("**", "^")


def _fraction_command(character: str) -> str:
    if character.isascii() or not unicodedata.decomposition(character).startswith("<fraction>"):
        return character
    top, _, bottom = unicodedata.normalize("NFKC", character).partition("\N{FRACTION SLASH}")
    return rf"\frac{{{top}}}{{{bottom}}}" if bottom else character


def _repeating(match: re.Match[str]) -> str:
    fraction = repeating_fraction(match)
    return match[0] if fraction is None else rf"{match['sign'] or ''}\frac{{{fraction[0]}}}{{{fraction[1]}}}"


def _mixed(match: re.Match[str]) -> str:
    return rf"{match[1]}\frac{{{match[2]}}}{{{match[3]}}}" if 0 < int(match[2]) < int(match[3]) else match[0]


def as_intervals(span: str) -> str | None:
    """Return inequalities that "or" joins as a union of intervals: x < -1 or x > 2; None where it is something else."""
    parts = _OR.split(span)
    pieces = [_PIECE.fullmatch(part.strip(" $")) for part in parts]
    intervals = [_interval(piece) for piece in pieces if piece is not None]
    return r" \cup ".join(intervals) if len(parts) > 1 and len(intervals) == len(parts) else None


def _interval(piece: re.Match[str]) -> str:
    """Return the values that one inequality, or two around a variable, leave."""
    closed = "e" in piece["sign"] or piece["sign"] in "\u2264\u2265"
    if piece["sign"][:2] in (">", "\\g") or piece["sign"] == "\u2265":
        return rf"{'[' if closed else '('}{piece['bound']}, \infty)"
    low = (
        r"(-\infty"
        if piece["low"] is None
        else ("[" if "e" in piece["left"] or piece["left"] == "\u2264" else "(") + piece["low"]
    )
    return f"{low}, {piece['bound']}{']' if closed else ')'}"
