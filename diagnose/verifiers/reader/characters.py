r"""Write a text in the characters and signs of one grammar: digits of any script, LaTeX commands, markdown, typographic signs."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 200_000
"""Of a longer text only the end is read: an answer stands there, and reading must not take long."""
DRESS = "\u00a4"
"""Stands for a dollar sign and for the marks that begin and end a formula: nothing that changes a value."""
THIN = "\u2009"
"""Stands for every blank that groups digits and breaks no line."""
VULGAR = "\ue000"
"""Stands before a fraction that was one character, so that `3½` is a mixed number and not 31/2."""

_SPACES_IN_NUMBERS = "\u00a0\u202f\u2009\u2008\u2007\u2006"
_SIGNS = {
    "\u2212": "-", "\ufe63": "-", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2044": "/", "\u2215": "/",
    "\u066a": "%", "\ufe6a": "%", "\u066b": ".", "\u066c": ",", "\u060c": ", ", "\u3001": ", ", "\u3002": ". ", "\uff61": ". ",
    "\u0964": ". ", "\u0965": ". ", "\u06d4": ". ", "\u061f": "?", "\u22c5": "·", "\u2219": "·", "\u2715": "×", "\u2716": "×",
    "\u2a2f": "×", "\u2243": "≈", "\u2245": "≈", "\u2252": "≈", "\u2248": "≈", "\u2266": "≤", "\u2a7d": "≤", "\u2267": "≥",
    "\u2a7e": "≥", "\u00ba": "°", "\u02da": "°", "\u2018": "'", "\u2019": "'", "\u201b": "'", "\u201c": '"', "\u201d": '"',
    "\u201e": '"', "\u2026": "...", "\u2192": "⇒", "\u27f9": "⇒", "\u3010": "[", "\u3011": "]", "\u300c": '"', "\u300d": '"',
    "$": DRESS, "`": " ", "\u2234": " ", "\u220e": " ",
}  # fmt: skip


class _Characters(dict[int, str | int]):
    """Map code points, those not seen before by their Unicode properties."""

    def __missing__(self, code: int) -> str | int:
        self[code] = mapped = _map_character(chr(code))
        return mapped


def _map_character(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character in _SPACES_IN_NUMBERS:
        return THIN
    if "\uff01" <= character <= "\uff5e":  # full width
        plain = chr(ord(character) - 0xFEE0)
        return _SIGNS.get(plain, f"{plain} " if plain in ",;:!?" else plain)
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Cf":
        return ""
    if category == "Zs":
        return " "
    decomposed = unicodedata.decomposition(character)
    if decomposed.startswith("<fraction>"):
        fraction = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
        return VULGAR + fraction if fraction[-1:].isdigit() else character
    if decomposed.startswith("<circle>") and unicodedata.normalize("NFKC", character).isalpha():
        return unicodedata.normalize("NFKC", character)
    return character


_CHARACTERS = _Characters((code, code) for code in range(128) if chr(code) not in "$`")

_SUPERSCRIPTS = {ord(raised): plain for raised, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ₀₁₂₃₄₅₆₇₈₉", "0123456789+-ni0123456789", strict=True)}
_RAISED_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})/([₀₁₂₃₄₅₆₇₈₉]{1,9})")
_RAISED = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]{1,9})")
_EN_DASH_SIGN = re.compile(rf"\u2013(?=[0-9.{VULGAR}\\{DRESS}])")

_COMMANDS = {
    "times": "×", "cdot": "·", "div": "÷", "ast": "*", "approx": "≈", "simeq": "≈", "cong": "≈", "sim": "≈", "le": "≤", "leq": "≤",
    "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "lt": "<", "gt": ">", "ne": "≠", "neq": "≠", "pm": "±", "mp": "∓",
    "pi": "π", "infty": "∞", "sqrt": "√", "degree": "°", "implies": "⇒", "Rightarrow": "⇒", "rightarrow": "⇒", "to": "⇒",
    "longrightarrow": "⇒", "therefore": " ", "dots": "...", "ldots": "...", "cdots": "...", "percent": "%", "pounds": "£",
    "euro": "€", "equiv": "≡", "quad": " ", "qquad": " ", "newline": "\n", "lbrack": "[", "rbrack": "]", "lbrace": "[",
    "rbrace": "]", "minus": "-", "displaystyle": "", "textstyle": "", "left": "", "right": "", "big": "", "Big": "", "bigl": "",
    "bigr": "", "Bigl": "", "Bigr": "", "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "sfrac": r"\frac",
    "nicefrac": r"\frac", "frac": r"\frac", "over": r"\over", "boxed": r"\boxed", "fbox": r"\boxed", "framebox": r"\boxed",
    "Boxed": r"\boxed", "bf": " ", "rm": " ", "it": " ", "bfseries": " ", "large": " ", "Large": " ", "LARGE": " ", "huge": " ",
    "Huge": " ", "normalsize": " ", "boldmath": " ", "limits": "", "nolimits": "", "textdollar": DRESS, "space": " ",
    "thinspace": THIN, "enspace": " ", "cents": "¢", "Omega": "Ω", "phantom": " ", "underbrace": "", "star": "*", "colon": ":",
}  # fmt: skip
_FONTS = frozenset(
    [
        "mathit",
        "mathsf",
        "mathtt",
        "mathnormal",
        "mathcal",
        "mathbb",
        "mathfrak",
        "bm",
        "boldsymbol",
        "pmb",
        "underline",
        "overline",
        "textcolor",
        "color",
    ]
)
# What is set upright in a formula is a word or a unit and no product with a variable, so a blank separates it.
_UPRIGHT = frozenset(
    [
        "text",
        "textbf",
        "textit",
        "textrm",
        "textsf",
        "texttt",
        "textnormal",
        "textup",
        "textmd",
        "textsc",
        "emph",
        "mathrm",
        "mathbf",
        "mbox",
        "hbox",
        "operatorname",
        "bold",
    ]
)
_ESCAPES = {
    DRESS: DRESS,
    "$": DRESS, "%": "%", "(": DRESS, ")": DRESS, "[": DRESS, "]": DRESS, ",": THIN, " ": THIN, ";": " ", ":": " ", "!": "",
    "{": "[", "}": "]", "_": "_", "&": "&", "#": "#", "*": "*", "-": "-", "\\": "\n", "\n": " ", "/": "", "`": " ", ".": ".",
    "|": "|",
}  # fmt: skip
_COMMAND = re.compile(r"\\(?:(?:text|)color\s?\{[^{}]{0,40}\}|(?:h|v)space\s?\{[^{}]{0,20}\}|([A-Za-z]+)\*?|(.))", re.DOTALL)
_BIG_COMMA = re.compile(r"(?:\\text)?\{([,.])\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end|tag|label|pmod)\s?\{[^{}]{0,20}\}(?:\{[lcr|]{0,9}\})?|\\(?:hline|noindent|item)\b")
_NO_SPACE = re.compile(r"\\!\s{0,9}")
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")
_RAISED_ORDINAL = re.compile(r"(?<=[0-9])\^\s?(?:\{(?:st|nd|rd|th)\}|\{\\text(?:rm)?\{(?:st|nd|rd|th)\}\})")
_CIRCLE = re.compile(r"\^\s?\{\s?\\(?:circ|degree)\s?\}|\^\s?\\(?:circ|degree)\b|\\circ\b")
_TIE = re.compile(r"(?<=[0-9])~(?=[0-9])")
_SOFT_SPACE = re.compile(rf"(?<![0-9]){THIN}|{THIN}(?![0-9])")
_POWER_OF_STARS = re.compile(r"(?<=[0-9)])\s?\*\*\s?(?=[0-9(])")
REPEATING = re.compile(
    r"(?<![0-9.,])(?P<sign>-[ ]?)?(?P<whole>[0-9]{0,5})\.(?:(?P<first>[0-9]{0,6})\\(?:overline|bar|dot)\s?(?:\{\s?(?P<bar>[0-9]{1,6})\s?\}|(?P<bar1>[0-9]))"
    r"|(?P<lined>(?:[0-9]\u0305){1,6})|\((?P<round>[0-9]{1,6})\)|(?P<start>[0-9]{0,6}?)(?:(?P<one>[0-9])(?P=one){2,30}|(?P<more>[0-9]{2,6}?)(?P=more){1,9})"
    r"(?:\.\.\.|\s?\\[lc]?dots(?![A-Za-z])))"
)
"""Digits that go on for ever: under a line, in brackets behind the point, or written several times before an ellipsis."""
_ENDLESS = ("...", "dots", "\\overline", "\\bar", "\\dot", "\u0305", ".(")
"""One of them stands in every such number."""
_SHORT_SCALE = re.compile(r"([$€£]\s?[0-9][0-9,.]{0,20})\s?([kKMB])(?![\w^])(?!\s?[-+*/=^_$\\])")
_SCALES = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion"}
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s?\{\s?\\(?:text|mathrm)\s?\{([A-Za-z ]{1,20})\}\s?\}\s?\{\s?\\(?:text|mathrm)\s?\{([A-Za-z ]{1,20})\}(\^\{?[23]\}?)?\s?\}"
)
_MICRO = re.compile(r"\\mu\s?(?:\\(?:text|mathrm|rm)\s?\{\s?)(?=[mgsFALCWVTH]\b)")
_AND_A_HALF = re.compile(
    r" and (?<=[0-9] and )(?:(?:a|one)[ -])?(half|quarter|third|three[ -](?:quarter|fourth)s)(?![^\W\d_])", re.IGNORECASE
)
_ANGLED = re.compile(r"<[ ]?([-+]?[0-9][0-9.,/ ]{0,20}%?)>")
"""A number in the place of `<your answer>`."""
_SUFFIX = re.compile(r"'(?<=[0-9]')[a-zçğıöşü]{2,5}(?![^\W_])")
"""An ending behind an apostrophe, as in Turkish 18'dir."""
_QUOTED_LINE = re.compile(rf"^[ \t]{{0,3}}>[ \t]?(?=[*A-Za-z\\#{DRESS}])", re.MULTILINE)
_MARKUP = re.compile(
    r"\*{2,}|_{2,}|</?(?:b|i|u|em|strong|mark|code|p|span|div|br|BR|center|big)\s?/?>|</[BIU]>|<[BIU]>(?=[^<>\n]{0,80}</[BIU]>)"
)
"""What sets a text in bold and the like; `<B>` without its end is a letter in the place of `<your answer>`."""


