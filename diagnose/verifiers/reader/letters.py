"""Find the letters of options that a text states as its answer, and tell them from words and from options that are only mentioned."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from posttrain.diagnose.verifiers.reader.answer_reading import read_answer, read_number
from posttrain.diagnose.verifiers.reader.characters import DRESS, plain
from posttrain.diagnose.verifiers.reader.statements import Statement, StatementKind, find_statements

_MOST_CHARACTERS = 60_000
_OPEN = rf"[\s*(\[{{\"'{DRESS}<_]{{0,9}}"
_CLOSE = rf"[ \t*)\]}}\"'{DRESS}>_]{{0,9}}"
_BOLD = re.compile(r"(?:\*\*|__)[ \t]?\(?([A-Z])\)?[.:)]?[ \t]?(?:\*\*|__)")
_FILLERS = (
    r"the|(?-i:an?)|option|options|choice|letter|answer|correct|right|best|one|is|are|be|it|it's|its|that|this|would|could|might|may|should|must|for sure|surely"
    r"|definitely|clearly|obviously|certainly|probably|likely|most|indeed|simply|therefore|thus|then|hence|so|i think|i believe|i guess"
    r"|i would say|i'd say|i'm going with|i choose|we choose|of|l'option|la|le|el|die|das|antwort|option|variante|opción|opção|opzione"
    r"|lettre|lettera|letra|buchstabe|réponse|respuesta|вариант|буква|вариант ответа|alternativa|alternative|phương án|pilihan|opsi"
)
_SCRIPT_FILLERS = "选项|選項|选择|选|選|選択肢|应该是|是|为|の?選択肢"
_LEAD = re.compile(rf"(?:{_OPEN}(?:(?:{_FILLERS})(?![^\W\d_])|{_SCRIPT_FILLERS})[ \t,:：]{{0,4}}){{0,8}}", re.IGNORECASE)
_LETTER = re.compile(rf"{_OPEN}([A-Za-z])(?!'?[A-Za-z0-9_\u00c0-\u024f])({_CLOSE})")
_CONNECTIVE = (
    r"because|since|as|is|are|and|or|which|for|with|due|based|but|given|by|from|where|while|not|non|nicht|car|parce|puisque|weil|denn|da"
    r"|rather|instead|only|when|if|among|şıkkı|seçeneği|porque|pues|perché|poiché|und|oder|et|ou|y|o|e|according|in|on|here|therefore|so|although|though|потому|так"
)
_FOLLOWS_A_LETTER = re.compile(
    rf"$|\n|[.,;:!)\]/&\u2014\u2013-]|\(|[A-Z0-9]|(?:{_CONNECTIVE})(?![^\W\d_])|[\u0400-\u04ff\u0590-\u06ff\u0900-\u0dff\u3040-\u9fff\uac00-\ud7af]"
)
_JOIN = re.compile(
    rf"{_CLOSE}(?:[ \t]?[,/;&+|][ \t]?|[ \t](?=(?:and|or)\b))(?:\s?(?:and|or|und|oder|et|ou|y|o|e)\s)?|{_CLOSE}[ \t](?:und|oder|et|ou|y|o)[ \t]|[ \t]?[和或与、][ \t]?|{_CLOSE}[ \t](?=[A-Z](?:[^A-Za-z0-9' ]|$))"
)
_BUT = re.compile(r"(?<![^\W\d_])(?:but|rather|instead|sondern|mais|sino|而是)(?![^\W\d_])", re.IGNORECASE)
_TICKS = "\u2705\u2713\u2714\u2611"
_CROSSES = "\u274c\u2717\u2718\u274e"
_BULLETS = rf"⇒∴=>\u2794\u27a1\u25ba\u25b6\U0001f449\U0001f3af\ufe0f{_TICKS}"
"""Signs that point at an answer."""
_TICKED = re.compile(rf"[^\n]{{0,200}}[{_TICKS}]")
_LINE = re.compile(
    rf"^[ \t>#*_\"'{DRESS}{{{_BULLETS}-]{{0,9}}(?:(?:option|choice|answer)[ \t]+)?[(\[]?([A-Za-z])(?P<mark>[ \t*_\"'{DRESS}}}]{{0,4}}(?:[.):\]](?![A-Za-z0-9])|[ \t]{{1,2}}[-\u2013\u2014](?=[ \t])))",
    re.I | re.M,
)
_LINE_ALONE = re.compile(
    rf"^[ \t>#*_\"'{DRESS}{{{_BULLETS}(\[-]{{0,9}}(?:(?:option|choice)[ \t]+)?[(\[]?([A-Z])[ \t*_\"'{DRESS}}})\].]{{0,9}}$", re.M
)
_LINE_NAME = re.compile(
    r"\A\s*(?:([B-HJ-Z])(?:[ \t]+(?=[A-Z][a-z]|[0-9])|(?=[\u3040-\u9fff\uac00-\ud7af]))|([A-HJ-Z]),?[ \t]+(?=(?:because|since|as|not)\b))"
)
_NEXT_MARK = re.compile(r"[ \t,;/|]*(?:or|and)?[ \t]*\(?([A-Z])[).](?![A-Za-z0-9])")
_VERDICT = re.compile(
    r"(?<![^\W\d_])(?:(?P<no>incorrect|wrong|false|untrue|(?:not|n't)[ ](?:\w+[ ])?(?:correct|true|right))|correct|right|true)(?![^\W\d_])",
    re.IGNORECASE,
)
_IN_ONE_LINE = re.compile(r"[^.;:!?()\n]{1,60}[ \t]\(?B[).][ \t]")
_REMARK = re.compile(r"\([^()\n]{1,80}|[=/][ \t][^\n]{1,80}")
"""Behind a letter alone, what stands for its option: `B (London`, with the bracket at the end taken off."""
_INITIAL = re.compile(r"\s*[A-Z]\.")
_INLINE = re.compile(r"\(([A-Z])\)")
_STANDING = re.compile(r"(?<![A-Za-z0-9'\u00c0-\u024f])([A-Z])(?![A-Za-z0-9'\u00c0-\u024f])")
_VERB = re.compile(
    r"(?<![^\W\d_])(?:it(?:'s| is| must be| has to be| should be| would be)|(?:must|has to|should) be|that leaves(?: us with)?"
    r"|(?:i|we)(?:'d| would|'ll| will|'m| am| are)? ?(?:choose|pick|select|go with|going with|say|conclude|chose|picked|selected)"
    r"|(?:is|matches|corresponds (?:to|with)|supports|describes|points to)(?: the)?(?: answer)? (?:option|choice)"
    r"|(?:option|choice|statement)(?: (?!not\b|wrong|false|incorrect|isn)[a-z']{2,}){1,6} is"
    r"|(?:correct|true|right|best|accurate|valid) (?:statement|description|conclusion|one|sentence|explanation|reason|definition|response) (?:is|would be)"
    r"|(?:choice|option|letter|alternativ[ea]|opción|opção|opzione|вариант(?: ответа)?|pilihan|opsi|phương án)(?: corr[ea]t?t?[ao]?)?[\"']?(?: is| was| would be| must be| es| est| ist| é(?: a)?|:)"
    r"|(?:key|solution|response|prediction|label|output|final|verdict|conclusion)[\"']?:|leaves(?: us with)?(?: only)?"
    r"|(?:choose|pick|select|go with|going with)|so,?|thus,?|hence,?|therefore,?|es ist|c'est|je choisis|elijo|es la|ich wähle|chọn)(?=[\s(\[*\"'])"
    r"|(?<!不)(?:故选|应选|應選|选择|选项[是为]|选)\s?:?(?=\s?[(\[]?[a-zA-Z])"
)
"""In lower case: without case a pattern of many words takes twice as long."""
_IS_RIGHT = re.compile(
    rf"(?<![A-Za-z0-9'])([A-Z]){_CLOSE}[ \t]?(?:(?:is|must be|would be|seems(?: to be)?|looks)[ \t]+(?:(?:the|clearly|definitely|indeed|therefore|only|most|more|one)[ \t]+)*"
    r"(?:correct|valid|right|true|answer|best|accurate|appropriate|likely|better)\b(?!(?:[ \t]+\w+){0,3}[ \t]+if\b)"
    r"|(?:ist|est|es|é|è|jest|является)[ \t]+(?:(?:die|la|a|o|el|le|il)[ \t]+)?(?:richtig|korrekt|corre[ct]t[aeo]?\b|bonne|prawidłow|poprawn|правильн)"
    r"|(?:选?项)?(?:是|为)?正确|(?:が|は)(?:正しい|正解|正答)|(?:이|가)\s?(?:정답|맞|옳))"
)
_ARE_RIGHT = re.compile(
    rf"(?<![A-Za-z0-9'])((?:[(*]{{0,3}}[A-Z]{_CLOSE}(?:,[ ]?|[ ])(?:(?:and|&)[ ])?){{1,9}}[(*]{{0,3}}[A-Z]{_CLOSE})[ \t]?are[ ](?:both[ ]|all[ ])?(?:correct|right|true)\b"
)
_DOUBTED = re.compile(r"(?:(?:n't|not|never)[ \t](?:think|believe|say|agree)|doubt)(?:[ \t]that)?[ \t]*$", re.IGNORECASE)
_LISTED_BEFORE = re.compile(rf"(?<![A-Za-z0-9'])([A-Z]){_CLOSE}(?:,[ ]?|[ ])(?:(?:and|or|nor)[ ])?[(*]{{0,3}}$")
_NEGATED_BEFORE = re.compile(
    r"(?:\bwhether|\bif|\bnot|n't|\bnever|\bneither|\bnor|\bcannot|\bunlike|\bwithout|\bexcept|\brules? out|\bruled out|\beliminat\w+|\bdiscard\w*|\breject\w*|\bexclud\w+|\bdismiss\w*"
    r"|\bnicht|\bpas|\bkeine?|不是|非)(?:[ \t]+[\w'-]+){0,3}[ \t]*[(\[*\"']{0,3}$",
    re.IGNORECASE,
)
_NEGATED_BEHIND = re.compile(
    rf"[^\n]{{0,200}}[{_CROSSES}]|"
    r"[)\]*\"' \t]{0,4}(?:is|are|was|can|could|does|do|seems|would|has|being|has been|ist|est|es)?[ \t]?(?:also |clearly |probably |definitely )?(?:not\b|n't|wrong|incorrect|false|unproven|impossible|invalid"
    r"|ruled|eliminated|out\b|excluded|discarded|rejected|unlikely|falsch|faux|incorrecta?|no longer|cannot)",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"(?<![^\W\d_])(?:not|no|never|nor|neither|isn t|wasn t|aren t|nicht|pas)(?![^\W\d_])")
_NAME_BEFORE = re.compile(
    r"(?:\b(?:vitamin|vitamine|vitamina|hepatitis|type|grade|class|group|plan|section|figure|fig|appendix|part|point|line|set|matrix|angle|team|room|gate|row|column|level|tier"
    r"|statement|step|case|person|player|box|bag|city|town|station|company|student|group)|[A-Z][a-z]+)[ \t]$",
)


@dataclass(frozen=True, slots=True)
class Stated:
    """Letters that a part of a text states."""

    start: int
    end: int
    letters: frozenset[str]


class LetterReader:
    """Reads the letters of a text.

    Args:
        letters: Those that can be an answer.
        multiple: Whether several letters together are one answer.
        choices: The words of each option, by letter.
    """

    def __init__(self, letters: frozenset[str], *, multiple: bool = False, choices: Mapping[str, str] | None = None) -> None:
        self._letters = letters
        self._multiple = multiple
        self._words = {letter: _words(text) for letter, text in (choices or {}).items() if _words(text)}
        values = {letter: read_answer(text).value for letter, text in (choices or {}).items()}
        self._values = {} if None in values.values() else values
        together = "".join(sorted(letters))
        self._together = re.compile(rf"{_OPEN}([{together}]{{2,{len(letters)}}})(?![A-Za-z0-9'])")

    def read(self, text: str) -> frozenset[str] | None:
        """Return the letters of the last statement; None where there is none, or where several options are offered."""
        clean = _plain(text)
        alone = self._letters_at(clean.strip(), 0, whole=True)
        rest = "" if alone is None else clean.strip()[alone.end :].strip(f" \t\n.,;*:!)]}}\"'{DRESS}-\u2013\u2014")
        if alone is not None and (not rest or (_REMARK.fullmatch(rest) and not _STANDING.search(rest))):
            return self._one(alone.letters)
        explicit = sorted([*self._marked(clean), *self._said(clean)], key=lambda stated: (stated.end, stated.start))
        if explicit:
            last = explicit[-1]
            if self._multiple:
                return _side_by_side(clean, explicit)
            rivals = [
                one for one in explicit if one.letters != last.letters and one.end <= last.start and _is_joined(clean, one, last)
            ]
            return None if rivals else self._one(last.letters)
        found = self._lines(clean)
        if found is None:
            found = frozenset(match[1] for match in self._mentions(clean, _INLINE))
        if found:
            return self._one(found)
        return self._option_named(clean)

    def read_leniently(self, text: str) -> frozenset[str] | None:
        """Return what `read` returns, else the last letter that stands by itself and is no word and not ruled out."""
        strict = self.read(text)
        if strict is not None:
            return strict
        clean = _plain(text)
        for pattern in (_INLINE, _STANDING):
            found = [match[1] for match in self._mentions(clean, pattern)]
            # "A" and "I" are words, too; a reading that takes them for answers would find them everywhere.
            found = [letter for letter in found if pattern is _INLINE or letter not in "AI"]
            if found:
                return frozenset(found[-1])
        return None

    def _one(self, letters: frozenset[str]) -> frozenset[str] | None:
        return letters if self._multiple or len(letters) == 1 else None

    def _marked(self, text: str) -> Iterator[Stated]:
        statements = find_statements(text)[-100:]
        for statement in statements:
            stated = self._letters_of(text, statement)
            if stated is not None:
                end = statement.end if statement.kind is StatementKind.TAG else max(stated.end, statement.begin)
                yield Stated(statement.start, end, stated.letters)

    def _letters_of(self, text: str, statement: Statement) -> Stated | None:
        stop = statement.stop + (text[statement.stop : statement.stop + 1] == "?")
        span = text[:stop]
        found = self._letters_at(span, statement.begin, whole=statement.kind in (StatementKind.BOX, StatementKind.TAG))
        if found is None and self._words:
            named = self._option_named(text[statement.begin : statement.stop], whole=True)
            return None if named is None else Stated(statement.begin, statement.stop, named)
        return found

    def _said(self, text: str) -> Iterator[Stated]:
        lowered = text.lower()
        for match in _VERB.finditer(lowered if len(lowered) == len(text) else text):
            found = self._letters_at(text, match.end())
            if _DOUBTED.search(text, max(0, match.start() - 40), match.start()):
                continue
            # "so a" may name a variable.
            if found is not None and re.search(r"[A-Z]|[(\[]", text[match.end() : found.end]):
                yield Stated(match.start(), found.end, found.letters)
        for match in _IS_RIGHT.finditer(text):
            letter = match[1]
            before = _LISTED_BEFORE.search(text, max(0, match.start() - 40), match.start())
            if (
                before is not None
                and before[1] != letter
                and not _NEGATED_BEFORE.search(text[max(0, before.start() - 40) : before.start()])
            ):
                continue  # none of A, B, C is right
            if letter in self._letters and not _NEGATED_BEFORE.search(text[max(0, match.start() - 40) : match.start()]):
                yield Stated(match.start(), match.end(), frozenset(letter))
        for match in _ARE_RIGHT.finditer(text) if self._multiple else ():
            yield Stated(
                match.start(), match.end(), frozenset(re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", match[1])) & self._letters
            )
        for match in _LINE_ALONE.finditer(text):
            if match[1] in self._letters:
                yield Stated(match.start(), match.end(), frozenset(match[1]))

    def _letters_at(self, text: str, begin: int, *, whole: bool = False) -> Stated | None:
        """Return the letters that stand at an index, behind fillers; None where a word stands there, or a negation."""
        lead = _LEAD.match(text, begin)
        assert lead is not None
        # A filler may be the letter itself ("the answer is a"), so the start is tried, too.
        for start in (lead.end(), begin):
            if self._multiple and (together := self._together.match(text, start)) is not None:
                return Stated(begin, together.end(), frozenset(together[1]))
            found = self._letter_at(text, start, whole=whole)
            if found is not None:
                break
        else:
            corrected = _BUT.search(text, begin, begin + 60)
            rest = text[begin : begin + 60].lstrip(f" \t(*\"'{DRESS}")
            if corrected is None or not re.match(r"(?:not|nicht|pas|no|不是)(?![^\W\d_])", rest, re.IGNORECASE):
                return None
            return self._letters_at(text, corrected.end())
        letters, end = {found[0]}, found[1]
        while (join := _JOIN.match(text, end)) is not None:
            further = self._letter_at(text, join.end())
            if further is None or text[join.end() : further[1]].strip()[:1].islower():
                break
            letters.add(further[0])
            end = further[1]
        return Stated(begin, end, frozenset(letters))

    def _letter_at(self, text: str, start: int, *, whole: bool = False) -> tuple[str, int] | None:
        match = _LETTER.match(text, start)
        if match is None or match[1].upper() not in self._letters:
            return None
        written, end = match[1], match.end()
        behind = text[end : end + 40]
        rest = behind.lstrip(" \t")
        opened = text[match.start() : match.start(1)].strip(" \n\t*\"'")
        enclosed = bool(opened) and bool(match[2].strip())
        if rest.startswith("?") or re.match(r"'|n't", rest):
            return None
        if not (enclosed or _FOLLOWS_A_LETTER.match(rest)):
            return None
        spoken = bool(re.match(r"[a-z]", rest)) and behind[:1] in " \t"
        if written == "I" and re.match(r"[a-z]", rest):
            return None
        if written in "aA" and not enclosed and spoken and not re.match(r"(?:because|since|is|and|or|as|which)\b", rest):
            return None
        if written.islower() and not (enclosed or whole or ")" in match[2]) and re.match(r"[A-Z0-9]", rest):
            return None
        return written.upper(), match.end(1) + len(match[2].rstrip())

    def _lines(self, text: str) -> frozenset[str] | None:
        """Return the letter with which a line begins; several where options are listed; None where no line does."""
        found = []
        for match in _LINE.finditer(text):
            is_initial = _INITIAL.match(text, match.end()) is not None and match["mark"].endswith(".")
            if match[1].upper() in self._letters and not is_initial:
                found.append(match)
        if [match[1] for match in found] == ["A"] and any(match[1] == "B" for match in self._mentions(text, _INLINE)):
            return frozenset("AB")  # (A) Paris (B) Rome
        named = _LINE_NAME.match(text)
        letter = "" if named is None else named[1] or named[2]
        if letter in self._letters and not found:
            return frozenset(letter)
        upper = [match for match in found if match[1].isupper()] or found
        if len(upper) == 1 and (listed := _NEXT_MARK.match(text, upper[0].end())) is not None and listed[1] in self._letters:
            return frozenset((upper[0][1].upper(), listed[1]))
        if [match[1] for match in upper] == ["A"] and _IN_ONE_LINE.match(text, upper[0].end()):
            return None  # A. Paris B. Rome: the options again
        if (
            len(upper) > 1
            and upper[-1][1] in [match[1] for match in upper[:-1]]
            and "\n" not in text[upper[-1].start() :].strip()
        ):
            return frozenset(upper[-1][1].upper())  # the options, and below them one of them again
        right = _only_right(text, upper)
        if right is not None:
            return frozenset(right[1].upper())
        ticked = [match for match in upper if _TICKED.match(text, match.end())]
        kept = {match[1].upper() for match in ticked or upper if not _NEGATED_BEHIND.match(text, match.end())}
        return frozenset(kept) if upper else None

    def _mentions(self, text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - 40) : match.start()]
            before = re.split(r"[.!?;,:\n]", before)[-1]
            if match[1] not in self._letters or _NEGATED_BEFORE.search(before) or _NEGATED_BEHIND.match(text, match.end()):
                continue
            if pattern is _STANDING and _NAME_BEFORE.search(before):
                continue
            yield match

    def _option_named(self, text: str, *, whole: bool = False) -> frozenset[str] | None:
        """Return the option whose words or number a text consists of, or, for a short text, the only one whose words stand in it."""
        if self._values:
            value = read_number(text).value
            same = {letter for letter, number in self._values.items() if number == value}
            return frozenset(same) if len(same) == 1 else None
        lines = [line for line in text.strip().splitlines() if line.strip()]
        ends = {_words(line) for line in (text[-2_000:], *lines[:1], *lines[-1:])}
        same = {letter for letter, words in self._words.items() if words in ends}
        said = _words(text[-2_000:])
        if not same and (whole or len(said.split()) <= 40):
            same = self._named_within(f" {said} ", text)
        return frozenset(same) if len(same) == 1 else None

    def _named_within(self, said: str, text: str) -> set[str]:
        """Return the options whose words stand in a text and are not denied."""
        inside = {letter for letter, words in self._words.items() if f" {words} " in said}
        if len(inside) == 1 and re.match(rf"\W*{re.escape(self._words[min(inside)])}[,.;:!]", text.casefold()):
            return inside  # No, it is not.
        denied = {letter for letter in inside if f" not {self._words[letter]} " in said}
        inside -= denied
        for letter in denied if inside else ():  # London, not Paris
            said = said.replace(f" not {self._words[letter]} ", " ")
        if _DENIAL.search(said):
            return set()
        # "New York" stands in "New York City": the longest counts.
        return {
            one
            for one in inside
            if not any(f" {self._words[one]} " in f" {self._words[other]} " and one != other for other in inside)
        }


def _plain(text: str) -> str:
    return plain(_BOLD.sub(r" (\1) ", text[-_MOST_CHARACTERS:]))


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text[:400]).casefold()))


def _only_right(text: str, lines: Sequence[re.Match[str]]) -> re.Match[str] | None:
    """Return the line of an option that is called right in it, where all others are called wrong in theirs."""
    right = []
    for place, line in enumerate(lines):
        stop = lines[place + 1].start() if place + 1 < len(lines) else text.find("\n\n", line.end())
        verdicts = list(_VERDICT.finditer(text, line.end(), stop if stop >= 0 else len(text)))
        if not verdicts:
            return None
        right += [line] if verdicts[-1]["no"] is None else []
    return right[0] if len(lines) > 1 and len(right) == 1 else None


def _side_by_side(text: str, stated: Sequence[Stated]) -> frozenset[str]:
    """Return the letters of the last statement, with those of the ones right before it: boxes or lines of their own."""
    first, letters = stated[-1], stated[-1].letters
    for one in reversed(stated[:-1]):
        if one.end <= first.start and _is_joined(text, one, first):
            first, letters = one, letters | one.letters
    return letters


def _is_joined(text: str, first: Stated, second: Stated) -> bool:
    """Return whether nothing but a list's separators and the words of a marker stand between two statements."""
    between = text[first.end : second.start]
    return (
        len(between) < 40
        and re.fullmatch(
            rf"(?:[\s,;|/:.()\[\]{{}}\"'{DRESS}*-]|\b(?:or|and|either|the|final|maybe|perhaps|possibly|also|my|correct|option|choice)\b)*",
            between,
            re.IGNORECASE,
        )
        is not None
    )


def choices_by_letter(metadata: Mapping[str, object]) -> dict[str, str]:
    """Return the options of a problem by letter, from `choices`: a list of texts, an object of letters, or `{text: [...], label: [...]}`."""
    choices = metadata.get("choices")
    if isinstance(choices, Mapping) and isinstance(choices.get("text"), Sequence) and not isinstance(choices.get("text"), str):
        texts = [str(text) for text in choices["text"]]
        labels = choices.get("label")
        names = [str(label) for label in labels] if isinstance(labels, Sequence) and len(labels) == len(texts) else []
        if not all(len(name) == 1 and name.isalpha() for name in names):
            names = []
        return dict(zip([name.upper() for name in names] or _ALPHABET, texts, strict=False))
    if isinstance(choices, Mapping):
        return {str(letter).upper(): str(text) for letter, text in choices.items() if len(str(letter)) == 1}
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        return dict(zip(_ALPHABET, map(str, choices), strict=False))
    return {}


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
