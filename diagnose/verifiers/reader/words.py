"""Words around a number: signs, operators, verbs that equate, conjunctions, fillers."""

from __future__ import annotations

NEGATIVES = frozenset({
    "minus", "negative", "moins", "menos", "meno", "минус", "eksi", "مائنس", "سالب", "ऋण"
})  # fmt: skip
CJK_NEGATIVES = ("负", "負", "マイナス", "마이너스", "零下")
OPERATOR_WORDS = frozenset({
    "times", "plus", "multiplied", "divided", "modulo", "mod", "choose", "squared", "cubed", "factorial", "mal", "geteilt", "fois",
    "multiplié", "divisé", "veces", "dividido"
})  # fmt: skip
FUNCTION_WORDS = frozenset({
    "sqrt", "log", "ln", "exp", "sin", "cos", "tan", "cot", "sec", "arcsin", "arccos", "arctan", "pi"
})  # fmt: skip
COPULAS = frozenset({
    "is", "are", "was", "were", "be", "equals", "equal", "makes", "make", "gives", "becomes", "totals", "costs", "leaves", "get",
    "gets", "got", "has", "have", "ist", "sind", "war", "beträgt", "ergibt", "macht", "lautet", "kostet", "est", "sont", "vaut", "fait",
    "égale", "donne", "es", "son", "vale", "é", "são", "è", "sono", "är", "blir", "er", "jest", "wynosi", "je", "равно", "равен",
    "равна", "будет", "получаем", "adalah", "ialah", "là"
})  # fmt: skip
SUBORDINATES = frozenset({
    "where", "since", "because", "when", "whenever", "if", "as", "which", "while", "given", "using", "considering", "whereas",
    "although", "though", "assuming", "leaving", "weil", "da", "wobei", "denn", "car", "où", "puisque", "porque", "ya", "donde", "pois",
    "perché", "dove"
})  # fmt: skip
PREPOSITIONS = frozenset({
    "in", "within", "after", "before", "per", "every", "each", "d'ici", "dans", "après", "nach", "innerhalb", "pro", "por", "en",
    "después", "dopo", "após", "efter", "za", "przez", "через"
})  # fmt: skip
JOINING_WORDS = frozenset({
    "or", "and", "either", "versus", "vs", "maybe", "perhaps", "possibly", "oder", "und", "vielleicht", "ou", "et", "peut-être", "o",
    "y", "e", "u", "quizás", "или", "и", "of", "en", "eller", "och", "og", "to", "bis", "til", "lub", "i", "ve", "veya", "或", "或者", "和",
    "与", "還是", "还是", "または", "と", "또는", "و", "أو", "या", "और"
})  # fmt: skip
"""What stands between candidates that are listed."""
NEGATIONS = frozenset({
    "not", "isn't", "wasn't", "aren't", "cannot", "never", "n't", "neither", "nor", "nicht", "kein", "keine", "pas", "non", "no", "не",
    "nie", "niet", "inte", "ikke", "não", "不是", "不"
})  # fmt: skip
COMPARATIVES = frozenset(
    ["more", "less", "fewer", "greater", "larger", "bigger", "higher", "lower", "smaller", "rather", "other"]
)
"""In front of `than` these say that the value is not the one that follows."""
FILLERS = frozenset({
    "about", "approximately", "approx", "around", "roughly", "exactly", "only", "just", "simply", "equal", "to", "therefore", "thus",
    "then", "clearly", "indeed", "likely", "definitely", "certainly", "probably", "now", "at", "least", "most", "the", "a", "an", "of",
    "value", "number", "amount", "total", "sum", "result", "price", "cost", "in", "numerical", "option", "final", "answer", "be", "it",
    "i", "think", "believe", "that", "this", "all", "together", "x", "ungefähr", "etwa", "genau", "circa", "rund", "environ",
    "exactement", "unos", "aproximadamente", "cerca", "примерно", "около", "约", "大约", "约为", "共", "一共", "总共", "也就是", "即", "등", "총", "약",
    "約", "合計", "全部で", "sure", "for"
})  # fmt: skip
"""What may stand between a marker and the answer."""