def plain(text: str) -> str:
    r"""Return a text in plain characters.

    Digits become 0 to 9, minus signs `-`, LaTeX commands the signs that they set, fonts and markdown nothing, dollars and the marks
    around a formula `DRESS`. `\frac` and `\boxed` stay, with their variants; other commands stay as they are.
    """
    text = _SHORT_SCALE.sub(lambda match: f"{match[1]} {_SCALES[match[2]]}", text[-MAX_CHARACTERS:]).translate(_CHARACTERS)
    text = _SUFFIX.sub("", _ANGLED.sub(r" \1 ", text))
    if ">" in text:
        text = _QUOTED_LINE.sub("", text.replace("=>", "⇒"))
    if any(sign in text for sign in _ENDLESS):
        text = REPEATING.sub(_repeating, text)
    text = _AND_A_HALF.sub(lambda match: f" {VULGAR}{_PARTS[match[1].lower().split('-')[0].split()[0]]}", text)
    text = _BIG_COMMA.sub(r"\1", _RAISED_ORDINAL.sub("", text))
    text = _CALCULATOR.sub("", text)  # GSM8K writes the way to a number in front of it
    if "\\" in text:
        text = _UNIT_FRACTION.sub(r" \1/\2\3 ", _MICRO.sub("µ{", text))
        text = _CIRCLE.sub("°", _NO_SPACE.sub("", text))
        text = _COMMAND.sub(_command, _ENVIRONMENT.sub(" ", text))
    text = _TIE.sub(THIN, text)
    text = _RAISED_FRACTION.sub(lambda match: f"{VULGAR}{match[1]}/{match[2]}".translate(_SUPERSCRIPTS), text)
    text = _RAISED.sub(lambda match: f"^{{{match[1].translate(_SUPERSCRIPTS)}}}", text)
    text = _EN_DASH_SIGN.sub("-", text)
    text = _SOFT_SPACE.sub(" ", text)
    text = _POWER_OF_STARS.sub("^", text)
    return _MARKUP.sub(" ", text)


