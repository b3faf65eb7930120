"""Units, currencies and multipliers behind a number."""

from __future__ import annotations

UNITS = frozenset({
    "mm", "cm", "dm", "m", "km", "µm", "μm", "um", "nm", "in", "ft", "yd", "mi", "g", "mg", "kg", "µg", "lb", "lbs", "oz", "t", "s",
    "sec", "secs", "ms", "ns", "min", "mins", "h", "hr", "hrs", "d", "wk", "yr", "yrs", "ml", "mL", "l", "L", "dl", "cl", "gal", "mph",
    "kph", "kmh", "Hz", "kHz", "MHz", "GHz", "N", "kN", "J", "kJ", "MJ", "W", "kW", "MW", "kWh", "Wh", "V", "mV", "kV", "A", "mA", "K",
    "Pa", "kPa", "hPa", "MPa", "bar", "atm", "C", "F", "mol", "mmol", "cal", "kcal", "eV", "keV", "MeV", "rad", "deg", "px", "pt",     "kB", "KB", "MB", "GB", "TB", "bit", "bits", "byte", "bytes", "ha", "Ω", "kΩ", "MΩ", "µF", "µs", "µA", "µC", "µL", "µW", "µV", "ohm", "dB", "rpm", "ppm", "pp", "am", "pm", "AM", "PM"
})  # fmt: skip
CURRENCIES = frozenset({
    "USD", "EUR", "GBP", "CNY", "RMB", "JPY", "INR", "CHF", "CAD", "AUD", "NZD", "HKD", "SGD", "KRW", "BRL", "MXN", "RUB", "TRY", "PLN",
    "SEK", "NOK", "DKK", "CZK", "HUF", "ZAR", "ILS", "AED", "SAR", "EGP", "THB", "VND", "IDR", "MYR", "PHP", "PKR", "BDT", "LKR", "NGN",
    "KES", "kr", "zł", "Kč", "Ft", "lei", "руб", "грн", "Rs"
})  # fmt: skip
CURRENCY_LETTERS = frozenset(["A", "C", "S", "R", "Z"])
"""A single letter in front of a dollar sign: A$, C$, S$, R$, Z$."""
ORDINALS = frozenset(["st", "nd", "rd", "th"])
PERCENT = frozenset({
    "percent", "percents", "pct", "percentage", "percentages", "prozent", "pourcent", "procent", "procenten", "procentų", "проценты",
    "процент", "процента", "процентов", "phần-trăm", "persen"
})  # fmt: skip
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
CJK_KILO_UNITS = frozenset("克米瓦卡赫帕焦伏升字吨")
"""What makes of 千 or 百 in front of it a part of a unit, as in 千克."""
MEASURES = frozenset({
    "hour", "hours", "minute", "minutes", "second", "seconds", "day", "days", "week", "weeks", "month", "months", "year", "years",
    "foot", "feet", "inch", "inches", "yard", "yards", "mile", "miles", "pound", "pounds", "ounce", "ounces", "dollar", "dollars",
    "cent", "cents", "euro", "euros", "meter", "meters", "metre", "metres", "centimeter", "centimeters", "kilometer", "kilometers",
    "gram", "grams", "stunde", "stunden", "minuten", "sekunden", "tage", "heure", "heures", "jours", "hora", "horas", "minuto",
    "minutos", "ore", "minuti"
})  # fmt: skip
"""Between two numbers these make one quantity of them, 2 hours 30 minutes, which is not read."""
