"""The words around a number: units, currencies, multipliers, signs and operators."""

from __future__ import annotations

UNITS = frozenset(
    ["mm", "cm", "dm", "m", "km", "µm", "μm", "um", "nm", "in", "ft", "yd", "mi", "g", "mg", "kg", "µg", "lb", "lbs", "oz", "t", "s", "sec", "secs", "ms", "ns", "min", "mins", "h", "hr", "hrs", "d", "wk", "yr", "yrs", "ml", "mL", "l", "L", "dl", "cl", "gal", "mph", "kph", "kmh", "Hz", "kHz", "MHz", "GHz", "N", "kN", "J", "kJ", "MJ", "W", "kW", "MW", "kWh", "Wh", "V", "mV", "kV", "A", "mA", "A", "K", "Pa", "kPa", "hPa", "MPa", "bar", "atm", "C", "F", "mol", "mmol", "cal", "kcal", "eV", "keV", "MeV", "rad", "deg", "px", "pt", "B", "kB", "KB", "MB", "GB", "TB", "bit", "bits", "byte", "bytes", "ha", "Ω", "ohm", "dB", "rpm", "ppm", "pp", "am", "pm", "AM", "PM"]
)
CURRENCIES = frozenset(
    ["USD", "EUR", "GBP", "CNY", "RMB", "JPY", "INR", "CHF", "CAD", "AUD", "NZD", "HKD", "SGD", "KRW", "BRL", "MXN", "RUB", "TRY", "PLN", "SEK", "NOK", "DKK", "CZK", "HUF", "ZAR", "ILS", "AED", "SAR", "EGP", "THB", "VND", "IDR", "MYR", "PHP", "PKR", "BDT", "LKR", "NGN", "KES", "kr", "zł", "Kč", "Ft", "lei", "руб", "грн", "Rs"]
)
CURRENCY_LETTERS = frozenset(["A", "C", "S", "R", "Z"])
"""A single letter in front of a dollar sign: A$, C$, S$, R$, Z$."""
ORDINALS = frozenset(["st", "nd", "rd", "th"])
PERCENT = frozenset(
    ["percent", "percents", "pct", "percentage", "percentages", "prozent", "pourcent", "procent", "procenten", "procentų", "проценты", "процент", "процента", "процентов", "phần-trăm", "persen"]
)
HUNDRED_WORDS = frozenset(["cent", "ciento", "cento", "sent", "sto"])
"""What follows `per`, `por` or `pour` in a percentage written as two words."""
PER_WORDS = frozenset(["per", "por", "pour", "pro"])
MULTIPLIERS: dict[str, int] = {
    **dict.fromkeys(["hundred", "hundreds"], 10**2),
    **dict.fromkeys(["thousand", "thousands", "tausend", "mille", "mil", "mila", "тысяч", "тысячи", "тысяча"], 10**3),
    **dict.fromkeys(
        ["million", "millions", "millionen", "mio", "millón", "millon", "millones", "milhão", "milhões", "milione", "milioni", "миллион",
         "миллиона", "миллионов", "miljoen", "miljoner", "milyon"], 10**6,
    ),
    **dict.fromkeys(["billion", "billions", "bn", "milliarde", "milliarden", "mrd", "milliard", "milliards", "миллиард", "миллиарда",
                     "миллиардов", "bilhão", "bilhões", "miliardo", "miliardi", "milyar"], 10**9),
    **dict.fromkeys(["trillion", "trillions"], 10**12),
    **dict.fromkeys(["dozen", "dozens"], 12),
    **dict.fromkeys(["lakh", "lakhs", "लाख"], 10**5),
    **dict.fromkeys(["crore", "crores", "करोड़"], 10**7),
}  # fmt: skip
CJK_MULTIPLIERS = {"万": 10**4, "萬": 10**4, "만": 10**4, "亿": 10**8, "億": 10**8, "억": 10**8, "千": 10**3, "百": 10**2}
NEGATIVES = frozenset(["minus", "negative", "moins", "menos", "meno", "минус", "eksi", "مائنس", "سالب", "ऋण"])
CJK_NEGATIVES = ("负", "負", "マイナス", "마이너스", "零下")
OPERATOR_WORDS = frozenset(
    ["times", "plus", "multiplied", "divided", "modulo", "mod", "choose", "squared", "cubed", "factorial", "mal", "geteilt", "fois", "multiplié", "divisé", "veces", "dividido"]
)
FUNCTION_WORDS = frozenset(["sqrt", "log", "ln", "exp", "sin", "cos", "tan", "cot", "sec", "arcsin", "arccos", "arctan", "pi"])
COPULAS = frozenset(
    ["is", "are", "was", "were", "be", "equals", "equal", "makes", "make", "gives", "becomes", "totals", "costs", "leaves", "get", "gets", "got", "has", "have", "ist", "sind", "war", "beträgt", "ergibt", "macht", "lautet", "kostet", "est", "sont", "vaut", "fait", "égale", "donne", "es", "son", "vale", "é", "são", "è", "sono", "vale", "är", "blir", "er", "jest", "wynosi", "je", "равно", "равен", "равна", "будет", "получаем", "to", "adalah", "ialah", "là"]
) - {"to"}
SUBORDINATES = frozenset(
    ["where", "since", "because", "when", "whenever", "if", "as", "which", "while", "given", "using", "considering", "whereas", "although", "though", "assuming", "leaving", "weil", "da", "wobei", "denn", "car", "où", "puisque", "porque", "ya", "donde", "pois", "perché", "dove"]
)
PREPOSITIONS = frozenset(
    ["in", "within", "after", "before", "per", "every", "each", "d'ici", "dans", "après", "nach", "innerhalb", "pro", "por", "en", "après", "después", "dopo", "após", "efter", "za", "przez", "через"]
)
JOINING_WORDS = frozenset(
    ["or", "and", "either", "versus", "vs", "maybe", "perhaps", "possibly", "oder", "und", "vielleicht", "ou", "et", "peut-être", "o", "y", "e", "u", "quizás", "или", "и", "of", "en", "eller", "och", "og", "to", "bis", "til", "lub", "i", "ve", "veya", "或", "或者", "和", "与", "還是", "还是", "または", "または", "と", "또는", "و", "أو", "या", "और"]
)
"""What stands between candidates that are listed."""
NEGATIONS = frozenset(
    ["not", "isn't", "wasn't", "aren't", "cannot", "never", "n't", "neither", "nor", "nicht", "kein", "keine", "pas", "non", "no", "не", "nie", "niet", "inte", "ikke", "não", "不是", "不"]
)
FILLERS = frozenset(
    ["about", "approximately", "approx", "around", "roughly", "exactly", "only", "just", "simply", "equal", "to", "therefore", "thus", "then", "clearly", "indeed", "likely", "definitely", "certainly", "probably", "now", "at", "least", "most", "the", "a", "an", "of", "value", "number", "amount", "total", "sum", "result", "price", "cost", "in", "numerical", "option", "final", "answer", "be", "it", "i", "think", "believe", "that", "this", "all", "together", "x", "ungefähr", "etwa", "genau", "circa", "rund", "environ", "exactement", "unos", "aproximadamente", "cerca", "circa", "примерно", "около", "约", "大约", "约为", "共", "一共", "总共", "也就是", "即", "등", "총", "약", "約", "合計", "全部で", "sure", "for"]
)
"""What may stand between a marker and the answer."""