_PARTS = {"half": "1/2", "quarter": "1/4", "third": "1/3", "three": "3/4"}


def _repeating(match: re.Match[str]) -> str:
    """Return the fraction that repeating digits are, and where they are written out the rounding that they show."""
    fraction = repeating_fraction(match)
    if fraction is None:
        return match[0]
    top, bottom = fraction
    sign = "-" if match["sign"] else ""
    exact = f"{sign}{VULGAR}{top}/{bottom}"
    if match["one"] is None and match["more"] is None:
        return exact
    num_digits = len(match[0].partition(".")[2].rstrip(".\\lcdots "))
    return f"{exact} ≈ {sign}{top / bottom:.{num_digits}f}"


def repeating_fraction(match: re.Match[str]) -> tuple[int, int] | None:
    """Return numerator and denominator of what `REPEATING` matches, without its sign; None where they have too many digits."""
    again = (
        match["bar"] or match["bar1"] or match["round"] or match["one"] or match["more"] or match["lined"].replace("\u0305", "")
    )
    whole = match["whole"] or "0"
    start = whole + (match["first"] or match["start"] or "")
    top, bottom = int(start + again) - int(start), 10 ** (len(start) - len(whole)) * (10 ** len(again) - 1)
    return None if max(top, bottom) >= 10**9 else (top, bottom)


def _command(match: re.Match[str]) -> str:
    name, sign = match[1], match[2]
    if name is not None:
        if name in _FONTS:
            return ""
        if name in _UPRIGHT:
            return " "
        return _COMMANDS.get(name, match[0])
    return _ESCAPES.get(sign, match[0]) if sign is not None else ""
